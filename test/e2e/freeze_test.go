package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// TestFreezeLong freezes the master's daemon for longer than T, and its store
// with it: by the service's own record the guard has stopped the service
// between E - S and E, before the next one begins, and the daemon wakes up as a
// standby. A service that heeds SIGTERM ends at the beginning of that time, one
// that does not at its end.
func TestFreezeLong(t *testing.T) {
	for _, kind := range []struct {
		name    string
		hang    bool
		service map[string]string
	}{
		{"the daemon", false, map[string]string{"REC_FORK": "1"}},
		{"the daemon and its store", true, map[string]string{"REC_FORK": "1", "REC_IGNORE_TERM": "1"}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.hang {
				need.Root(t, "mount file systems")
			}
			freezeLong(t, harness.Options{FaultFS: kind.hang, ServiceEnv: kind.service})
		})
	}
}

func freezeLong(t *testing.T, o harness.Options) {
	t.Helper()
	stop := fast(t).Stop
	p := harness.NewPlane(t, o)
	master := p.StartAndWait(settle)
	var took, ahead, into []time.Duration
	for range harness.Rounds(1, 20) {
		p.AnyMoment(fastBeat)
		old := p.Latest()
		var hang *faultfs.Fault
		if o.FaultFS {
			hang = master.Fault.Inject(faultfs.Rule{Hang: true, Deaf: true})
		}
		at := master.Signal(unix.SIGSTOP)
		end := leaseEnd(t, master)
		next := p.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		another(t, p, next, master)
		if master.Count(harness.Service) > 0 {
			t.Errorf("the next service runs, and the frozen node's is alive")
		}
		if want := fmt.Sprintf("term %d: stop begins: the lease was not renewed in time", old.Term); !strings.Contains(master.GuardLog(), want) {
			t.Errorf("the guard's log lacks %q", want)
		}
		old = p.Tree(old.ID)
		ahead = append(ahead, next.Start.Sub(old.Last))
		into = append(into, old.Last.Sub(end.Add(-stop)))
		if first := firstSignal(old); first < end.Add(-stop) || old.Last >= end {
			t.Errorf("asked to stop %v before the end of its right to serve, dead %v before it; want at most %v and more than 0",
				end.Sub(first), end.Sub(old.Last), stop)
		}
		// Longer than T in any case.
		time.Sleep(at.Add(fastT + 2*time.Second).Sub(intervals.Now()))
		if !master.Find(harness.Daemon).Stopped() {
			t.Fatal("the daemon is not frozen")
		}
		if hang != nil {
			hang.Remove()
		}
		woken := master.Signal(unix.SIGCONT)
		master.WaitStandby(settle)
		if got := p.WaitSettled(settle); got != p.NodeOf(next) {
			t.Errorf("%s is master after the other one woke, want %s", got.Name, p.NodeOf(next).Name)
		}
		if n := p.Record().StartsAfter(woken); n > 0 {
			t.Errorf("%d services started after the daemon woke, want none", n)
		}
		master = p.NodeOf(next)
	}
	harness.Figures(t, "SIGSTOP of the daemon to the next start", took)
	harness.Figures(t, fmt.Sprintf("E - S to the old service's end, S=%v", stop), into)
	harness.Figures(t, "guard's kill to the next start", ahead)
}

// leaseEnd is the end of a frozen master's right to serve, as its guard has
// noted it for the service: what the daemon sent last may still be on its way.
func leaseEnd(t *testing.T, n *harness.Node) intervals.Instant {
	t.Helper()
	path := n.LeaseFile()
	const still = 300 * time.Millisecond
	var text []byte
	since := intervals.Now()
	if !harness.Poll(time.Second, func() bool {
		b, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(b, text) {
			text, since = b, intervals.Now()
		}
		return intervals.Now().Sub(since) > still
	}) {
		t.Fatal("the lease of a frozen daemon goes on")
	}
	f := strings.Fields(string(text))
	if len(f) != 2 {
		t.Fatalf("%s says %q", path, text)
	}
	end, err := strconv.ParseInt(f[1], 10, 64)
	must(t, err)
	return intervals.Instant(end)
}

// TestFreezeShort freezes the master's daemon until its guard has begun to
// stop the service, then wakes it before its lease has ended, with its store
// hung: it must not start anything again in that term, although by its own
// clock the lease is still ahead.
func TestFreezeShort(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{
		FaultFS: true,
		// A service that ends is a reason to start it again.
		Settings: map[string]any{"service.restart": "always"},
		// The service is still there when the daemon wakes.
		ServiceEnv: map[string]string{"REC_STOP_DELAY": "500", "REC_FORK": "1"},
	})
	master := p.StartAndWait(settle)
	const (
		stopBegins = 2450 * time.Millisecond // D of the preset "fast"
		leaseEnds  = 4450 * time.Millisecond // E
	)
	var signalled, took []time.Duration
	for range harness.Rounds(2, 20) {
		p.AnyMoment(fastBeat)
		old := p.Latest()
		hang := master.Fault.Inject(faultfs.Rule{Hang: true, Deaf: true})
		at := master.Signal(unix.SIGSTOP)
		var first intervals.Instant
		if !harness.Poll(leaseEnds, func() bool {
			first = firstSignal(p.Tree(old.ID))
			return first != 0
		}) {
			t.Fatal("the guard did not stop the service of a frozen daemon")
		}
		woken := master.Signal(unix.SIGCONT)
		signalled = append(signalled, first.Sub(at))
		// The lease began before the freeze, so it ends no later than this.
		if late := woken.Sub(first); late > leaseEnds-stopBegins-200*time.Millisecond {
			t.Errorf("woken %v after the first signal: too late to prove anything", late)
		}
		next := p.WaitStart(first, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		another(t, p, next, master)
		if hang.Fired() == 0 {
			t.Error("nothing was asked of the hung store")
		}
		master.Fault.Clear()
		p.WaitSettled(2 * settle)
		for _, tree := range p.Record().Trees {
			if tree.Node == old.Node && tree.Term == old.Term && tree.ID != old.ID {
				t.Errorf("started again in term %d: %v, after %v", tree.Term, tree, old)
			}
		}
		// A run may die before it writes a record; the guard knows of it.
		log := master.GuardLog()
		for _, what := range []string{"stop begins: ", "run "} {
			if n := strings.Count(log, fmt.Sprintf(": term %d: %s", old.Term, what)); n != 1 {
				t.Errorf("the guard has %d lines of term %d with %q, want one:\n%s", n, old.Term, what, log)
			}
		}
		master = p.WaitSettled(settle)
	}
	harness.Figures(t, "SIGSTOP to the guard's first signal", signalled)
	harness.Figures(t, "SIGSTOP to the next start, store hung", took)
}

// firstSignal is when a process of the service was first asked to stop.
func firstSignal(tree intervals.Tree) intervals.Instant {
	var first intervals.Instant
	for _, q := range tree.Processes {
		if len(q.Signals) > 0 && (first == 0 || q.Signals[0] < first) {
			first = q.Signals[0]
		}
	}
	return first
}
