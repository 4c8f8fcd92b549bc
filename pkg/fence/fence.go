package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Method is one way to make a former master harmless.
type Method struct {
	Name    string
	Timeout time.Duration
	// Proves: its success proves that the machine is off.
	Proves bool
	// Hosts are the machines of nodes, as this method knows them. A method with
	// NeedsHost is not tried on a node that is not among them.
	Hosts     map[lease.NodeID]string
	NeedsHost bool
	// Act returns when it is done, in words, or why it is not, soon after ctx
	// ends. host is "" for a node that is not among Hosts.
	Act func(ctx context.Context, old ha.FenceTarget, host string) (done string, err error)
}

// Fencer tries methods in order. It implements ha.Fencer.
type Fencer struct{ methods []Method }

var _ ha.Fencer = (*Fencer)(nil)

// New returns a Fencer with these methods.
func New(methods []Method) *Fencer { return &Fencer{methods} }

// Methods are the methods, in order.
func (f *Fencer) Methods() []Method { return f.methods }

// Fence implements ha.Fencer.
func (f *Fencer) Fence(ctx context.Context, old ha.FenceTarget, proof bool) []ha.FenceTry {
	var tries []ha.FenceTry
	for _, m := range f.methods {
		if proof && !m.Proves {
			continue
		}
		t := m.try(ctx, old)
		tries = append(tries, t)
		if t.OK || ctx.Err() != nil {
			break
		}
	}
	return tries
}

func (m Method) try(ctx context.Context, old ha.FenceTarget) ha.FenceTry {
	t := ha.FenceTry{Method: m.Name}
	host, known := m.Hosts[old.Node]
	if m.NeedsHost && !known {
		t.Detail = fmt.Sprintf("fencing.hosts names no machine for %s", old.Node)
		return t
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	done, err := m.Act(ctx, old, host)
	t.Took = time.Since(began)
	switch {
	case err == nil:
		t.OK, t.Off, t.Detail = true, m.Proves, done
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		t.Detail = fmt.Sprintf("not done within %s: %s", m.Timeout, oneLine(err.Error()))
	default:
		t.Detail = oneLine(err.Error())
	}
	return t
}

// Provable lists the nodes whose machines a method can power off with proof, and
// how long all that prove may take together.
func (f *Fencer) Provable() (nodes []lease.NodeID, limit time.Duration) {
	all := map[lease.NodeID]bool{}
	for _, m := range f.methods {
		if !m.Proves {
			continue
		}
		limit += m.Timeout
		for id := range m.Hosts {
			all[id] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), limit
}

// maxDetail bounds what is kept of a method's words, in bytes.
const maxDetail = 300

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return s[max(0, len(s)-maxDetail):]
}
