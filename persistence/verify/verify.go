// Package verify finds out whether a store keeps the contract that safety
// rests on (R18). It works on the store itself, in a scratch location that it
// removes: many servers that speak the right protocol accept preconditions and
// ignore them, and pass every test that one client makes one by one. Only
// writers that race each other have told them apart.
package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// Options adjust Run; the zero value is the full form with default timings.
type Options struct {
	// Short is the form for the start of a node whose store has passed
	// before: the same checks in fewer rounds, some 100 ms on a local disk.
	Short bool
	// Writers race in each of Rounds. Zero: 16 × 20, Short: 8 × 4.
	Writers, Rounds int
	// Heartbeat and OperationTimeout are what latencies are held against.
	// Zero: 1 s and 3 s.
	Heartbeat, OperationTimeout time.Duration
	// Limit bounds each operation. A store that is merely slow is one to
	// judge, not to give up on. Zero: OperationTimeout if Short, and ten
	// times that otherwise.
	Limit time.Duration
	// Advise says what settings suit a store whose operations take so long;
	// it ends the remedy where latencies are found wanting. May be nil.
	Advise func(write, read Latency) string
	// Peer has this run race with a second one, at another node. May be nil.
	Peer *Peer
	// Progress is told before each step, and each round of a long one; done
	// of total are complete. It is called from Run's goroutine.
	Progress func(step string, done, total int)
}

// Latency sums up one kind of operation, done one after the other.
type Latency struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50Ns"`
	P99   time.Duration `json:"p99Ns"`
	Max   time.Duration `json:"maxNs"`
}

// Report is what Run found out.
type Report struct {
	URL     string                `json:"url"`
	Kind    string                `json:"kind"`
	Short   bool                  `json:"short"`
	OK      bool                  `json:"ok"`      // no check failed
	Verdict string                `json:"verdict"` // one sentence, with the remedy if there is one
	Checks  []persistence.Finding `json:"checks"`
	Write   Latency               `json:"write"` // renewals of the register
	Read    Latency               `json:"read"`
	Took    time.Duration         `json:"tookNs"`
}

// Run verifies the store. The error tells that it could not be done: the store
// did not answer in time, took no writes, was full (see the sentinels of
// persistence), or ctx ended. A store that answers and breaks its contract is
// not an error but a Report that is not OK.
func Run(ctx context.Context, store persistence.Store, opts Options) (Report, error) {
	opts = opts.withDefaults()
	begin := time.Now()
	limits := store.Limits()
	r := &run{
		store: store, opts: opts, name: ScratchPrefix + strings.ToLower(rand.Text()[:16]), side: "s",
		report: Report{URL: limits.URL, Kind: limits.Kind, Short: opts.Short},
	}
	err := r.all(ctx)
	if r.dirty {
		// Also when ctx has ended: what lies around would be ours.
		patience := 10 * opts.Limit // many files
		if errors.Is(err, persistence.Unknown) {
			patience = opts.OperationTimeout // it would hang again
		}
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		if cerr := r.root.RemoveAll(cctx); cerr != nil && err == nil {
			r.add("clean up", persistence.GradeWarn, cerr.Error(), "remove it later: understudy store fsck --remove-scratch")
		}
		cancel()
	}
	r.report.Took = time.Since(begin)
	r.report.URL = store.Limits().URL
	if err != nil {
		return r.report, fmt.Errorf("verify %s: %w", limits.URL, err)
	}
	r.judge()
	return r.report, nil
}

// ScratchPrefix begins the name of every scratch location that Run makes.
const ScratchPrefix = ".verify-"

