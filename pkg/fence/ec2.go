package fence

import (
	"context"
	"sync"

	"github.com/understudy-ha/understudy/pkg/ec2"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// EC2Stop is the method that stops the instance, by force: it is done when the
// service describes it as stopped.
func EC2Stop(o ec2.Options) func(context.Context, ha.FenceTarget, string) (string, error) {
	var mu sync.Mutex
	var opened *ec2.Client
	open := func(ctx context.Context) (*ec2.Client, error) {
		mu.Lock()
		defer mu.Unlock()
		if opened == nil {
			c, err := ec2.Open(ctx, o)
			if err != nil {
				return nil, err
			}
			opened = c
		}
		return opened, nil
	}
	return func(ctx context.Context, _ ha.FenceTarget, host string) (string, error) {
		c, err := open(ctx)
		if err != nil {
			return "", err
		}
		state, err := c.PowerOff(ctx, host)
		if err != nil {
			return "", err
		}
		return "the instance " + host + " is " + state, nil
	}
}
