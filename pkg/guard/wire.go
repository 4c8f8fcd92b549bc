package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Deadline is what the guard holds for one term. All durations count from T0
// and are judged with lease.Instant.Longest.
type Deadline struct {
	Term lease.Term
	T0   lease.Instant
	Stop time.Duration // first signal
	Kill time.Duration // KILL to everything left
	End  time.Duration // the tree must be gone
}

// valid reports what is wrong with a deadline, "" if nothing is.
func (d Deadline) valid(now lease.Instant) string {
	switch {
	case d.Term == 0:
		return "term 0 is nobody's"
	case d.Stop <= 0 || d.Kill < d.Stop || d.End < d.Kill:
		return "a deadline needs 0 < Stop <= Kill <= End"
	case now.Longest(d.T0) < 0:
		return "a renewal can not begin in the future"
	}
	return ""
}

// Run describes one start of the service.
type Run struct {
	Term lease.Term
	ID   uint64   // drawn by the caller, not 0; events name it
	Argv []string // exec form; looked up in the PATH of Env when it has no slash
	Env  []string // the whole environment
	Dir  string   // working directory; empty: /
}

// What the daemon asks of the guard.
const (
	opConfig = "config"
	opArm    = "arm"
	opStart  = "start"
	opAux    = "aux"
	opStop   = "stop"
	opClose  = "close"
)

type request struct {
	Op     string
	Config *config    `json:",omitempty"`
	Arm    *Deadline  `json:",omitempty"`
	Run    *Run       `json:",omitempty"`
	Aux    *Aux       `json:",omitempty"`
	Term   lease.Term `json:",omitempty"`
	Why    string     `json:",omitempty"`
}

type config struct {
	DataDir        string
	Isolation      string
	StopSignal     int
	GuardStop      time.Duration
	ReleaseArgv    []string
	ReleaseStdin   []byte
	ReleaseTimeout time.Duration
	Incarnation    lease.Incarnation
	MinTerm        lease.Term
	LeaseFile      string
	Finals         Finals
	Floating       *address.Floating
	Watchdog       *Watchdog
	Outside        *Outside
	Unproven       lease.Term
}

// EventKind tells what the guard has to say.
type EventKind string

// What the guard says.
const (
	// Armed: the deadline of Term with T0 is held (G1).
	Armed EventKind = "armed"
	// Started: the service of Run executes; Pid is its main process.
	Started EventKind = "started"
	// Refused: Run was not started and never will be; Why says why.
	Refused EventKind = "refused"
	// NotExecutable: the command of Run could not be executed; Exit is 127
	// when it does not exist and 126 otherwise. Empty follows.
	NotExecutable EventKind = "not-executable"
	// Exited: the main process of Run ended with Exit. Empty follows.
	Exited EventKind = "exited"
	// Stopping: the guard began to stop Term by itself; Why says why.
	Stopping EventKind = "stopping"
	// Stuck: the tree is alive at the end of the right to serve, or what others
	// run for it is not proven to have stopped.
	Stuck EventKind = "stuck"
	// Unproven: Run's tree has ended, and the probe of what others run for it
	// says in Why something else than that this has stopped. It is asked again.
	Unproven EventKind = "unproven"
	// Empty: nothing of Run's tree is alive, nor of what others ran for it. With Final nothing of Term is,
	// auxiliary runs included, or will ever be started again (G2).
	Empty EventKind = "empty"
	// AuxStarted: the command of the auxiliary run Run executes as Pid.
	AuxStarted EventKind = "aux-started"
	// AuxRefused: it was not started and never will be; Why says why.
	AuxRefused EventKind = "aux-refused"
	// AuxEnded: nothing of it is alive. Exit is that of its command, 127 or 126
	// with Why if it could not be executed, -1 if it is not known; TimedOut
	// says that it was killed for its Timeout. Output is what it wrote to its
	// standard output and error, the last 4 KiB.
	AuxEnded EventKind = "aux-ended"
	// AuxStuck: it survives KILL. AuxEnded follows if it ever ends.
	AuxStuck EventKind = "aux-stuck"
	// Lost: the guard is gone. It is the last event of a Client.
	Lost EventKind = "lost"

	hello EventKind = "hello"
)

