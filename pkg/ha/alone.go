package ha

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// aloneLease stands for a lease that nobody else can take: mode DISABLED.
const aloneLease = 100 * 365 * 24 * time.Hour

// runAlone is mode DISABLED at start: the service runs here, as MASTER, with no
// records on the store. It is refused while the plane is alive, unless forced.
func (n *Node) runAlone(ctx context.Context) error {
	looks := *n.Status()
	looks.Standing, looks.Detail = lease.StateInitializing, "looking whether the plane is alive"
	n.status.Store(&looks)
	if !n.opts.Force {
		if err := n.refuseIfAlive(ctx); err != nil {
			return err
		}
	}
	term := lease.Term(1)
	if n.opts.Memory != nil {
		plane, t := n.opts.Memory.Recall()
		term = t + 1
		if err := n.opts.Memory.Remember(plane, term, n.inc, true); err != nil {
			return &ExitError{1, "the data directory does not take the term: " + err.Error()}
		}
	}
	t0 := n.opts.Clock()
	n.service.Arm(Deadline{Term: term, T0: t0, Stop: aloneLease, Kill: aloneLease, End: aloneLease})
	show := func(state lease.State, ready bool, why string) {
		now := n.opts.Clock()
		s := *n.Status()
		s.Standing, s.Detail, s.Term, s.Holder, s.HolderOK, s.LoopAt = state, why, term, n.opts.Node, true, now
		s.Reign = &ReignStatus{Term: term, T0: t0, End: aloneLease, Ready: ready, Leading: true, Since: n.started}
		s.Service = n.service.Info()
		n.transition(now, &s)
		s.History, s.Counts = n.history, n.sums()
		s.Nodes = map[lease.NodeID]NodeStatus{n.opts.Node: {NodeRecord: n.recorder.record(&s, now), SeenAt: now}}
		n.status.Store(&s)
		if n.opts.OnStatus != nil {
			n.opts.OnStatus(&s, now)
		}
	}
	show(lease.StateInitializing, false, "starting the service")
	leave := ctx.Done()
	var failed *ExitError
	beat := time.NewTicker(loopLimit)
	defer beat.Stop()
	ready := false
	for {
		select {
		case <-beat.C:
			show(lease.StateInitializing, ready, "")
		case why := <-n.shut:
			n.service.Stop(term, StopReason(why))
		case <-leave:
			leave = nil
			n.service.Stop(term, "asked to stop")
		case ev := <-n.service.Events():
			switch ev.Kind {
			case ServiceArmed:
				n.service.Start(StartOrder{Term: term, Node: n.opts.Node, NodeURI: n.opts.URI, Reason: "high availability is disabled"})
			case ServiceReady:
				ready = true
			case ServiceUnready:
				ready = false
				if !ev.Held {
					n.counts.Restarts++
				}
			case ServiceStopping, ServiceGuardLost:
				ready = false
			case ServiceStuck:
				ready = false
				n.log.Error("stuck", zap.String("detail", ev.Why))
			case ServiceFailed:
				ready, failed = false, &ExitError{1, "the service failed: " + ev.Why}
				n.service.Stop(term, StopReason(ev.Why))
			case ServiceEmpty:
				show(lease.StateTerminated, false, "")
				if failed != nil {
					return failed
				}
				return nil
			}
			show(lease.StateInitializing, ready, ev.Why)
		}
	}
}

// refuseIfAlive watches the register, if there is one, for long enough to see
// whether anybody renews it.
func (n *Node) refuseIfAlive(ctx context.Context) error {
	t := n.opts.Timing
	var first persistence.Version
	began := n.opts.Clock()
	wait := t.ReadGap()
	for n.opts.Clock().Shortest(began) < wait {
		rctx, cancel := context.WithTimeout(ctx, t.Operation)
		s, err := n.store.Read(rctx)
		cancel()
		switch {
		case errors.Is(err, persistence.Absent):
			return nil
		case err != nil:
			return &ExitError{4, fmt.Sprintf("mode DISABLED: whether the plane is alive can not be told (%v); use --force if it surely is not", err)}
		case first == "":
			first = s.Version
			if v, err := lease.ParseValue(s.Value); err == nil && v.Held {
				wait = t.ClaimAfter(v.Lease)
			}
		case s.Version != first:
			v, _ := lease.ParseValue(s.Value)
			return &ExitError{3, fmt.Sprintf("mode DISABLED: the plane is alive, held by %s in term %d; stop it first, or use --force and risk two masters", v.Holder, v.Term)}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.Poll):
		}
	}
	return nil
}
