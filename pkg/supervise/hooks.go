package supervise

import (
	"context"

	"github.com/understudy-ha/understudy/pkg/guard"
)

// RunHook has the guard run a command that belongs to a term (G2), and waits
// for its end: guard.AuxEnded, AuxRefused or AuxStuck. It returns within the
// command's Timeout and a few seconds, or when ctx ends or the supervisor does;
// the command ends with its term then. The ID is drawn here.
func (s *Supervisor) RunHook(ctx context.Context, a guard.Aux) guard.Event {
	ended := make(chan guard.Event, 1)
	s.ask(func() {
		s.runs++
		a.ID = s.runs
		s.hooks[a.ID] = ended
		if s.guard == nil || !s.guard.RunHook(a) {
			s.hookEnded(guard.Event{Kind: guard.AuxRefused, Run: a.ID, Why: "there is no guard process that answers"})
		}
	})
	select {
	case e := <-ended:
		return e
	case <-ctx.Done():
		return guard.Event{Kind: guard.AuxRefused, Why: "nobody waits for it any more"}
	case <-s.done:
		return guard.Event{Kind: guard.AuxRefused, Why: "the guard was ended"}
	}
}

// RunApart runs a command that belongs to no term, see guard.RunApart. It waits
// while this process must have no children.
func (s *Supervisor) RunApart(ctx context.Context, a guard.Aux) guard.Event {
	for s.sole.Load() {
		if pause(ctx, proofEvery) != nil {
			return guard.Event{Kind: guard.AuxRefused, Why: "what a dead guard left is still being looked for"}
		}
	}
	return guard.RunApart(ctx, a)
}

// hookEnded answers whoever waits for an auxiliary run.
func (s *Supervisor) hookEnded(e guard.Event) {
	if ended, ok := s.hooks[e.Run]; ok {
		delete(s.hooks, e.Run)
		ended <- e // one each: never blocks
	}
}

// hooksLost: the guard is gone, and auxiliary runs with it.
func (s *Supervisor) hooksLost(why string) {
	for id := range s.hooks {
		s.hookEnded(guard.Event{Kind: guard.AuxEnded, Run: id, Exit: -1, Why: why})
	}
}
