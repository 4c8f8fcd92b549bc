package doctor

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// listen takes a port for as long as the test runs.
func listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binds and returns at once
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// told is a store that says what the test has it say.
type told struct {
	persistence.Store
	check   error
	found   []persistence.Finding
	limits  persistence.Limits
	foolish bool // accepts any precondition
}

func newTold() *told {
	return &told{Store: memory.New().Open(), limits: persistence.Limits{URL: "file:///mnt/u", Kind: "posix"}}
}

func (s *told) Check(context.Context) error                   { return s.check }
func (s *told) Inspect(context.Context) []persistence.Finding { return s.found }
func (s *told) Limits() persistence.Limits                    { return s.limits }
func (s *told) Sub(name string) (persistence.Store, error) {
	sub, err := s.Store.Sub(name)
	return &told{Store: sub, limits: s.limits, foolish: s.foolish}, err
}

func (s *told) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	if s.foolish {
		if snap, err := s.Read(ctx); err == nil {
			old = snap.Version
		}
	}
	return s.Store.CAS(ctx, old, val)
}

func TestReach(t *testing.T) {
	s := newTold()
	for name, c := range map[string]struct {
		err   error
		want  Reached
		grade persistence.Grade
		parts []string
	}{
		"fine":      {nil, Usable, good, []string{"file:///mnt/u answers"}},
		"silent":    {fmt.Errorf("%w: no answer: %w", persistence.Unknown, context.DeadlineExceeded), Unreachable, bad, []string{"no answer within", "about it ->", "server"}},
		"EIO":       {fmt.Errorf("%w: read: input/output error; look", persistence.Unknown), Unreachable, bad, []string{"can not be reached", "(read: input/output error)"}},
		"throttled": {fmt.Errorf("%w: slow down", persistence.Throttled), Unreachable, bad, []string{"(slow down)"}},
		"absent":    {fmt.Errorf("%w: there is none; mount it", persistence.Absent), Unusable, bad, []string{"there is none -> mount it"}},
		"denied":    {fmt.Errorf("%w: x; give it", persistence.Denied), Unusable, bad, []string{"x -> give it"}},
		"refused":   {fmt.Errorf("%w: sshfs; use NFS", persistence.Unsupported), Unusable, bad, []string{"sshfs -> use NFS"}},
		"read-only": {fmt.Errorf("%w: x; mount it read-write", persistence.ReadOnly), Unwritable, bad, []string{"mount it read-write"}},
		"full":      {fmt.Errorf("%w: x; free space", persistence.Full), Unwritable, bad, []string{"free space"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.check = c.err
			f, got := Reach(t.Context(), s)
			if got != c.want {
				t.Errorf("reached %d, want %d", got, c.want)
			}
			is(t, f, c.grade, c.parts...)
		})
	}
	if f, got := Reach(t.Context(), memory.New().Open()); got != Usable || f.Status != good {
		t.Errorf("a store without Check: %+v, %d", f, got)
	}
}

// What the store says of itself is said once.
func TestLocation(t *testing.T) {
	s := newTold()
	s.limits.Local, s.limits.LocalWhy = true, "ext4"
	s.limits.Warnings = []string{"mounted soft; mount it hard", "foreign names; look at them"}
	s.found = []persistence.Finding{
		{Name: "mount options", Status: odd, Detail: "mounted soft", Remedy: "mount it hard"},
		{Name: "shared", Status: odd, Detail: "not shared", Remedy: "share it"},
		{Name: "writing", Status: bad, Detail: persistence.ReadOnly.Error() + ": can not write; mount it read-write"},
	}
	said := Failed("store", fmt.Errorf("%w: can not write; mount it read-write", persistence.ReadOnly))
	var got []string
	for _, f := range Location(t.Context(), s, said) {
		is(t, f, odd)
		got = append(got, f.Name+": "+f.Detail)
	}
	if want := "store mount options: mounted soft|store shared: not shared|store: foreign names"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.found = nil
	lines := Location(t.Context(), s, said)
	is(t, lines[len(lines)-1], odd, "ext4, which no other machine shares")
}

