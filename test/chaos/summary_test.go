package chaos

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/chaos/history"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// Struck is a fault that was struck.
type Struck struct {
	Kind Kind
	At   intervals.Instant
}

// Summary is what is to be told of a run.
type Summary struct {
	Store       string // "" is a directory
	Seed        uint64
	Length, Ran time.Duration
	Want        demands
	Kinds       []Kind
	Timing      election.Timing

	Steps    []Struck
	Fired    map[Kind]int
	OnMaster map[Kind]int
	Struck   map[Kind]int // operations of the store

	Problems []string

	ops       []history.Op
	state     []history.Op // of the persisted state
	services  int
	failovers []failover
	margin    time.Duration // shortest time between two services
	overlaps  int
	reigns    map[Kind]int // terms that began with or after a kind of fault, until the next
}

// failover is a service that began in another term than the one before it.
type failover struct {
	how       How
	otherNode bool
	gap       time.Duration // without a service
	stood     time.Duration // how long the register had stood when it was claimed
}

func (s *Summary) leastFired() int {
	least := s.Fired[s.Kinds[0]]
	for _, k := range s.Kinds {
		least = min(least, s.Fired[k])
	}
	return least
}

// Command runs the same schedule again.
func (s *Summary) Command() string {
	length := s.Length.String()
	if s.Length%time.Minute == 0 {
		length = fmt.Sprintf("%dm", s.Length/time.Minute)
	}
	if s.Store != "" {
		length += " STORE=" + s.Store
	}
	return fmt.Sprintf("make chaos T=%s SEED=%d", length, s.Seed)
}

// History takes the clients' operations.
func (s *Summary) History(ops, state []history.Op) { s.ops, s.state = ops, state }

// Services takes what the services recorded and what their terms rested on.
func (s *Summary) Services(rec *intervals.Record, claims []Claim) {
	of := map[uint64]Claim{}
	for _, c := range claims {
		of[uint64(c.Value.Term)] = c
	}
	s.services, s.overlaps, s.reigns = len(rec.Trees), len(rec.Overlaps()), map[Kind]int{}
	for i := 1; i < len(rec.Trees); i++ {
		a, b := rec.Trees[i-1], rec.Trees[i]
		gap := b.Start.Sub(a.Last)
		if i == 1 || gap < s.margin {
			s.margin = gap
		}
		if b.Term == a.Term {
			continue // started again by the same reign
		}
		c := of[b.Term]
		s.failovers = append(s.failovers, failover{how: c.How, otherNode: a.Node != b.Node, gap: gap, stood: c.Stood})
		at, ok := slices.BinarySearchFunc(s.Steps, b.Start, func(x Struck, t intervals.Instant) int { return cmp.Compare(x.At, t) })
		if !ok {
			at--
		}
		if at >= 0 {
			s.reigns[s.Steps[at].Kind]++
		}
	}
}

// asked is why a service ends that was told to, hung that it was stuck in the
// store then.
const asked, hung = "asked", "store-hangs"

// Ends lists services that ended by themselves: they found another one's mark,
// or its listener in their place.
func Ends(rec *intervals.Record) (out []string) {
	for _, tree := range rec.Trees {
		for _, p := range tree.Processes {
			if p.Stopped && p.StopWhy != asked && p.StopWhy != hung {
				out = append(out, fmt.Sprintf("a service ended by itself (%s): %v", p.StopWhy, tree))
			}
		}
	}
	return out
}

func (s *Summary) toOthers() int {
	return len(slices.DeleteFunc(slices.Clone(s.failovers), func(f failover) bool { return !f.otherNode }))
}

func (s *Summary) by(how How) (gaps, stood []time.Duration) {
	for _, f := range s.failovers {
		if f.how == how {
			gaps, stood = append(gaps, f.gap), append(stood, f.stood)
		}
	}
	return gaps, stood
}

// Lacks says what the run has not seen enough of.
func (s *Summary) Lacks() []string {
	var out []string
	lack := func(what string, got, want int) {
		if got < want {
			out = append(out, fmt.Sprintf("%s: %d, want at least %d", what, got, want))
		}
	}
	for _, k := range s.Kinds {
		lack("times that "+string(k)+" fired", s.Fired[k], s.Want.each)
	}
	gaps, _ := s.by(ByTime)
	lack("failovers to another node", s.toOthers(), s.Want.failovers)
	lack("failovers by time alone", len(gaps), s.Want.byTime)
	lack("acknowledged writes", history.Count(s.ops, true, history.OK), s.Want.acked)
	lack("acknowledged writes of the persisted state", history.Count(s.state, true, history.OK), s.Want.persisted)
	return out
}

// Markdown is the summary as tables.
func (s *Summary) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("| | |\n|---|---|")
	p("| schedule | `%s` |", s.Command())
	p("| ran | %v with T = %v, 3 nodes, %d clients, %d keys; load average at the end %s |", s.Ran.Round(time.Second), s.Timing.Timeout, clients, keys, load())
	p("| services started | %d |", s.services)
	p("| failovers | %d, of which %d to another node |", len(s.failovers), s.toOthers())
	for _, how := range []How{ByRelease, ByTime, ByProof} {
		gaps, stood := s.by(how)
		line := fmt.Sprintf("| – claimed by %s | %d; without a service for %s", how, len(gaps), spread(gaps))
		if how == ByTime && len(stood) > 0 {
			line += fmt.Sprintf("; claimed %s after the holder's last renewal, whose right ends after %v", spread(stood), s.Timing.End())
		}
		p("%s |", line)
	}
	p("| shortest time between two services | %v |", s.margin.Round(100*time.Microsecond))
	p("| writes | %d acknowledged, %d failed for sure, %d of unknown outcome |",
		history.Count(s.ops, true, history.OK), history.Count(s.ops, true, history.Failed), history.Count(s.ops, true, history.Unknown))
	p("| reads | %d answered |", history.Count(s.ops, false, history.OK))
	p("| persisted state, %d clients, %d keys | %d writes acknowledged, %d failed for sure, %d of unknown outcome; %d reads |", stateClients, stateKeys,
		history.Count(s.state, true, history.OK), history.Count(s.state, true, history.Failed), history.Count(s.state, true, history.Unknown), history.Count(s.state, false, history.OK))
	p("| services that overlapped | %d |", s.overlaps)
	p("| acknowledged writes lost | %d |", s.count("lost"))
	p("| linearizable | %s |", map[bool]string{true: "yes, every key", false: "**no**"}[s.count("linearizable")+s.count("not decided") == 0])
	p("| other violations | %d |", len(s.Problems)-s.overlaps-s.count("lost")-s.count("linearizable")-s.count("not decided"))
	p("\n| fault | fired | on the master | operations struck | failovers until the next fault |\n|---|---|---|---|---|")
	for _, k := range s.Kinds {
		struck := "–"
		if n := s.Struck[k]; n > 0 {
			struck = fmt.Sprint(n)
		}
		p("| %s | %d | %d | %s | %d |", k, s.Fired[k], s.OnMaster[k], struck, s.reigns[k])
	}
	return b.String()
}

func (s *Summary) count(word string) int {
	return len(slices.DeleteFunc(slices.Clone(s.Problems), func(p string) bool { return !strings.Contains(p, word) }))
}

func spread(ds []time.Duration) string {
	if len(ds) == 0 {
		return "–"
	}
	sorted := slices.Sorted(slices.Values(ds))
	r := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%v..%v, median %v", r(sorted[0]), r(sorted[len(sorted)-1]), r(sorted[len(sorted)/2]))
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
