package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// Change is one change of the register.
type Change struct {
	At    intervals.Instant // when this process was told, a little after the fact
	Value lease.Value
}

// Watch reports every change of the register in a backing directory, in
// order, until ctx ends; changes then returns them. On posix the register is the name of the only file in
// a directory and each change a rename, of which inotify tells every one.
func Watch(ctx context.Context, store string) (changes func() ([]Change, error), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(store, "lease"), unix.IN_MOVED_TO); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	var out []Change
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		for failed == nil {
			ending, before := ctx.Err() != nil, len(out)
			if out, failed = wait(fd, out); ending && len(out) == before {
				return // what was done before the end is in
			}
		}
	}()
	return func() ([]Change, error) { <-done; return out, failed }, nil
}

// wait adds what happens within a moment.
func wait(fd int, out []Change) ([]Change, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	if n, err := unix.Poll(fds, 100); n == 0 || errors.Is(err, unix.EINTR) {
		return out, nil
	} else if err != nil {
		return out, err
	}
	at := intervals.Now()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return out, err
	}
	// struct inotify_event: wd, mask, cookie, len; then the name.
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		length := int(b[12]) | int(b[13])<<8 | int(b[14])<<16 | int(b[15])<<24
		name := bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00")
		b = b[unix.SizeofInotifyEvent+length:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return out, errors.New("changes of the register were missed")
		}
		v, err := lease.ParseValue(name)
		if err != nil {
			return out, err
		}
		out = append(out, Change{at, v})
	}
	return out, nil
}

// Claim is a change of the register that began a term.
type Claim struct {
	Change
	How   How
	Stood time.Duration // how long the value before had stood
}

// How says what a claim rested on.
type How string

// What claims rest on.
const (
	ByRelease How = "release"            // its holder, or its guard, had given it up
	ByTime    How = "time"               // another node's lease had ended, by time alone
	ByProof   How = "its own former run" // proven gone, or waited out
)

// Claims finds those in a list of all changes.
func Claims(changes []Change) []Claim {
	var out []Claim
	for i := 1; i < len(changes); i++ {
		before, now := changes[i-1], changes[i]
		if now.Value.Term == before.Value.Term {
			continue
		}
		c := Claim{Change: now, Stood: now.At.Sub(before.At)}
		switch {
		case !before.Value.Held:
			c.How = ByRelease
		case before.Value.Holder != now.Value.Holder:
			c.How = ByTime
		default:
			c.How = ByProof
		}
		out = append(out, c)
	}
	return out
}

// JudgeRegister returns a sentence for each change that must not have
// happened: a sequence number left out or used twice, a term that fell or
// jumped, a new term that is not held, a change of somebody else's term, and a
// claim by another node before rightEnds had passed since the last sign of the
// holder. That is the end E of the right to serve; claims come no earlier than
// 1.01 T + g, but of that this process, which may be late itself, sees only
// when it was told.
func JudgeRegister(changes []Change, rightEnds time.Duration) []string {
	var out []string
	for i := 1; i < len(changes); i++ {
		a, b := changes[i-1].Value, changes[i].Value
		say := func(what string) { out = append(out, fmt.Sprintf("register: %s: %+v, then %+v", what, a, b)) }
		if b.Seq != a.Seq+1 {
			say("the sequence is broken")
		}
		switch {
		case b.Term < a.Term:
			say("the term fell")
		case b.Term == a.Term && (b.Holder != a.Holder || b.Incarnation != a.Incarnation):
			say("one term, two holders")
		case b.Term == a.Term && b.Held && !a.Held:
			say("renewed after its release")
		case b.Term > a.Term && !b.Held:
			say("a term that begins released")
		}
	}
	for _, c := range Claims(changes) {
		if c.How == ByTime && c.Stood < rightEnds {
			out = append(out, fmt.Sprintf("register: term %d was claimed %v after the last sign of its holder, who may serve for %v", c.Value.Term, c.Stood, rightEnds))
		}
	}
	return out
}
