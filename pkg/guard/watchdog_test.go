package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/watchdog"
)

// fake is a watchdog that writes down what is done to it, and when.
type fake struct{ f *os.File }

// coarse is the shortest timeout of a fake whose file is named for it.
const coarse = 60 * time.Second

func openFake(path string) (watchdog.Device, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, errors.New("there is no watchdog")
	}
	d := fake{f}
	return d, d.note("open")
}

func lookFake(_, path string) (watchdog.Info, bool) {
	_, err := os.Stat(path)
	name := filepath.Base(path)
	return watchdog.Info{Device: path, Known: true, Identity: "fake", Running: name == "running", Nowayout: name == "nowayout"}, err == nil
}

func (d fake) note(what string) error {
	_, err := fmt.Fprintf(d.f, "%s %d\n", what, clock.Now().Boot)
	return err
}

func (d fake) SetTimeout(t time.Duration) (time.Duration, error) {
	if filepath.Base(d.f.Name()) == "coarse" {
		return coarse, nil
	}
	return t, d.note("timeout-" + t.String())
}
func (d fake) Feed() error { return d.note("feed") }
func (d fake) Stop() error { return errors.Join(d.note("stop"), d.f.Close()) }

// bite is one thing that was done to the fake.
type bite struct {
	what string
	at   time.Duration // CLOCK_BOOTTIME
}

// bites are all of them, those of the trial at the guard's start left out.
func bites(t *testing.T, d *daemon) []bite {
	t.Helper()
	out := noted(t, filepath.Join(d.dir, "dog"))
	const trial = 4 // open, timeout, feed, stop
	if len(out) < trial || out[0].what != "open" || out[trial-1].what != "stop" {
		t.Fatalf("the guard has not tried it: %v", out)
	}
	return out[trial:]
}

func noted(t *testing.T, path string) (out []bite) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var x bite
		var ns int64
		if n, _ := fmt.Sscan(line, &x.what, &ns); n != 2 {
			t.Fatalf("line %q", line)
		}
		x.at = time.Duration(ns)
		out = append(out, x)
	}
	return out
}

// watched starts a daemon whose guard keeps a fake.
func watched(t *testing.T, timeout time.Duration) *daemon {
	t.Helper()
	return startDaemon(t, variant{isolation: IsolationGroup, watchdog: func(dir string) *Watchdog {
		path := filepath.Join(dir, "dog")
		if err := os.WriteFile(path, nil, 0o666); err != nil { //nolint:gosec // a test's own
			t.Fatal(err)
		}
		return &Watchdog{Device: path, Timeout: timeout, Required: true}
	}})
}

// feeds are when it was fed, which starting it does as well.
func feeds(bs []bite) (at []time.Duration) {
	for _, b := range bs {
		if b.what == "feed" {
			at = append(at, b.at)
		}
	}
	return at
}

func count(bs []bite, what string) (n int) {
	for _, b := range bs {
		if b.what == what {
			n++
		}
	}
	return n
}

func TestWatchdogIsFedWhileTheLeaseIsAhead(t *testing.T) {
	t.Parallel()
	const timeout = 5 * time.Second // long for a busy machine
	d := watched(t, timeout)
	if bs := bites(t, d); len(bs) != 0 {
		t.Errorf("before any term: %v", bs)
	}
	d.serve(1, service{})
	if !within(wait, func() bool { return len(feeds(bites(t, d))) > 10 }) {
		t.Fatalf("fed %v", feeds(bites(t, d)))
	}
	at := feeds(bites(t, d))
	for i := 1; i < len(at); i++ {
		if gap := at[i] - at[i-1]; gap > timeout {
			t.Errorf("not fed for %v, it would have gone off", gap)
		}
	}
	if n := count(bites(t, d), "stop"); n != 0 {
		t.Error("stopped in the middle of a term")
	}
	d.tell(order{Do: opStop, Term: 1})
	d.wait(Empty)
	if !within(wait, func() bool { return count(bites(t, d), "stop") == 1 }) {
		t.Errorf("not stopped although the term is over: %v", bites(t, d))
	}
	// The next term starts it again.
	d.serve(2, service{Name: "second"})
	if !within(wait, func() bool { return count(bites(t, d), "open") == 2 }) {
		t.Error("not started again")
	}
}

// A daemon that is silent: whatever happens then, no feeding may put the reset
// beyond the end of the right to serve. The service is deaf to TERM and dies by
// KILL, so the machine is not reset either.
func TestWatchdogIsNotFedTowardsTheEnd(t *testing.T) {
	t.Parallel()
	const timeout, stop, kill, end = 4 * time.Second, 3 * time.Second, 4 * time.Second, 6 * time.Second
	d := watched(t, timeout)
	d.serve(1, stubborn())
	t0 := boot()
	d.arm(1, stop, kill, end)
	armed := boot() // T0 of the deadline lies between
	before := len(feeds(bites(t, d)))
	signalOf(t, d.proc.Pid, unix.SIGSTOP)
	d.dead(wait, stubbornNames...)
	signalOf(t, d.proc.Pid, unix.SIGCONT)
	if e := d.wait(Empty); !e.Final {
		t.Errorf("%+v", e)
	}
	if !within(wait, func() bool { return count(bites(t, d), "stop") == 1 }) {
		t.Fatal("not stopped although nothing lives")
	}
	at := feeds(bites(t, d))
	last := at[len(at)-1]
	if last+timeout > armed+end {
		t.Errorf("fed %v after t0, so it would have gone off %v after t0, beyond %v", last-t0, last+timeout-t0, end)
	}
	if len(at) == before {
		t.Error("not fed any more, although it might have been until End - Timeout")
	}
}