// unable is the verdict when the question could not be answered at this step.
func (r *run) unable(step string, err error) string {
	for _, kind := range []error{persistence.Absent, persistence.Denied, persistence.ReadOnly, persistence.Full, persistence.Unsupported} {
		if errors.Is(err, kind) {
			return "NOT USABLE as it is: " + kind.Error() + ": " + strings.TrimPrefix(err.Error(), kind.Error()+": ")
		}
	}
	if errors.Is(err, context.Canceled) {
		return "NOT VERIFIED: the run was interrupted"
	}
	if errors.Is(err, persistence.Unknown) && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("NOT VERIFIED: no answer within %s, at %q; see whether the store's server and the network are up, then run it again", r.opts.Limit, step)
	}
	return fmt.Sprintf("NOT VERIFIED: at %q it came to no end: %s", step, strings.TrimPrefix(err.Error(), persistence.Unknown.Error()+": "))
}

func (o Options) withDefaults() Options {
	set := func(v *int, full, short int) {
		if *v == 0 && o.Short {
			*v = short
		} else if *v == 0 {
			*v = full
		}
	}
	set(&o.Writers, 16, 8)
	set(&o.Rounds, 20, 4)
	if o.Heartbeat == 0 {
		o.Heartbeat = time.Second
	}
	if o.OperationTimeout == 0 {
		o.OperationTimeout = 3 * time.Second
	}
	if o.Limit == 0 && o.Short {
		o.Limit = o.OperationTimeout
	} else if o.Limit == 0 {
		o.Limit = 10 * o.OperationTimeout
	}
	if o.Advise == nil {
		o.Advise = func(Latency, Latency) string { return "" }
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	return o
}

// run is one run.
type run struct {
	store  persistence.Store
	opts   Options
	name   string
	root   persistence.Store // the scratch location
	dirty  bool              // something may have been written to it
	report Report
	values int
	side   string   // of two runs that race: "a" or "b"; "s" alone
	meet   *meeting // nil when alone

	step        string // the one under way
	done, total int    // units of progress

	writes, reads []time.Duration
	throttled     int
}

func (r *run) add(name string, g persistence.Grade, detail, remedy string) {
	r.report.Checks = append(r.report.Checks, persistence.Finding{Name: name, Status: g, Detail: detail, Remedy: remedy})
}

const (
	useOther    = "two nodes could be master at once here: use another store, no setting makes this one safe"
	checkServer = "look at the server's load and at what lies between"
)

// step is one part of a run; its weight is in units of progress.
type step struct {
	name   string
	weight int
	f      func(context.Context) error
}

func (r *run) all(ctx context.Context) error {
	steps := []step{
		{"settings", 1, r.settings},
		{"create once", 1, r.create},
		{"compare and swap", 1, r.cas},
		{"swap on nothing", 1, r.missing},
		{"overlapping writers", 1, r.overlap},
		{"racing creators", r.opts.Rounds, r.raceCreate},
		{"racing writers", r.opts.Rounds, r.raceCAS},
		{"objects", 1, r.objects},
		{"latency", r.samples(), r.latency},
	}
	if r.opts.Peer != nil {
		leave, err := r.arrive(ctx)
		if err != nil {
			r.report.Verdict = r.unable("other node", err)
			return err
		}
		defer leave()
		steps = append(steps, step{"other node", 2 * r.opts.Rounds, r.racePeer})
	}
	for _, s := range steps {
		r.total += s.weight
	}
	for _, s := range steps {
		end := r.done + s.weight
		r.step = s.name
		r.opts.Progress(s.name, r.done, r.total)
		if err := s.f(ctx); err != nil {
			r.abandon(ctx, err)
			r.report.Verdict = r.unable(s.name, err)
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.done = end
	}
	r.opts.Progress("done", r.total, r.total)
	return nil
}

// advance says that one more unit of the step under way is done.
func (r *run) advance() {
	r.done++
	r.opts.Progress(r.step, r.done, r.total)
}

// settings judges what the store says of itself before anything is written.
func (r *run) settings(ctx context.Context) error {
	const name = "settings"
	if c, ok := r.store.(persistence.Checker); ok {
		err := r.timed(ctx, nil, c.Check)
		if errors.Is(err, persistence.Unsupported) {
			r.add(name, persistence.GradeFail, err.Error(), "")
		} else if err != nil {
			return err
		}
	}
	told := r.inspect(ctx)
	l := r.store.Limits() // exact only now, see posix
	if !told {
		for _, w := range l.Warnings {
			r.add(name, persistence.GradeWarn, w, "")
		}
		if l.Local {
			r.add(name, persistence.GradeWarn, "this is "+l.LocalWhy+", which other machines do not share: no high availability",
				"use NFS, a cluster file system, s3 or hdfs")
		}
	}
	if l.MinBeat > r.opts.Heartbeat {
		r.add(name, persistence.GradeWarn, fmt.Sprintf("this store takes one write in %s, the heartbeat is %s", l.MinBeat, r.opts.Heartbeat),
			fmt.Sprintf("set ha.heartbeatInterval to %s or more", l.MinBeat))
	}
	if len(r.report.Checks) == 0 {
		r.add(name, persistence.GradeOK, "nothing speaks against it", "")
	}
	var err error
	r.root, err = r.store.Sub(r.name)
	return err
}

// inspect takes over what the store itself finds; told says whether it could.
// The short form leaves it to those who ask for it: it may take a while.
func (r *run) inspect(ctx context.Context) (told bool) {
	i, ok := r.store.(persistence.Inspector)
	if !ok || r.opts.Short {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Limit)
	defer cancel()
	found := i.Inspect(ctx)
	r.report.Checks = append(r.report.Checks, found...)
	return len(found) > 0
}

// handle opens one more handle on the register sub of the scratch location.
func (r *run) handle(sub string) (persistence.Store, error) {
	r.dirty = true
	// Through the store, because handles of one store share its bounds.
	root, err := r.store.Sub(r.name)
	if err != nil {
		return nil, err
	}
	return root.Sub(sub)
}

func (r *run) handles(sub string, n int) ([]persistence.Store, error) {
	out := make([]persistence.Store, n)
	for i := range out {
		var err error
		if out[i], err = r.handle(sub); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// value returns bytes that no other attempt has.
func (r *run) value() []byte {
	r.values++
	return fmt.Appendf(nil, "u1.verify.%s.%06d.%s", r.side, r.values, strings.ToLower(rand.Text()))
}

// pace keeps to the rate of writes that the store allows one register.
func (r *run) pace(ctx context.Context) error {
	beat := r.store.Limits().MinBeat
	if beat == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(beat):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// timed runs one operation within the operation timeout and notes how long it
// took, if it succeeded.
func (r *run) timed(ctx context.Context, into *[]time.Duration, f func(context.Context) error) error {
	octx, cancel := context.WithTimeout(ctx, r.opts.Limit)
	defer cancel()
	begin := time.Now()
	err := f(octx)
	if errors.Is(err, persistence.Throttled) {
		r.throttled++
	}
	if err == nil && into != nil {
		*into = append(*into, time.Since(begin))
	}
	return err
}

func (r *run) read(ctx context.Context, s persistence.Register) (snap persistence.Snapshot, err error) {
	err = r.timed(ctx, &r.reads, func(ctx context.Context) (err error) {
		snap, err = s.Read(ctx)
		return err
	})
	return snap, err
}

func (r *run) swap(ctx context.Context, s persistence.Register, old persistence.Version, val []byte) (v persistence.Version, err error) {
	err = r.timed(ctx, &r.writes, func(ctx context.Context) (err error) {
		v, err = s.CAS(ctx, old, val)
		return err
	})
	return v, err
}

// create tries to create a register twice, with two handles.
func (r *run) create(ctx context.Context) error {
	const name = "create once"
	hs, err := r.handles(".reg", 2)
	if err != nil {
		return err
	}
	first := r.value()
	if err := r.timed(ctx, nil, func(ctx context.Context) error { return hs[0].Init(ctx, first) }); err != nil {
		return err
	}
	for _, h := range hs {
		err := r.timed(ctx, nil, func(ctx context.Context) error { return h.Init(ctx, r.value()) })
		if err == nil {
			r.add(name, persistence.GradeFail, "a register that exists was created again", useOther)
			return nil
		}
		if err := dead(ctx, err); err != nil {
			return err
		}
		if bad, err := r.mustRead(ctx, name, first, hs...); bad || err != nil {
			return err
		}
	}
	r.add(name, persistence.GradeOK, "a second create is refused", "")
	return nil
}

// mustRead checks that every handle reads want, and reports it if not.
func (r *run) mustRead(ctx context.Context, name string, want []byte, hs ...persistence.Store) (bad bool, err error) {
	for _, h := range hs {
		snap, err := r.settle(ctx, h, func(s persistence.Snapshot) bool { return bytes.Equal(s.Value, want) })
		if err != nil {
			return false, err
		}
		if !bytes.Equal(snap.Value, want) {
			r.add(name, persistence.GradeFail, fmt.Sprintf("the register reads %q where %q was written last", snap.Value, want), useOther)
			return true, nil
		}
	}
	return false, nil
}

// settle reads until done says yes, or long enough: a read may be stale for a
// while. It returns what was read last.
func (r *run) settle(ctx context.Context, s persistence.Register, done func(persistence.Snapshot) bool) (persistence.Snapshot, error) {
	end := time.Now().Add(max(2*r.opts.Heartbeat, 100*time.Millisecond))
	for n := 1; ; n++ {
		snap, err := r.read(ctx, s)
		if err != nil || done(snap) || (n >= 3 && time.Now().After(end)) {
			return snap, err
		}
		select {
		case <-time.After(r.opts.Heartbeat / 50):
		case <-ctx.Done():
			return snap, ctx.Err()
		}
	}
}

// cas tries the right version, a superseded one and one that never was.
func (r *run) cas(ctx context.Context) error {
	const name = "compare and swap"
	hs, err := r.handles(".reg", 2)
	if err != nil {
		return err
	}
	other, err := r.handle(".other")
	if err != nil {
		return err
	}
	if err := r.timed(ctx, nil, func(ctx context.Context) error { return other.Init(ctx, r.value()) }); err != nil {
		return err
	}
	foreign, err := r.read(ctx, other)
	if err != nil {
		return err
	}
	old, err := r.read(ctx, hs[0])
	if err != nil {
		return err
	}
	want := r.value()
	v, err := r.swap(ctx, hs[0], old.Version, want)
	if errors.Is(err, persistence.Conflict) {
		r.add(name, persistence.GradeFail, "a swap on the current version is refused: "+err.Error(), useOther)
		return nil
	}
	if err != nil {
		return err
	}
	if v == old.Version || v == "" {
		r.add(name, persistence.GradeFail, fmt.Sprintf("two values in a row have the version %q", v), useOther)
		return nil
	}
	if bad, err := r.mustRead(ctx, name, want, hs...); bad || err != nil {
		return err
	}
	for _, wrong := range []struct {
		what string
		v    persistence.Version
	}{
		{"a superseded version", old.Version},
		{"a version of another register", foreign.Version},
	} {
		for _, h := range hs {
			_, err := r.swap(ctx, h, wrong.v, r.value())
			if err == nil {
				r.add(name, persistence.GradeFail, "a swap on "+wrong.what+" succeeded: preconditions are ignored", useOther)
				return nil
			}
			if err := dead(ctx, err); err != nil {
				return err
			}
			if bad, err := r.mustRead(ctx, name, want, hs...); bad || err != nil {
				return err
			}
		}
	}
	r.add(name, persistence.GradeOK, "swaps on wrong and superseded versions are refused, on the right one they are read back", "")
	return nil
}

// missing tries to swap where there is no register.
func (r *run) missing(ctx context.Context) error {
	const name = "swap on nothing"
	h, err := r.handle(".reg")
	if err != nil {
		return err
	}
	snap, err := r.read(ctx, h)
	if err != nil {
		return err
	}
	none, err := r.handle(".none")
	if err != nil {
		return err
	}
	_, err = r.swap(ctx, none, snap.Version, r.value())
	if err == nil {
		r.add(name, persistence.GradeFail, "a swap created a register", useOther)
		return nil
	}
	if err := dead(ctx, err); err != nil {
		return err
	}
	if _, err := r.read(ctx, none); !errors.Is(err, persistence.Absent) {
		if err == nil {
			r.add(name, persistence.GradeFail, "a swap that was refused created a register", useOther)
			return nil
		}
		return err
	}
	r.add(name, persistence.GradeOK, "refused", "")
	return nil
}

// overlap has one write begin and end while another is under way, where the
// store can do that. What racing writers find by chance it finds each time.
func (r *run) overlap(ctx context.Context) error {
	const name = "overlapping writers"
	h, err := r.handle(".overlap")
	if err != nil {
		return err
	}
	o, ok := h.(persistence.Overlapper)
	if !ok {
		return nil
	}
	// Longer and longer, for servers that are slow to look; and not so long that
	// an operation would count as lost.
	for _, pause := range []time.Duration{20 * time.Millisecond, 80 * time.Millisecond, 250 * time.Millisecond} {
		var winners int
		if err := r.timed(ctx, nil, func(ctx context.Context) (err error) {
			winners, err = o.Overlap(ctx, min(pause, r.opts.OperationTimeout/4))
			return err
		}); err != nil {
			return err
		}
		if winners > 1 {
			r.add(name, persistence.GradeFail, "two writes of one version that overlapped both succeeded: the condition is looked at before the write, not with it", useOther)
			return nil
		}
	}
	r.add(name, persistence.GradeOK, "of two writes that overlap one succeeds", "")
	return nil
}

// objects stores, replaces, lists and removes.
func (r *run) objects(ctx context.Context) error {
	const name, key = "objects", "nodes/verify"
	h, err := r.handle(".objects")
	if err != nil {
		return err
	}
	for _, content := range [][]byte{r.value(), r.value()} {
		var got []byte
		err := r.timed(ctx, nil, func(ctx context.Context) error {
			if err := h.Put(ctx, key, bytes.NewReader(content), int64(len(content))); err != nil {
				return err
			}
			rc, err := h.Get(ctx, key)
			if err != nil {
				return err
			}
			got, err = io.ReadAll(rc)
			return errors.Join(err, rc.Close())
		})
		if err != nil {
			return err
		}
		if !bytes.Equal(got, content) {
			r.add(name, persistence.GradeFail, fmt.Sprintf("an object reads %q after %q was put", got, content), useOther)
			return nil
		}
	}
	var page persistence.Page
	err = r.timed(ctx, nil, func(ctx context.Context) (err error) {
		page, err = h.List(ctx, "nodes/", "")
		return errors.Join(err, h.Delete(ctx, key))
	})
	if err != nil {
		return err
	}
	if len(page.Items) != 1 || page.Items[0].Key != key {
		r.add(name, persistence.GradeFail, fmt.Sprintf("a listing shows %v where there is one object", page.Items), useOther)
		return nil
	}
	r.add(name, persistence.GradeOK, "put, replaced, read, listed and removed", "")
	return nil
}

// samples is how many renewals make a latency.
func (r *run) samples() int {
	if r.opts.Short {
		return 5
	}
	return 100
}

// latencyTime bounds the measuring on a store so slow that it needs no more
// samples to be called that.
const latencyTime = 10 * time.Second

// latency renews a register for a while, as a master does.
func (r *run) latency(ctx context.Context) error {
	h, err := r.handle(".reg")
	if err != nil {
		return err
	}
	snap, err := r.read(ctx, h)
	if err != nil {
		return err
	}
	v := snap.Version
	begin := time.Now()
	for n := range r.samples() {
		if n >= 5 && time.Since(begin) > latencyTime {
			break
		}
		if err := r.pace(ctx); err != nil {
			return err
		}
		next, err := r.swap(ctx, h, v, r.value())
		switch {
		case err == nil:
			v = next
		case errors.Is(err, persistence.Throttled):
			// Counted. The next attempt is from the same version.
		case errors.Is(err, persistence.Conflict):
			r.add("latency", persistence.GradeFail, "a swap on the current version, made by a single writer, is refused: "+err.Error(), useOther)
			return nil
		default:
			return err
		}
		if _, err := r.read(ctx, h); err != nil && !errors.Is(err, persistence.Throttled) {
			return err
		}
		r.advance()
	}
	r.report.Write, r.report.Read = Sum(r.writes), Sum(r.reads)
	r.judgeLatency(r.report.Write, r.report.Read)
	if r.throttled > 0 {
		r.add("rate", persistence.GradeWarn, fmt.Sprintf("%d requests were refused as too many", r.throttled),
			"raise ha.heartbeatInterval, or the store's limit")
	}
	return nil
}

func (r *run) judgeLatency(w, rd Latency) {
	detail := fmt.Sprintf("writes p50 %s, p99 %s, max %s; reads p50 %s, p99 %s, max %s",
		short(w.P50), short(w.P99), short(w.Max), short(rd.P50), short(rd.P99), short(rd.Max))
	remedy := "find out what slows the store down"
	if advice := r.opts.Advise(w, rd); advice != "" {
		remedy = advice + ", or " + remedy
	} else {
		remedy = "raise ha.heartbeatTimeout, or " + remedy
	}
	slow := max(w.P99, rd.P99)
	switch o := r.opts.OperationTimeout; {
	case slow > o:
		r.add("latency", persistence.GradeWarn, fmt.Sprintf("it is too slow for these timings: %s, and an operation is given up after %s", detail, o), remedy)
	case slow > o/2:
		r.add("latency", persistence.GradeWarn, fmt.Sprintf("it is slow: %s, against an operation timeout of %s", detail, o), remedy)
	case max(w.P50, rd.P50) > r.opts.Heartbeat/2:
		r.add("latency", persistence.GradeWarn, fmt.Sprintf("it is slow: %s, against a heartbeat every %s", detail, r.opts.Heartbeat), remedy)
	default:
		r.add("latency", persistence.GradeOK, detail, "")
	}
}

// dead returns err if it says that the store is not there, rather than that it
// has refused something.
func dead(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, persistence.Conflict) || errors.Is(err, persistence.Absent) {
		return nil
	}
	return err
}

// judge makes one sentence of the checks.
func (r *run) judge() {
	var fails, warns []persistence.Finding
	for _, c := range r.report.Checks {
		switch c.Status {
		case persistence.GradeFail:
			fails = append(fails, c)
		case persistence.GradeWarn:
			warns = append(warns, c)
		case persistence.GradeOK:
		}
	}
	r.report.OK = len(fails) == 0
	switch {
	case len(fails) > 0:
		r.report.Verdict = fmt.Sprintf("NOT SAFE: %s%s", fails[0].Detail, remedy(fails[0]))
	case len(warns) > 0:
		words := make([]string, len(warns))
		for i, c := range warns {
			words[i] = c.Detail + remedy(c)
		}
		r.report.Verdict = fmt.Sprintf("safe, with %d to look at: %s", len(warns), strings.Join(words, " -- "))
	default:
		r.report.Verdict = fmt.Sprintf("safe: %d writers in %d rounds had one winner each; a write takes %s (p99 %s)",
			r.opts.Writers, r.opts.Rounds, short(r.report.Write.P50), short(r.report.Write.P99))
	}
}

func remedy(c persistence.Finding) string {
	if c.Remedy == "" {
		return ""
	}
	return "; " + c.Remedy
}

// Sum makes a Latency of single measurements.
func Sum(d []time.Duration) Latency {
	if len(d) == 0 {
		return Latency{}
	}
	d = slices.Sorted(slices.Values(d))
	at := func(p int) time.Duration { return d[min(len(d)-1, (len(d)*p+99)/100-1)] }
	return Latency{Count: len(d), P50: at(50), P99: at(99), Max: d[len(d)-1]}
}

// short rounds a duration to what a reader takes in.
func short(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
