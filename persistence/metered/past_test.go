package metered

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

func TestPast(t *testing.T) {
	var p past
	if got := p.list(time.Now()); len(got) != 0 {
		t.Fatalf("before the first call: %v", got)
	}
	begin := time.Date(2026, 5, 4, 12, 0, 30, 0, time.UTC)
	p.note(Read, begin, time.Millisecond, nil)
	p.note(Read, begin.Add(time.Second), 3*time.Millisecond, persistence.Conflict)
	p.note(CAS, begin.Add(2*time.Minute), time.Second, errors.New("trouble"))
	got := p.list(begin.Add(2*time.Minute + 5*time.Second))
	if len(got) != 2 || got[0].Age != 5*time.Second || got[1].Age != 125*time.Second {
		t.Fatalf("%+v", got)
	}
	if c := got[0].Ops[CAS]; c != (Calls{1, 1, time.Second, time.Second}) {
		t.Errorf("%+v", c)
	}
	if c := got[1].Ops[Read]; c != (Calls{2, 0, 4 * time.Millisecond, 3 * time.Millisecond}) {
		t.Errorf("%+v", c)
	}
	// The ring goes round: an hour later nothing of it is left.
	p.note(Put, begin.Add(kept*time.Minute), time.Millisecond, nil)
	got = p.list(begin.Add(kept * time.Minute))
	if len(got) != 2 || got[0].Ops[Put].Count != 1 || got[1].Ops[CAS].Count != 1 {
		t.Errorf("%+v", got)
	}
	if got := p.list(begin.Add(3 * kept * time.Minute)); len(got) != 0 {
		t.Errorf("hours later: %+v", got)
	}
}