// One that can not be stopped is fed from the guard's start to its end, but for
// the last part of a term that is not renewed.
func TestWatchdogThatCanNotBeStopped(t *testing.T) {
	t.Parallel()
	const timeout, stop, kill, end = 4 * time.Second, 3 * time.Second, 4 * time.Second, 6 * time.Second
	var path string
	d := startDaemon(t, variant{isolation: IsolationGroup, watchdog: func(dir string) *Watchdog {
		path = filepath.Join(dir, "nowayout")
		if err := os.WriteFile(path, nil, 0o666); err != nil { //nolint:gosec // a test's own
			t.Fatal(err)
		}
		return &Watchdog{Device: path, Timeout: timeout}
	}})
	if lost := strings.Join(d.lost, "; "); !strings.Contains(lost, "nowayout") {
		t.Errorf("not said at the start: %s", lost)
	}
	fed := func() int { return len(feeds(noted(t, path))) }
	if !within(wait, func() bool { return fed() > 4 }) {
		t.Error("not fed before any term")
	}
	d.serve(1, stubborn())
	t0 := boot()
	d.arm(1, stop, kill, end)
	armed := boot()
	d.dead(wait, stubbornNames...)
	d.wait(Empty)
	last := d.lastBeat(stubbornNames...)
	after := fed()
	if !within(wait, func() bool { return fed() > after+4 }) {
		t.Error("not fed after the term")
	}
	if n := count(noted(t, path), "stop"); n != 0 {
		t.Error("stopped in between")
	}
	for _, at := range feeds(noted(t, path)) {
		if at > t0 && at < last && at+timeout > armed+end {
			t.Errorf("fed %v after t0, and the service's last beat was %v after it", at-t0, last-t0)
		}
	}
}

// A guard that is killed can not stop it: it goes off unless what is left is
// proven gone and another guard stops it.
func TestWatchdogOutlivesItsGuard(t *testing.T) {
	t.Parallel()
	d := watched(t, 2*time.Second)
	d.serve(1, service{})
	d.kill9(d.guard)
	d.guardKilled = true
	d.wait(Lost)
	if bs := bites(t, d); count(bs, "stop") != 0 || len(feeds(bs)) == 0 {
		t.Errorf("%v", bs)
	}
}

func TestWatchdogThatCanNotBeHad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "coarse"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(w Watchdog) (*Client, error) {
		w.Timeout = 2 * time.Second
		return Start(t.Context(), Options{DataDir: t.TempDir(), Isolation: IsolationGroup, Log: os.Stderr, Watchdog: &w})
	}
	for device, words := range map[string]string{"none": "there is no watchdog", "coarse": "can not be set to less than 1m0s"} {
		path := filepath.Join(dir, device)
		if _, err := start(Watchdog{Device: path, Required: true}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s, required: %v", device, err)
		}
		c, err := start(Watchdog{Device: path})
		if err != nil {
			t.Errorf("%s, automatic: %v", device, err)
			continue
		}
		if lost := strings.Join(c.Lost(), "; "); !strings.Contains(lost, words) {
			t.Errorf("%s: what is lost is not said: %s", device, lost)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A watchdog that runs already is taken over only where nothing can be left of
// what it is to end.
func TestWatchdogThatRunsAlready(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "running")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tree  *Tree
		taken bool
	}{
		"no former run":           {nil, true},
		"a former run that ended": {&Tree{Term: 7, BootID: bootID(), Isolation: IsolationGroup, Empty: true}, true},
		"one that may be alive":   {&Tree{Term: 7, BootID: bootID(), Isolation: IsolationGroup}, false},
		"one before the boot":     {&Tree{Term: 7, BootID: "another", Isolation: IsolationGroup}, true},
		"one the daemon ended":    {&Tree{Term: 3, BootID: bootID(), Isolation: IsolationGroup}, true},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			if c.tree != nil {
				f, err := newTree(data)
				if err == nil {
					err = errors.Join(commitTree(f, data, *c.tree), f.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			g, err := Start(t.Context(), Options{
				DataDir: data, Isolation: IsolationGroup, Log: os.Stderr, MinTerm: 5,
				Watchdog: &Watchdog{Device: path, Timeout: 2 * time.Second, Required: true},
			})
			if (err == nil) != c.taken {
				t.Errorf("taken over: %v, %v", err == nil, err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "it is left to reset this machine") {
					t.Error(err)
				}
				return
			}
			if err := g.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
