package server

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Failed logins of one address as one user may come this often before the next
// is made to wait, and twice as long after each failure.
const (
	freeFailures = 3
	firstDelay   = time.Second
	longestDelay = time.Minute
	// freePerAddress is the same for one address, whoever it says it is.
	freePerAddress = 30
	// forgetAfter is how long a failure is remembered.
	forgetAfter = 10 * time.Minute
	// maxClients bounds how many addresses and names are remembered.
	maxClients = 4096
)

// client is what one address has done, as one user or altogether.
type client struct {
	addr netip.Addr
	user string // empty: altogether
}

// logins remembers failed logins.
type logins struct {
	mu     sync.Mutex
	failed map[client]failures
}

type failures struct {
	count int
	last  lease.Instant
}

// delay is how long after its last failure a client has to wait.
func (f failures) delay(free int) time.Duration {
	if f.count < free {
		return 0
	}
	return time.Duration(min(float64(longestDelay), float64(firstDelay)*math.Pow(2, float64(f.count-free))))
}

// wait is how long the client has to wait before it may try again.
func (l *logins) wait(addr netip.Addr, user string, now lease.Instant) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := func(c client, free int) time.Duration {
		f, ok := l.failed[c]
		if !ok {
			return 0
		}
		return f.delay(free) - now.Longest(f.last)
	}
	return max(0, left(client{addr, user}, freeFailures), left(client{addr: addr}, freePerAddress))
}

// add counts a failure.
func (l *logins) add(addr netip.Addr, user string, now lease.Instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = map[client]failures{}
	}
	for _, c := range []client{{addr, user}, {addr: addr}} {
		f := l.failed[c]
		if f.count > 0 && now.Longest(f.last) > forgetAfter {
			f.count = 0
		}
		l.failed[c] = failures{f.count + 1, now}
	}
	if len(l.failed) > maxClients {
		l.shrink(now)
	}
}

// shrink forgets the old; and anybody, if that does not halve it.
func (l *logins) shrink(now lease.Instant) {
	for c, f := range l.failed {
		if now.Longest(f.last) > forgetAfter {
			delete(l.failed, c)
		}
	}
	for c := range l.failed {
		if len(l.failed) <= maxClients/2 {
			return
		}
		delete(l.failed, c)
	}
}

// succeeded forgets what the address did as this user.
func (l *logins) succeeded(addr netip.Addr, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failed, client{addr, user})
}

// delayed returns the refusal to send to a client that has failed too often.
func (s *server) delayed(addr netip.Addr, user string) *response {
	wait := s.logins.wait(addr, user, s.node.Now())
	if wait <= 0 {
		return nil
	}
	resp := tooMany("too many failed logins", wait)
	return &resp
}

func tooMany(message string, wait time.Duration) response {
	secs := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return failure(http.StatusTooManyRequests, message+"; try again in "+secs+" s", "").with("Retry-After", secs)
}

// limiter lets through a number of events per second of the node's own clock.
type limiter struct {
	mu    sync.Mutex
	last  lease.Instant
	avail float64
}

func (l *limiter) allow(now lease.Instant, perSecond, burst float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.last, l.avail = now, burst
	}
	if d := now.Shortest(l.last); d > 0 { // requests overtake one another
		l.last, l.avail = now, min(burst, l.avail+d.Seconds()*perSecond)
	}
	if l.avail < 1 {
		return false
	}
	l.avail--
	return true
}

// rates is a limiter for each address, or whatever else tells clients apart.
type rates[K comparable] struct {
	mu sync.Mutex
	of map[K]*limiter
}

// allow lets through perSecond events of one client, burst at once. perSecond 0
// lets everything through.
func (r *rates[K]) allow(who K, now lease.Instant, perSecond, burst int) bool {
	if perSecond == 0 {
		return true
	}
	r.mu.Lock()
	l, ok := r.of[who]
	if !ok {
		if r.of == nil || len(r.of) >= maxClients {
			r.of = map[K]*limiter{} // everybody begins anew
		}
		l = &limiter{}
		r.of[who] = l
	}
	r.mu.Unlock()
	return l.allow(now, float64(perSecond), float64(burst))
}

// clientAddr is the address a request comes from. Of IPv6 it is the /64, which
// is what one client is given.
func clientAddr(r *http.Request) (exact, client netip.Addr) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, netip.Addr{}
	}
	exact = ap.Addr().Unmap().WithZone("")
	if exact.Is6() {
		if p, err := exact.Prefix(64); err == nil {
			return exact, p.Addr()
		}
	}
	return exact, exact
}
