package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/pkg/election"
)

const (
	storeName     = "store"
	latencyName   = "store latency"
	semanticsName = "store semantics"
)

// StoreLate is the remedy where a store does not answer in time.
const StoreLate = "see whether its server and the network to it are up, and for a mount what 'dmesg' says; the node waits for it by itself"

// Limits of the checks of a store.
const (
	ReachLimit     = 10 * time.Second
	LatencyLimit   = measureLimit + ReachLimit // and cleaning up
	SemanticsLimit = 60 * time.Second

	measureLimit = 20 * time.Second
	firstLook    = 3 * time.Second // what a node gives the store at its start
)

// Reached is how far a store can be used.
type Reached int

// How far a store can be used.
const (
	Usable      Reached = iota
	Unwritable          // it can be read, at best
	Unusable            // there is nothing to look at
	Unreachable         // it does not answer
)

// Reach finds out whether the store answers and takes writes.
func Reach(ctx context.Context, store persistence.Store) (persistence.Finding, Reached) {
	url := store.Limits().URL
	c, checks := store.(persistence.Checker)
	if !checks {
		return ok(storeName, "%s", url), Usable
	}
	begin := time.Now()
	err := c.Check(ctx)
	took := short(time.Since(begin))
	f := ok(storeName, "%s answers and takes writes", url)
	if err != nil {
		f = Failed(storeName, err)
	}
	switch {
	case err == nil && took > firstLook:
		return warn(storeName, "find out what slows the store down: its server, the network, or what else uses them",
			"%s answers and takes writes, but a first look took %s: a node gives it %s at its start", url, took, firstLook), Usable
	case err == nil:
		return f, Usable
	case errors.Is(err, persistence.Unknown), errors.Is(err, persistence.Throttled):
		if why := reason(err); why != "" {
			return fail(storeName, StoreLate, "%s can not be reached, so nothing more can be said about it%s", url, why), Unreachable
		}
		return fail(storeName, StoreLate, "%s: no answer within %s, so nothing more can be said about it", url, took), Unreachable
	case errors.Is(err, persistence.ReadOnly), errors.Is(err, persistence.Full):
		return f, Unwritable
	default:
		return f, Unusable
	}
}

// reason adds what an error says, if that is more than that time ran out.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	return " (" + Failed("", err).Detail + ")"
}

// Location passes on what the store can tell about its location, except what
// said has said already.
func Location(ctx context.Context, store persistence.Store, said persistence.Finding) []persistence.Finding {
	var lines []persistence.Finding
	if i, can := store.(persistence.Inspector); can {
		for _, f := range i.Inspect(ctx) {
			if f.Status != persistence.GradeOK && f.Remedy == "" {
				f = split(f.Status, f.Name, f.Detail)
			}
			if !strings.HasPrefix(f.Name, storeName) {
				f.Name = storeName + " " + f.Name
			}
			if f.Detail != said.Detail {
				lines = append(lines, f)
			}
		}
	}
	limits := store.Limits() // exact only once the store has been looked at
	for _, w := range limits.Warnings {
		f := Warning(storeName, w)
		if !slices.ContainsFunc(lines, func(l persistence.Finding) bool { return l.Detail == f.Detail }) {
			lines = append(lines, f)
		}
	}
	if limits.Local && !slices.ContainsFunc(lines, func(l persistence.Finding) bool { return l.Name == storeName+" shared" }) {
		lines = append(lines, warn(storeName+" shared", "use a store that all nodes share",
			"%s, which no other machine shares: none elsewhere can take over", limits.LocalWhy))
	}
	return lines
}

// measured is how long writes and reads of a register took.
type measured struct{ writes, reads []time.Duration }

// Latency renews a register of its own for a while, as a master does, and
// holds the times against the node's.
func Latency(ctx context.Context, store persistence.Store, t election.Timing) (persistence.Finding, Reached) {
	// Named like verify's scratch, which operators and fsck know.
	name := ".verify-" + strings.ToLower(rand.Text()[:16])
	scratch, err := store.Sub(name)
	if err != nil {
		return Failed(latencyName, err), Usable
	}
	var m measured
	mctx, cancel := context.WithTimeout(ctx, measureLimit)
	err = m.measure(mctx, scratch)
	cancel()
	// Also when ctx has ended: what lies around would be ours.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ReachLimit)
	defer cancel()
	cleaning := scratch.RemoveAll(cctx)
	switch {
	case errors.Is(err, persistence.Unknown) || errors.Is(err, context.DeadlineExceeded):
		f := fail(latencyName, StoreLate, "the store answers no more, or far too slowly: after %d writes that went well nothing came back within %s%s", len(m.writes), measureLimit, reason(err))
		if cleaning != nil {
			f.Remedy += "; afterwards remove " + name + " there"
		}
		return f, Unreachable
	case err != nil:
		return Failed(latencyName, err), Usable
	case cleaning != nil:
		return warn(latencyName, "remove "+name+" there by hand", "what was written to measure could not be removed: %s", Failed("", cleaning).Detail), Usable
	}
	return m.judge(t), Usable
}

