package supervise

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/ha"
)

// health is what is known of one liveness check in the present run.
type health struct {
	fails  int // in a row, but for passes that were too few to make up for them
	passes int // in a row
	last   error
	at     time.Time // of the last try; zero before the first
}

// watched is the outcome of one try of a liveness check.
type watched struct {
	run   uint64
	check int
	err   error
	at    time.Time
}

// watch begins the liveness checks of the present run, which is ready. Each has
// a goroutine of its own, so one that hangs delays no other.
func (s *Supervisor) watch() {
	t := &s.term
	t.health = make([]health, len(s.o.Checks))
	ctx, cancel := context.WithCancel(s.ctx)
	t.stopWatch = cancel
	for i, c := range s.o.Checks {
		run, env := t.run, t.env
		s.wg.Go(func() {
			try := c.trier()
			for pause(ctx, c.Interval) == nil {
				err := try(ctx, env)
				if ctx.Err() != nil {
					return
				}
				select {
				case s.watched <- watched{run, i, err, time.Now()}:
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

func (s *Supervisor) stopWatching() {
	if s.term.stopWatch != nil {
		s.term.stopWatch()
		s.term.stopWatch = nil
	}
}

// watchedOnce judges one try: Fall failures make the service a failed one;
// Rise passes in a row make up for fewer.
func (s *Supervisor) watchedOnce(w watched) {
	t := &s.term
	if !t.active || w.run != t.run || t.stopWatch == nil {
		return
	}
	c, h := s.o.Checks[w.check], &t.health[w.check]
	h.last, h.at = w.err, w.at
	if w.err == nil {
		if h.passes++; h.passes >= c.Rise {
			h.fails = 0
		}
	} else {
		h.fails, h.passes = h.fails+1, 0
		s.o.Log.Warn("a check of the service failed", zap.String("check", c.Name),
			zap.Int("fails", h.fails), zap.Int("fall", c.Fall), zap.Error(w.err))
	}
	if h.fails < c.Fall {
		s.show(s.Info().Phase, s.Info().Pid, s.Info().Detail)
		return
	}
	why := fmt.Sprintf("check %s failed %d times: %v", c.Name, h.fails, w.err)
	if s.failed(why, -1) {
		s.endProcess(ending{why: why, failed: true}, 0)
	}
}

// checks describes the liveness checks for status pages.
func (s *Supervisor) checks() []ha.ServiceCheck {
	var out []ha.ServiceCheck
	for i, c := range s.o.Checks {
		k := ha.ServiceCheck{Name: c.Name, Kind: c.kind(), Fall: c.Fall}
		if i < len(s.term.health) {
			h := s.term.health[i]
			k.At, k.Fails = h.at, h.fails
			if h.last != nil {
				k.Error = h.last.Error()
			}
		}
		out = append(out, k)
	}
	return out
}
