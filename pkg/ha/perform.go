package ha

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// perform carries out one action. decided is the instant of the Step that
// returned it. Nothing in here blocks.
func (n *Node) perform(ctx context.Context, decided lease.Instant, a election.Action) {
	switch a := a.(type) {
	case election.Read:
		n.bounded(ctx, func(ctx context.Context) election.Event {
			var s persistence.Snapshot
			err := n.timed(func() (err error) {
				s, err = n.store.Read(ctx)
				return err
			})
			return readDone(s, err)
		})
	case election.Write:
		if !a.Value.Held {
			n.ops.leave.releasing(n.opts.Clock(), a.Value.Term)
		}
		n.bounded(ctx, func(ctx context.Context) election.Event {
			if late(n.opts.Clock(), decided, a.Until) {
				return election.WriteDone{WriteID: a.Value.WriteID, Unsent: true, Detail: "its time was over before it could be sent"}
			}
			var v persistence.Version
			err := n.timed(func() (err error) {
				v, err = n.store.CAS(ctx, persistence.Version(a.Old), a.Value.Encode())
				return err
			})
			return writeDone(a.Value.WriteID, v, err)
		})
	case election.ListWhole:
		n.bounded(ctx, func(ctx context.Context) election.Event {
			empty, err := n.store.Empty(ctx)
			if err != nil {
				return election.Listed{Detail: err.Error()}
			}
			return election.Listed{OK: true, Empty: empty, Detail: n.storage.URL}
		})
	case election.Create:
		n.bounded(ctx, func(ctx context.Context) election.Event {
			if err := n.store.Init(ctx, a.Value.Encode()); err != nil {
				return election.BirthDone{Detail: err.Error()}
			}
			return election.BirthDone{}
		})
	case election.Remember:
		n.wait.Go(func() {
			done := election.Remembered{Plane: a.Plane, Term: a.Term}
			if n.opts.Memory != nil {
				if err := n.opts.Memory.Remember(a.Plane, a.Term, n.inc, a.Claim); err != nil {
					done.Failed = err.Error()
				}
			}
			n.send(done)
		})
	case election.Load:
		n.keeper.load(a)
	case election.Settled:
		n.keeper.settle(a)
	case election.Arm:
		n.service.Arm(Deadline{Term: a.Term, T0: a.T0, Stop: a.Stop, Kill: a.Kill, End: a.End})
	case election.Start:
		if late(n.opts.Clock(), decided, a.Until) {
			return // the lease's end comes first and stops what never began
		}
		if !n.fences.hold(ctx, a) {
			n.launch(a)
		}
	case election.Stop:
		n.fences.stop(a.Term)
		n.service.Stop(a.Term, StopReason(a.Why))
	case election.KillGuard:
		n.fences.stop(a.Term)
		n.service.Kill(a.Term, StopReason(a.Why))
	case election.Fence:
		n.fences.begin(ctx, a)
	case election.CancelFence:
		n.fences.end(a.Version)
	case election.NudgePeers:
		if n.opts.Nudge != nil {
			if uris := n.peers.uris(); len(uris) > 0 {
				n.wait.Go(func() { n.opts.Nudge(ctx, uris) })
			}
		}
	case election.Note:
		n.noted(decided, a)
	case election.Quit:
		n.exit = &ExitError{Code: a.Code, Reason: a.Reason}
	}
}

// launch starts the service in its term.
func (n *Node) launch(a election.Start) {
	now := n.opts.Clock()
	n.phases.start(now)
	n.service.Start(StartOrder{
		Term: a.Term, Plane: n.machine.View(now).Plane, Node: n.opts.Node, NodeURI: n.opts.URI,
		PrevState: n.Status().Standing, Reason: a.Reason,
	})
}

// late reports whether limit has passed since decided. The limit 0 never has.
func late(now, decided lease.Instant, limit time.Duration) bool {
	return limit > 0 && now.Longest(decided) >= limit
}

// bounded runs one store operation within the operation timeout and hands its
// outcome to the loop. The store returns by the deadline even if its I/O hangs.
func (n *Node) bounded(ctx context.Context, op func(context.Context) election.Event) {
	n.wait.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, n.opts.Timing.Operation)
		defer cancel()
		n.send(op(ctx))
	})
}

// timed performs one operation on the store and, if it succeeds, keeps how
// long it took.
func (n *Node) timed(op func() error) error {
	from := time.Now()
	err := op()
	if err == nil {
		n.latency.Store(int64(time.Since(from)))
	}
	return err
}

func readDone(s persistence.Snapshot, err error) election.Event {
	switch {
	case err == nil:
		return election.ReadDone{Version: string(s.Version), Value: s.Value}
	case errors.Is(err, persistence.Absent):
		return election.ReadDone{Fault: election.FaultAbsent, Detail: err.Error()}
	case errors.Is(err, persistence.Torn):
		return election.ReadDone{Fault: election.FaultUnreadable, Detail: err.Error()}
	}
	return election.ReadDone{Fault: election.FaultFailed, Detail: err.Error()}
}

