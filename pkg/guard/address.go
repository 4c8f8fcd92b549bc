package guard

import (
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// addressLimit is how long the end of a term waits for the removal of the
// floating address: the kernel may hold its lock on all addresses for others.
// After that the address' own lifetime ends it.
const addressLimit = time.Second

// floating is what the guard knows of the floating address. It never adds it:
// that is an auxiliary run, whose end is waited for before the removal counts.
type floating struct {
	address.Floating
	jobs    *backlog      // of its own: a disk that hangs must not keep an address
	asked   lease.Term    // the removal that ends this term was asked for
	since   lease.Instant // when
	pressed lease.Instant // latest removal while something is alive past KILL
	gone    lease.Term    // it is over for this term and those below
	done    atomic.Uint64 // the latest term whose removal has ended
}

// openAddress removes what a former run has left: a guard that starts has no
// term.
func (g *guardian) openAddress(f *address.Floating) {
	if f == nil {
		return
	}
	g.addr = &floating{Floating: *f, jobs: newBacklog(), gone: g.stopped}
	if !g.addr.jobs.within(addressLimit, g.removeAddress) {
		g.log.printf("floating address %s: the kernel does not answer", f)
	}
}

func (g *guardian) closeAddress() {
	if g.addr != nil {
		g.addr.jobs.close()
	}
}

func (g *guardian) removeAddress() { g.logError("floating address", g.addr.Remove()) }

// extendAddress lets the kernel keep the address until the end of the right to
// serve, should nobody be left to remove it then.
func (g *guardian) extendAddress(d Deadline) {
	if g.addr == nil {
		return
	}
	g.addr.jobs.add(func() {
		if left := d.End - clock.Now().Longest(d.T0); left > 0 {
			g.logError("floating address", g.addr.Extend(left))
		}
	})
}

// pressAddress removes the address while something of a term survives KILL.
func (g *guardian) pressAddress(now lease.Instant) {
	a := g.addr
	if a == nil || a.gone >= g.stopped || g.killIn(now) > 0 {
		return
	}
	if a.pressed.IsZero() || now.Longest(a.pressed) >= addressLimit {
		a.pressed = now
		a.jobs.add(g.removeAddress)
	}
}

// withdrawn reports whether the address is removed for good in the term that
// ends, of which nothing is alive that could still add it.
func (g *guardian) withdrawn(now lease.Instant) bool {
	a := g.addr
	if a == nil || a.gone >= g.stopped {
		return true
	}
	if a.asked < g.stopped {
		a.asked, a.since = g.stopped, now
		t := g.stopped
		a.jobs.add(func() {
			g.removeAddress()
			a.done.Store(uint64(t))
			g.wakeUp()
		})
	}
	a.gone = max(a.gone, lease.Term(a.done.Load()))
	if a.gone < g.stopped && now.Longest(a.since) >= addressLimit {
		g.log.printf("floating address %s: the kernel does not answer; it stays until its lifetime ends", a.Floating)
		a.gone = g.stopped
	}
	return a.gone >= g.stopped
}

// withdrawing reports whether the end of a term waits for the address.
func (g *guardian) withdrawing() bool { return g.addr != nil && g.addr.gone < g.stopped }

// turnRole lets the role file say that this machine is not master.
func (g *guardian) turnRole() {
	if f := g.cfg.Finals.RoleFile; f != "" {
		g.disk.add(func() { g.logError("role file", writeWhole(f, "1\n", 0o644)) })
	}
}