func (m *measured) measure(ctx context.Context, scratch persistence.Store) error {
	value := func() []byte { return fmt.Appendf(nil, "u1.doctor.%s", strings.ToLower(rand.Text())) }
	if err := scratch.Init(ctx, value()); err != nil {
		return err
	}
	snap, err := scratch.Read(ctx)
	if err != nil {
		return err
	}
	beat := scratch.Limits().MinBeat
	// Enough to see a tail on a fast store, and over soon on a slow one.
	for end := time.Now().Add(3 * time.Second); len(m.writes) < 50 && (len(m.writes) == 0 || time.Now().Before(end)); {
		begin := time.Now()
		if snap.Version, err = scratch.CAS(ctx, snap.Version, value()); err != nil {
			return err
		}
		written := time.Now()
		if _, err := scratch.Read(ctx); err != nil {
			return err
		}
		m.writes = append(m.writes, written.Sub(begin))
		m.reads = append(m.reads, time.Since(written))
		select {
		case <-time.After(beat):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (m *measured) judge(t election.Timing) persistence.Finding {
	slices.Sort(m.writes)
	slices.Sort(m.reads)
	at := func(d []time.Duration, part int) time.Duration { return d[(len(d)-1)*part/100] }
	typical := max(at(m.writes, 50), at(m.reads, 50))
	worst := max(at(m.writes, 100), at(m.reads, 100))
	text := fmt.Sprintf("a write takes %s (at most %s of %d), a read %s (at most %s); o, the limit of one operation, is %s, the heartbeat %s",
		short(at(m.writes, 50)), short(at(m.writes, 100)), len(m.writes), short(at(m.reads, 50)), short(at(m.reads, 100)), t.Operation, t.Heartbeat)
	remedy := slower(typical, worst) + ", or find out what slows the store down"
	switch {
	case typical > t.Operation:
		return fail(latencyName, remedy, "too slow for these timings, no node could keep the mastership: %s", text)
	case worst > t.Operation/2, typical > t.Heartbeat/2:
		return warn(latencyName, remedy, "slow for these timings, hiccups may cost a reign: %s", text)
	}
	return ok(latencyName, "%s", text)
}

// slower names timings that latencies fit into.
func slower(typical, worst time.Duration) string {
	for _, preset := range []string{"default", "wan"} {
		t, err := election.Derive(election.TimingRequest{Preset: preset})
		if err == nil && worst <= t.Operation/2 && typical <= t.Heartbeat/2 {
			return "set ha.preset: " + preset + " on every node"
		}
	}
	return "raise ha.heartbeatTimeout, ha.heartbeatInterval and store.operationTimeout together"
}

// plain hides what a store can do beyond the contract: doctor asks for that
// itself, and says it once.
type plain struct{ persistence.Store }

// Semantics runs the check that a node makes at its start before it may become
// master (R18), in a scratch location.
func Semantics(ctx context.Context, store persistence.Store, t election.Timing) []persistence.Finding {
	r, err := verify.Run(ctx, plain{store}, verify.Options{Short: true, Heartbeat: t.Heartbeat, OperationTimeout: t.Operation})
	var lines []persistence.Finding
	for _, c := range r.Checks {
		if c.Status == persistence.GradeOK || c.Name == "settings" || c.Name == "latency" {
			continue // said elsewhere
		}
		c.Name, c.Detail = semanticsName, c.Name+": "+c.Detail
		lines = append(lines, c)
	}
	switch {
	case err != nil && (errors.Is(err, persistence.Unknown) || errors.Is(err, context.DeadlineExceeded)):
		lines = append(lines, fail(semanticsName, "see store latency; with slower timings, e.g. ha.preset: wan, it has more time",
			"whether the store keeps its promises could not be found out in time; a node does this check at its start too, and does not become master before it passes%s", reason(err)))
	case err != nil:
		lines = append(lines, Failed(semanticsName, err))
	case len(lines) == 0:
		lines = append(lines, ok(semanticsName, "swaps on wrong versions are refused, and of racing writers one wins each round"))
	}
	return lines
}
