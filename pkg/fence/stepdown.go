package fence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/api/client"
	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// stepDownPoll is the time between two looks at a node that steps down.
const stepDownPoll = 100 * time.Millisecond

// StepDown is the method that asks the former master's REST: it is done when that
// node says that it leads no term, by itself or because it was asked to. A
// password is needed to ask it to.
func StepDown(user, passwordFile, caFile string) func(context.Context, ha.FenceTarget, string) (string, error) {
	return func(ctx context.Context, old ha.FenceTarget, host string) (string, error) {
		uri := old.URI
		if strings.Contains(host, "://") {
			uri = host
		}
		if uri == "" {
			return "", errors.New("its address is not known; name it in hosts of this method, https://host:8443")
		}
		c, err := reach(uri, user, passwordFile, caFile)
		if err != nil {
			return "", err
		}
		defer c.Close()
		asked := false
		for {
			leads, err := leading(ctx, c, old)
			switch {
			case err != nil:
				return "", err
			case !leads && asked:
				return "it has stepped down", nil
			case !leads:
				return "it leads no term any more", nil
			case !asked && user == "":
				return "", errors.New("it still leads, and there is no user and passwordFile to ask it to step down")
			case !asked:
				asked = true
				if _, err := c.SetState(ctx, v1.ModeStandby, true); err != nil {
					return "", err
				}
			}
			select {
			case <-time.After(stepDownPoll):
			case <-ctx.Done():
				return "", fmt.Errorf("it still leads: %w", ctx.Err())
			}
		}
	}
}

func reach(uri, user, passwordFile, caFile string) (*client.Client, error) {
	opt := client.Options{User: user}
	if passwordFile != "" {
		b, err := os.ReadFile(passwordFile)
		if err != nil {
			return nil, err
		}
		opt.Password, _, _ = strings.Cut(string(b), "\n")
	}
	if caFile != "" {
		b, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		opt.CA = b
	}
	return client.New([]string{uri}, opt)
}

// leading asks whether the node leads a term. Whoever else answers there says
// nothing of it.
func leading(ctx context.Context, c *client.Client, old ha.FenceTarget) (bool, error) {
	h, err := c.Health(ctx, "/leader")
	if err != nil {
		return false, err
	}
	if h.Node != string(old.Node) {
		return false, fmt.Errorf("%q answers there, not %s", h.Node, old.Node)
	}
	if h.Code == http.StatusOK {
		return true, nil
	}
	rep, err := c.HealthReport(ctx)
	if err == nil && rep.Why != nil && *rep.Why == election.ReasonFencingFailed {
		return false, fmt.Errorf("its service can not be stopped (%s)", *rep.Why)
	}
	return false, err
}
