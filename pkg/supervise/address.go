package supervise

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/guard"
)

const (
	addressRetry   = 2 * time.Second  // after an address that could not be added
	addressAddTime = 5 * time.Second  // of the run that asks the network and adds it
	announceTime   = 30 * time.Second // of the run that announces it
	removeWithin   = time.Second      // of a removal without a guard
)

// floating is the address in one term.
type floating struct {
	adding   uint64 // the run that adds it, or that did; 0: none
	announce uint64 // the run that announces it
	refused  string // why it is not there, as last said
}

// raise asks for the floating address once the service is ready (G2). A service
// that is restarted in its term has it still.
func (s *Supervisor) raise() {
	if s.o.Floating == nil || s.term.addr.adding != 0 {
		return
	}
	s.term.addr.adding = s.addressRun(address.OpAdd, addressAddTime)
}

func (s *Supervisor) addressRun(op string, limit time.Duration) (id uint64) {
	s.runs++
	s.guard.RunHook(guard.Aux{
		Term: s.term.order.Term, ID: s.runs, Timeout: limit,
		Argv: s.o.Floating.Argv(op, s.o.AddressLifetime),
	})
	return s.runs
}

// addressHeard takes the end of a run of raise and reports whether it was one.
func (s *Supervisor) addressHeard(e guard.Event) bool {
	a := &s.term.addr
	switch {
	case e.Run == 0 || e.Run != a.adding && e.Run != a.announce:
		return false
	case e.Kind != guard.AuxEnded && e.Kind != guard.AuxRefused, !s.term.active:
	case e.Run == a.announce:
		if e.Kind == guard.AuxEnded && e.Exit != address.ExitDone {
			s.o.Log.Warn("the floating address was not announced", zap.String("why", why(e)))
		}
	case e.Kind == guard.AuxEnded && e.Exit == address.ExitDone:
		a.refused = ""
		s.o.Log.Info("floating address added", zap.Stringer("address", s.o.Floating), zap.Uint64("term", uint64(e.Term)))
		s.show(s.Info().Phase, s.Info().Pid, "")
		a.announce = s.addressRun(address.OpAnnounce, announceTime)
	default:
		s.notRaised(why(e))
	}
	return true
}

// notRaised says why there is no address and tries again while the term lasts:
// a former master lets go of it at the end of its lease.
func (s *Supervisor) notRaised(why string) {
	a := &s.term.addr
	if a.refused != why {
		a.refused = why
		s.o.Log.Warn("floating address not added; trying again", zap.Duration("every", addressRetry), zap.String("why", why))
	}
	s.show(s.Info().Phase, s.Info().Pid, "FLOATING_IP: "+why)
	term := s.term.order.Term
	s.wg.Go(func() {
		if pause(s.ctx, addressRetry) != nil {
			return
		}
		s.ask(func() {
			if t := &s.term; t.active && t.order.Term == term && s.guard != nil {
				t.addr.adding = 0
				s.raise()
			}
		})
	})
}

func why(e guard.Event) string {
	if out := strings.TrimSpace(e.Output); out != "" {
		return out
	}
	if e.TimedOut {
		return "it took longer than " + addressAddTime.String()
	}
	return e.Why
}

// lower removes the address of a guard that is gone, before the term is said to
// be over. If the kernel does not answer, the address' lifetime ends it.
func (s *Supervisor) lower() {
	if s.o.Floating == nil {
		return
	}
	removed := make(chan error, 1)
	s.wg.Go(func() { removed <- s.o.Floating.Remove() })
	var err error
	select {
	case err = <-removed:
	case <-time.After(removeWithin):
	}
	if err != nil {
		s.o.Log.Error("floating address", zap.Error(err))
	}
}
