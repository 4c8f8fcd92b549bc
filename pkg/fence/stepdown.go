package fence

import (
	"context"
	"crypto/tls"
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
	"github.com/understudy-ha/understudy/pkg/lease"
)

// stepDownPoll is the time between two looks at a node that steps down.
const stepDownPoll = 100 * time.Millisecond

// Login is how StepDown proves that it may ask.
type Login struct {
	User, PasswordFile string
	CAFile             string // PEM, trusted beside the system's
	// AsNode returns how to reach a node as one of its plane; nil, also from
	// it: there is no way.
	AsNode func(lease.NodeID) *tls.Config
}

// StepDown is the method that asks the former master's REST: it is done when that
// node says that it leads no term, by itself or because it was asked to. Without
// user and CAFile it is asked as one node asks another.
func StepDown(l Login) func(context.Context, ha.FenceTarget, string) (string, error) {
	return func(ctx context.Context, old ha.FenceTarget, host string) (string, error) {
		uri := old.URI
		if strings.Contains(host, "://") {
			uri = host
		}
		if uri == "" {
			return "", errors.New("its address is not known; name it in hosts of this method, https://host:8443")
		}
		c, may, err := l.reach(uri, old.Node)
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
			case !asked && !may:
				return "", errors.New("it still leads, and does not know this node by a key; name a user and a passwordFile to ask it to step down")
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

// reach returns a client, and whether it has anything to prove by that it may ask
// the node to step down.
func (l Login) reach(uri string, node lease.NodeID) (c *client.Client, may bool, err error) {
	opt := client.Options{User: l.User}
	if l.User == "" && l.CAFile == "" && l.AsNode != nil {
		opt.TLS = l.AsNode(node)
	}
	if l.PasswordFile != "" {
		b, err := os.ReadFile(l.PasswordFile)
		if err != nil {
			return nil, false, err
		}
		opt.Password, _, _ = strings.Cut(string(b), "\n")
	}
	if l.CAFile != "" {
		b, err := os.ReadFile(l.CAFile)
		if err != nil {
			return nil, false, err
		}
		opt.CA = b
	}
	c, err = client.New([]string{uri}, opt)
	return c, l.User != "" || opt.TLS != nil, err
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
