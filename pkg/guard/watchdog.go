package guard

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/pkg/watchdog"
)

// Watchdog is a hardware watchdog that the guard keeps while a term lasts (R11).
type Watchdog struct {
	Device string
	// Timeout is the time from the last feeding to the reset, in whole seconds.
	// It must leave a renewal the time it may take before the end of the right
	// to serve: Timeout <= End - h - 2o.
	Timeout time.Duration
	// Required: without it the guard does not start, and takes no deadline.
	Required bool
}

// dogLimit is how long the beginning and the end of a term wait for the device.
const dogLimit = 300 * time.Millisecond

// dogEvery is how often it is fed at most.
const dogEvery = 200 * time.Millisecond

// Replaced in tests.
var (
	openWatchdog = watchdog.Open
	lookWatchdog = watchdog.Look
)

// dog is what the guard knows of its watchdog. It is started with a term and
// stopped when that is over and proven so, so that a standby's machine is never
// reset; where the kernel does not let it be stopped (nowayout), or does not tell
// whether it does, it runs on and is fed as long as nothing is at stake.
//
// It is fed only while now < End - Timeout: then it can not go off after End, and
// goes off before that if nobody lives who could feed it.
type dog struct {
	Watchdog
	keep bool     // it can not be stopped
	jobs *backlog // the device is asked in a goroutine of its own

	running bool
	busy    atomic.Bool // a feeding is under way
	fed     lease.Instant

	dev watchdog.Device // owned by jobs; nil: closed
}

// openDog tries the watchdog, and says in words what is lost without it, or why
// the guard can not start.
func (g *guardian) openDog(w *Watchdog) (lost string, err error) {
	if w == nil {
		return "", nil
	}
	d := &dog{Watchdog: *w, jobs: newBacklog()}
	info, there := lookWatchdog("/", w.Device)
	if err = g.tryDog(d, info, there); err == nil {
		g.dog = d
		g.log.printf("watchdog %s (%s): resets this machine %s after it was fed last", w.Device, info.Identity, w.Timeout)
		if info.Nowayout {
			lost = "the watchdog can not be stopped again (nowayout): when this guard ends, in whatever way, the machine is reset after " + w.Timeout.String()
		}
		return lost, nil
	}
	d.jobs.close()
	err = fmt.Errorf("watchdog: %w", err)
	if w.Required {
		return "", err
	}
	return err.Error() + ". If daemon and guard are frozen together, nothing stops the service", nil
}

// tryDog starts the device and stops it again.
func (g *guardian) tryDog(d *dog, info watchdog.Info, there bool) error {
	if there && info.Running {
		// A former guard has left it running, to end what it could not; or the
		// firmware started it. Whoever takes it over must know that nothing is
		// left: of the terms up to MinTerm the daemon does, and nothing outlives
		// a boot of the machine.
		tree, found, err := LoadTree(g.cfg.DataDir)
		ours := found && tree.Term > g.cfg.MinTerm && tree.BootID == g.bootID
		if gone, why := tree.Gone(); err != nil || ours && !gone {
			return errors.Join(fmt.Errorf("%s runs, and what the former guard ran is not proven gone (%s): it is left to reset this machine", d.Device, why), err)
		}
	}
	d.keep = there && (info.Nowayout || !info.Known)
	err := d.do(2*time.Second, func() error {
		err := d.start()
		if err == nil && !d.keep {
			err = d.stop()
		}
		return err
	})
	d.running = err == nil && d.keep
	return err
}

// do has f done by the goroutine that owns the device, and waits for its end for
// at most limit.
func (d *dog) do(limit time.Duration, f func() error) error {
	result := make(chan error, 1)
	if !d.jobs.add(func() { result <- f() }) {
		return fmt.Errorf("%s does not answer", d.Device)
	}
	select {
	case err := <-result:
		return err
	case <-time.After(limit):
		return fmt.Errorf("%s does not answer within %v", d.Device, limit)
	}
}

// start opens the device with its timeout.
func (d *dog) start() error {
	if d.dev != nil {
		return d.dev.Feed()
	}
	dev, err := openWatchdog(d.Device)
	if err != nil {
		return err
	}
	d.dev = dev
	got, err := dev.SetTimeout(d.Timeout)
	if err == nil && got > d.Timeout {
		err = fmt.Errorf("%s can not be set to less than %s, and it must go off within %s; use longer timings, or another device", d.Device, got, d.Timeout)
	}
	if err == nil {
		d.Timeout = got
		err = dev.Feed()
	}
	if err != nil {
		return errors.Join(err, d.stop())
	}
	return nil
}

func (d *dog) stop() error {
	dev := d.dev
	d.dev = nil
	if dev == nil {
		return nil
	}
	return dev.Stop()
}

// startDog starts the watchdog for a deadline, and says why that must not be
// taken, "" if it may.
func (g *guardian) startDog(d Deadline) string {
	w := g.dog
	if w == nil || w.running && g.armed.Term == d.Term {
		return ""
	}
	now := clock.Now()
	var err error
	switch {
	case d.End-now.Longest(d.T0) <= w.Timeout: // fed now, or lately
		err = errors.New("it would go off after the end of the right to serve")
	case !w.running:
		err = w.do(dogLimit, w.start)
		w.running, w.fed = err == nil, now
	}
	if err == nil {
		return ""
	}
	g.log.printf("term %d: watchdog: %v", d.Term, err)
	if w.Required {
		return "watchdog: " + err.Error()
	}
	return ""
}

// feedDog feeds it, if it runs and may be fed.
func (g *guardian) feedDog(now lease.Instant) {
	w := g.dog
	if w == nil || !w.running || now.Longest(w.fed) < min(dogEvery, w.Timeout/5) {
		return
	}
	live, d, limit := g.armed.Term > g.final, g.armed, w.Timeout
	may := func(now lease.Instant) bool { return !live || now.Longest(d.T0) < d.End-limit }
	if !may(now) || w.busy.Swap(true) {
		return
	}
	w.fed = now
	if !w.jobs.add(func() {
		defer w.busy.Store(false)
		// The clock again: this may have waited.
		if w.dev != nil && may(clock.Now()) {
			g.logError("watchdog", w.dev.Feed())
		}
	}) {
		w.busy.Store(false)
	}
}

// stopDog stops it: the term is over, and nothing of it is alive.
func (g *guardian) stopDog() {
	w := g.dog
	if w == nil || !w.running || w.keep {
		return
	}
	w.running = false
	w.jobs.add(func() { g.logError("watchdog", w.stop()) })
}

// closeDog ends the goroutine that owns the device. A guard that ends has nothing
// left that runs.
func (g *guardian) closeDog() {
	if w := g.dog; w != nil {
		w.jobs.add(func() { g.logError("watchdog", w.stop()) })
		w.jobs.close()
	}
}