func writeDone(id lease.WriteID, v persistence.Version, err error) election.Event {
	if err != nil {
		return election.WriteDone{WriteID: id, Detail: err.Error()}
	}
	return election.WriteDone{WriteID: id, Applied: true, Version: string(v)}
}

// late hands on the outcome of a compare-and-swap whose caller had gone. The
// lease still counts from before it was sent (R3), so it can do no harm.
func (n *Node) late(ctx context.Context, val []byte, v persistence.Version, err error) {
	value, perr := lease.ParseValue(val)
	if perr != nil || err != nil || ctx.Err() != nil {
		return
	}
	select {
	case n.events <- election.WriteDone{WriteID: value.WriteID, Applied: true, Version: string(v)}:
	default: // the loop reads the register anyway
	}
}

func (n *Node) fromService(ev ServiceEvent) election.Event {
	switch ev.Kind {
	case ServiceArmed:
		return election.Armed{Term: ev.Term, T0: ev.T0}
	case ServiceReady:
		return election.Ready{Term: ev.Term}
	case ServiceUnready:
		if !ev.Held {
			n.counts.Restarts++
		}
		return election.Unready{Term: ev.Term}
	case ServiceFailed:
		return election.ServiceFailed{Term: ev.Term, Why: ev.Why}
	case ServiceStopping:
		return election.GuardStopping{Term: ev.Term, Why: ev.Why}
	case ServiceStuck:
		return election.TreeStuck{Term: ev.Term, Why: ev.Why}
	case ServiceEmpty:
		return election.TreeEmpty{Term: ev.Term}
	case ServiceGuardLost:
		return election.GuardLost{Term: ev.Term}
	}
	n.log.Error("unknown service event", zap.Int("kind", int(ev.Kind)))
	return election.Tick{}
}

// mayVerify lets the check of the store begin: its location was seen to hold
// the register, or to be empty. Before that it may be the mount point of a file
// system that is still to come, of which a check would say nothing.
func (n *Node) mayVerify() { n.verifyOnce.Do(func() { close(n.verifyNow) }) }

// goVerify checks the store until it passes (R18). One that can not be reached
// is tried again at the pace of heartbeats, so that the plane recovers with it;
// one that fails the checks more and more slowly, since only an operator can
// repair it.
func (n *Node) goVerify(ctx context.Context) {
	n.wait.Go(func() {
		select {
		case <-n.ops.first:
		case <-ctx.Done():
		}
		if n.opts.Verify == nil {
			n.send(election.Trust{OK: true})
			return
		}
		select {
		case <-n.verifyNow:
		case <-ctx.Done():
		}
		pause := n.opts.Timing.Heartbeat
		silent := false // that the store does not answer was said
		for ctx.Err() == nil {
			err := n.opts.Verify(ctx)
			if err == nil {
				n.send(election.Trust{OK: true})
				return
			}
			wait, why, said := pause, "the store did not pass verification: "+err.Error(), false
			if errors.Is(err, persistence.Unknown) {
				wait, why = n.opts.Timing.Heartbeat, "the store could not be verified yet: "+err.Error()
				said, silent = silent, true
			} else {
				pause = min(2*pause, time.Minute)
			}
			n.send(election.Trust{Why: why})
			if !said && ctx.Err() == nil {
				n.log.Warn("this node may not claim", zap.String("why", why))
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	})
}

// account keeps the store's figures and honours FailFast.
func (n *Node) account(now lease.Instant, ev election.Event) {
	switch ev := ev.(type) {
	case election.ReadDone:
		if ev.Fault == election.FaultFailed {
			n.storeFailed(ev.Detail)
			return
		}
		n.storage.LastRead = now
		n.storeAnswered()
	case election.WriteDone:
		switch {
		case ev.Applied:
			n.counts.Beats++
			n.storage.LastWrite = now
			n.storeAnswered()
		case ev.Unsent:
			n.counts.Unsent++
		default:
			n.counts.Undecided++
		}
	case election.Listed:
		if ev.OK && ev.Empty {
			n.mayVerify()
		}
	case election.Trust:
		n.storage.Verified = ev.OK
	}
}

func (n *Node) storeAnswered() {
	if n.storage.Error != "" {
		n.log.Info("the store answers again", zap.String("store", n.storage.URL))
	}
	n.storage.Error = ""
}

func (n *Node) storeFailed(detail string) {
	if n.storage.Error == "" {
		n.log.Warn("the store does not answer", zap.String("store", n.storage.URL), zap.String("error", detail))
	}
	n.storage.Error = detail
	if n.opts.FailFast && n.storage.LastRead.IsZero() && n.exit == nil {
		n.exit = &ExitError{Code: 4, Reason: "the store can not be reached and ha.failFast is set: " + detail}
	}
}
