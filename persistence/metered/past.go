package metered

import (
	"errors"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// kept is how many minutes are remembered.
const kept = 60

// Minute is what became of the calls that ended within one minute.
type Minute struct {
	Age time.Duration // since it began
	Ops map[Op]Calls  // no entry for an operation that was not called
}

// Calls are those of one operation.
type Calls struct {
	Count uint64
	// Failed are those that brought trouble: conflict and absent are answers.
	Failed uint64
	Sum    time.Duration // of all of them together
	Max    time.Duration // the longest
}

// past is a ring of minutes, counted from the first call.
type past struct {
	mu    sync.Mutex
	began time.Time
	ring  [kept]struct {
		number int64 // of the minute, from 1; 0: empty
		ops    map[Op]Calls
	}
}

func (p *past) note(op Op, now time.Time, took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() {
		p.began = now
	}
	number := int64(now.Sub(p.began)/time.Minute) + 1
	slot := &p.ring[number%kept]
	if slot.number != number {
		slot.number, slot.ops = number, map[Op]Calls{}
	}
	c := slot.ops[op]
	c.Count++
	if err != nil && !errors.Is(err, persistence.Conflict) && !errors.Is(err, persistence.Absent) {
		c.Failed++
	}
	c.Sum += took
	c.Max = max(c.Max, took)
	slot.ops[op] = c
}

// Past returns the last hour, newest first. A minute without calls is left out.
func (s *Store) Past() []Minute { return s.past.list(time.Now()) }

func (p *past) list(now time.Time) []Minute {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Minute
	last := int64(now.Sub(p.began)/time.Minute) + 1
	for number := last; number > max(0, last-kept); number-- {
		slot := p.ring[number%kept]
		if slot.number != number {
			continue
		}
		m := Minute{Age: now.Sub(p.began) - time.Duration(number-1)*time.Minute, Ops: map[Op]Calls{}}
		for op, c := range slot.ops {
			m.Ops[op] = c
		}
		out = append(out, m)
	}
	return out
}