func TestLatencyJudged(t *testing.T) {
	timing, err := election.Derive(election.TimingRequest{}) // o 3s, h 1s
	if err != nil {
		t.Fatal(err)
	}
	ms := time.Millisecond
	for name, c := range map[string]struct {
		writes, reads []time.Duration
		grade         persistence.Grade
		parts         []string
	}{
		"fast":            {[]time.Duration{2 * ms, ms, 3 * ms}, []time.Duration{ms}, good, []string{"a write takes 2ms (at most 3ms of 3), a read 1ms"}},
		"a hiccup":        {[]time.Duration{ms, ms, 1600 * ms}, []time.Duration{ms}, odd, []string{"slow", "1.6s", "ha.preset: wan"}},
		"slow writes":     {[]time.Duration{600 * ms}, []time.Duration{ms}, odd, []string{"ha.preset: wan"}},
		"slow reads":      {[]time.Duration{ms}, []time.Duration{600 * ms}, odd, []string{"ha.preset: wan"}},
		"hopeless":        {[]time.Duration{4000 * ms}, []time.Duration{ms}, bad, []string{"too slow", "raise ha.heartbeatTimeout"}},
		"at half of each": {[]time.Duration{500 * ms, 500 * ms, 1500 * ms}, []time.Duration{ms}, good, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := measured{writes: c.writes, reads: c.reads}
			is(t, m.judge(timing), c.grade, c.parts...)
		})
	}
	fast, err := election.Derive(election.TimingRequest{Preset: "fast"}) // o and h 500ms
	if err != nil {
		t.Fatal(err)
	}
	is(t, (&measured{writes: []time.Duration{300 * ms}, reads: []time.Duration{ms}}).judge(fast), odd, "ha.preset: default")
}