// Event is one thing the guard says.
type Event struct {
	Kind  EventKind
	Term  lease.Term     `json:",omitempty"`
	T0    *lease.Instant `json:",omitempty"`
	Run   uint64         `json:",omitempty"`
	Pid   int            `json:",omitempty"` // as the guard sees it; 0 if unknown
	Exit  int            `json:",omitempty"` // 128+n for death by signal n, -1 if unknown
	Why   string         `json:",omitempty"`
	Final bool           `json:",omitempty"`

	Output   string `json:",omitempty"`
	TimedOut bool   `json:",omitempty"`

	Isolation string   `json:",omitempty"`
	LostWords []string `json:",omitempty"`
}

// What the guard tells the shim, and back.
type shimOrder struct {
	Run    *Run   `json:",omitempty"` // go
	Aux    bool   `json:",omitempty"` // its output is reported, and what it leaves is killed at once
	Stdin  []byte `json:",omitempty"` // of an auxiliary run
	Signal int    `json:",omitempty"` // stop: this signal to the main process' group, then to the rest
}

type shimReport struct {
	Pid    int    `json:",omitempty"` // started; in the shim's own PID namespace
	Errno  int    `json:",omitempty"` // could not be executed
	Why    string `json:",omitempty"`
	Exited bool   `json:",omitempty"`
	Exit   int    `json:",omitempty"`
	Output string `json:",omitempty"` // of an auxiliary run
}

const (
	maxLine    = 4 << 20 // bytes of one message: an environment fits
	maxPending = 1 << 20 // bytes that wait for a peer who does not read
)

// lineConn carries one JSON value per line over a non-blocking socket. It
// never waits: what the peer does not take is kept up to maxPending bytes and
// then dropped, because a frozen daemon must not hold up its guard.
type lineConn struct {
	fd  int
	in  []byte
	out []byte
	eof bool // the peer will say nothing more, or nothing sensible
}

func newLineConn(fd int) (*lineConn, error) {
	return &lineConn{fd: fd}, unix.SetNonblock(fd, true)
}

// receive calls f for each whole line that is there.
func (c *lineConn) receive(f func(line []byte)) {
	buf := make([]byte, 64<<10)
	for !c.eof {
		n, err := unix.Read(c.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil || n <= 0:
			c.eof = true
			return
		}
		c.in = append(c.in, buf[:n]...)
		for {
			i := bytes.IndexByte(c.in, '\n')
			if i < 0 {
				break
			}
			line := c.in[:i]
			c.in = c.in[i+1:]
			f(line)
		}
		if len(c.in) > maxLine {
			c.eof = true
			return
		}
		if len(c.in) == 0 {
			c.in = nil
		}
	}
}

// send queues v and writes what can be written. It reports false when v had
// to be dropped.
func (c *lineConn) send(v any) bool {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxLine || (len(c.out) > 0 && len(c.out)+len(b) > maxPending) {
		return false
	}
	c.out = append(append(c.out, b...), '\n')
	c.flush()
	return true
}

// flush writes what can be written without waiting.
func (c *lineConn) flush() {
	for len(c.out) > 0 {
		// MSG_NOSIGNAL: a peer that is gone must not cost us SIGPIPE.
		n, err := unix.SendmsgN(c.fd, c.out, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			c.out = nil // the peer is gone; its death is noticed elsewhere
			return
		}
		c.out = c.out[n:]
	}
	c.out = nil
}

func (c *lineConn) pollFd() unix.PollFd {
	p := unix.PollFd{Fd: int32(c.fd)}
	if !c.eof {
		p.Events |= unix.POLLIN
	}
	if len(c.out) > 0 {
		p.Events |= unix.POLLOUT
	}
	if p.Events == 0 {
		p.Fd = -1 // nothing to wait for; POLLHUP would spin
	}
	return p
}
