package election

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever a refusal proposes is legal, each proposal by itself.
func TestProposalsAreLegal(t *testing.T) {
	proposed := 0
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, lo, hi int) time.Duration {
			if rapid.Bool().Draw(t, name+" derived") {
				return 0
			}
			return time.Duration(rapid.IntRange(lo, hi).Draw(t, name)) * time.Millisecond
		}
		r := TimingRequest{Timeout: ms("T", 3000, 60_000), Heartbeat: ms("h", 100, 5000), Operation: ms("o", 200, 8000), Stop: ms("S", 1000, 40_000)}
		_, err := Derive(r)
		var te *TimingError
		if !errors.As(err, &te) {
			return
		}
		_, list, found := strings.Cut(te.Reason, "Nearest legal values: ")
		if !found {
			return
		}
		if list == "" {
			t.Fatalf("%v: nothing is proposed for %+v", te, r)
		}
		for p := range strings.SplitSeq(list, ", or ") {
			key, value, _ := strings.Cut(p, " ")
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatalf("%q: %v", p, err)
			}
			c := r
			switch key {
			case "ha.heartbeatTimeout":
				c.Timeout = d
			case "ha.heartbeatInterval":
				c.Heartbeat = d
			case "store.operationTimeout":
				c.Operation = d
			case "service.stopTimeout":
				c.Stop = d
			default:
				t.Fatalf("proposes %q", p)
			}
			if _, err := Derive(c); err != nil {
				t.Fatalf("%v: the proposal %q is refused: %v", te, p, err)
			}
			proposed++
		}
	})
	if proposed == 0 {
		t.Error("nothing was ever proposed")
	}
}