func TestLatencyMeasuresAndCleansUp(t *testing.T) {
	s := newTold()
	timing, err := election.Derive(election.TimingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f, reached := Latency(t.Context(), s, timing)
	if reached != Usable {
		t.Errorf("reached %d", reached)
	}
	is(t, f, good, "of 50)")
	if empty, err := s.Empty(t.Context()); !empty || err != nil {
		t.Errorf("left something: %v, %v", empty, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f, reached := Latency(ctx, s, timing); reached != Unreachable || f.Status != bad {
		t.Errorf("%+v, %d", f, reached)
	}
}

func TestSemantics(t *testing.T) {
	timing, err := election.Derive(election.TimingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s := newTold()
	is(t, one(t, Semantics(t.Context(), s, timing)), good, "one wins each round")
	s.foolish = true
	for _, f := range Semantics(t.Context(), s, timing) {
		is(t, f, bad, "use another store")
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	is(t, one(t, Semantics(ctx, s, timing)), bad, "could not be found out in time", "ha.preset: wan")
}

const (
	plane1 = lease.PlaneID("plane001")
	plane2 = lease.PlaneID("plane002")
	node1  = lease.NodeID("node0001")
	node2  = lease.NodeID("node0002")
)

func TestRegister(t *testing.T) {
	value := lease.Value{
		Plane: plane1, Term: 7, Seq: 9, Held: true, Lease: 30 * time.Second, Holder: node2,
		Incarnation: "aaaaaaaaaaaaaaaaaaaaaaaaaa", WriteID: "bbbbbbbbbbbbbbbbbbbbbbbbbb",
	}
	mine := Plane{URL: "file:///mnt/u", Node: node1, Known: plane1, Term: 7, AutoInit: true, Timeout: 30 * time.Second}
	with := func(change func(*Plane, *lease.Value)) (Plane, lease.Value) {
		p, v := mine, value
		change(&p, &v)
		return p, v
	}
	for name, c := range map[string]struct {
		change func(*Plane, *lease.Value)
		grade  persistence.Grade
		parts  []string
	}{
		"ours":          {func(*Plane, *lease.Value) {}, good, []string{"plane001 at term 7, held by node0002"}},
		"released":      {func(_ *Plane, v *lease.Value) { v.Held = false }, good, []string{"free to be claimed"}},
		"of nobody":     {func(_ *Plane, v *lease.Value) { v.Holder, v.Incarnation, v.Term = "", "", 7 }, good, []string{"held by nobody"}},
		"new node":      {func(p *Plane, _ *lease.Value) { p.Known, p.Term, p.Node = "", 0, "" }, good, nil},
		"other plane":   {func(p *Plane, _ *lease.Value) { p.Known = plane2 }, bad, []string{"belongs to plane plane002", "forget-plane plane002", "mounted"}},
		"rolled back":   {func(p *Plane, _ *lease.Value) { p.Term = 8 }, bad, []string{"term 7", "term 8", "back in time"}},
		"other timing":  {func(p *Plane, _ *lease.Value) { p.Timeout = 5 * time.Second }, odd, []string{"30s", "5s", "TIMING_MISMATCH"}},
		"own, restarts": {func(p *Plane, v *lease.Value) { p.Timeout, v.Holder = 5*time.Second, node1 }, good, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, v := with(c.change)
			s := memory.New().Open()
			if err := s.Init(t.Context(), v.Encode()); err != nil {
				t.Fatal(err)
			}
			is(t, p.Register(t.Context(), s), c.grade, c.parts...)
		})
	}
	s := memory.New().Open()
	if err := s.Init(t.Context(), []byte("u9.from.the.future")); err != nil {
		t.Fatal(err)
	}
	is(t, mine.Register(t.Context(), s), bad, "can not be read", "store dump")
}

func TestNoRegister(t *testing.T) {
	s := memory.New().Open()
	p := Plane{URL: "file:///mnt/u", AutoInit: true}
	is(t, p.Register(t.Context(), s), good, "the first node to start makes a plane")
	is(t, Plane{AutoInit: true, Local: true}.Register(t.Context(), s), bad, "makes no plane there", "store.allowLocal")
	is(t, Plane{}.Register(t.Context(), s), odd, "understudy init")
	is(t, Plane{AutoInit: true, ReadOnly: true}.Register(t.Context(), s), good, "no plane yet")
	is(t, Plane{Known: plane1, AutoInit: true}.Register(t.Context(), s), bad, "belongs to plane plane001", "mounted", "forget-plane plane001")
	if err := s.Put(t.Context(), "backup/x", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	is(t, p.Register(t.Context(), s), bad, "not empty")
}

func TestNodes(t *testing.T) {
	now := time.Now()
	record := func(change func(*lease.NodeRecord)) lease.NodeRecord {
		r := lease.NodeRecord{
			Node: node1, State: lease.StateMaster, URI: "https://n1/", Version: "v1", LeaseMs: 30000, WallMs: now.UnixMilli(),
		}
		change(&r)
		return r
	}
	first := record(func(*lease.NodeRecord) {})
	second := func(change func(*lease.NodeRecord)) lease.NodeRecord {
		return record(func(r *lease.NodeRecord) {
			r.Node, r.State, r.URI = node2, lease.StateHotStandby, "https://n2/"
			change(r)
		})
	}
	p := Plane{Node: node1, Timeout: 30 * time.Second, Version: "v1", Running: true, Now: now}
	for name, c := range map[string]struct {
		plane   Plane
		records []lease.NodeRecord
		grade   persistence.Grade
		parts   []string
	}{
		"alike":      {p, []lease.NodeRecord{first, second(func(*lease.NodeRecord) {})}, good, []string{"node0001 (MASTER), node0002 (HOT_STANDBY)", "v1"}},
		"none":       {p, nil, good, []string{"10 minutes"}},
		"old ones":   {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.Version, r.WallMs = "v0", now.Add(-time.Hour).UnixMilli() })}, good, []string{"v1"}},
		"gone ones":  {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.Version, r.State = "v0", lease.StateTerminated })}, good, nil},
		"versions":   {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.Version = "v2" })}, odd, []string{"v1 on node0001; v2 on node0002", "standbys first"}},
		"timings":    {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.LeaseMs = 5000 })}, odd, []string{"node0002 has 5s", "TIMING_MISMATCH"}},
		"failed":     {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.State, r.Why = lease.StateFailed, "FENCING_FAILED" })}, odd, []string{"node0002 says FAILED: FENCING_FAILED", "https://n2/"}},
		"same URI":   {p, []lease.NodeRecord{first, second(func(r *lease.NodeRecord) { r.URI = "https://n1/" })}, odd, []string{"node0001, node0002 all name https://n1/"}},
		"updated":    {Plane{Node: node1, Timeout: p.Timeout, Version: "v2", Running: true, Now: now}, []lease.NodeRecord{first}, odd, []string{"version v1, this binary is v2", "restart"}},
		"configured": {Plane{Node: node1, Timeout: time.Minute, Version: "v1", Running: true, Now: now}, []lease.NodeRecord{first}, odd, []string{"the daemon that runs here has 30s"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := memory.New().Open()
			for _, r := range c.records {
				b := r.Encode()
				if err := s.Put(t.Context(), "nodes/"+string(r.Node), bytes.NewReader(b), int64(len(b))); err != nil {
					t.Fatal(err)
				}
			}
			is(t, one(t, c.plane.Nodes(t.Context(), s)), c.grade, c.parts...)
		})
	}
	s := memory.New().Open()
	if err := s.Put(t.Context(), "nodes/node0003", strings.NewReader("{"), 1); err != nil {
		t.Fatal(err)
	}
	is(t, p.Nodes(t.Context(), s)[0], odd, "node0003 can not be read")
}
