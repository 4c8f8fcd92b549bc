package supervise

import (
	"context"
	"errors"
	"fmt"
)

// prepare has the command made ready and runs it then. Whatever ends the wait
// for the service (the term, an operator) ends this, too.
func (s *Supervisor) prepare(phase string) {
	t := s.term.order.Term
	ctx, cancel := context.WithDeadline(s.ctx, s.term.startedBy)
	s.term.stopCheck = cancel
	s.show(phase, 0, "getting what the service needs")
	s.wg.Go(func() {
		argv, err := s.o.Prepare(ctx)
		s.ask(func() {
			switch {
			case !s.term.active || s.term.order.Term != t || errors.Is(ctx.Err(), context.Canceled):
			case ctx.Err() != nil:
				s.failures++
				s.fail(fmt.Sprintf("what the service needs was not there within startTimeout (%v): %v", s.o.StartTimeout, errors.Join(err, ctx.Err())), -1)
			case err != nil:
				s.failures++
				s.fail("the service can not be started: "+err.Error(), -1)
			default:
				s.cancelChecks()
				s.runArgv(phase, argv)
			}
		})
	})
}
