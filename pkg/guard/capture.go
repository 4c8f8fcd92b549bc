package guard

import (
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is what is waited for the last words of a command that has ended,
// while others hold its pipe open.
const drainTime = 50 * time.Millisecond

// pipeSize is what a pipe holds, in bytes. Who leaves a process that fills it
// again and again is not waited for.
const pipeSize = 64 << 10

// tail keeps the end of what is written to a pipe.
type tail struct {
	r    *os.File
	done chan struct{}
	mu   sync.Mutex
	end  []byte
}

// capture makes the descriptors of an auxiliary run: what it reads from a
// memfd, which nobody has to feed, what it writes to a pipe that is always
// read. done closes this side's copies, after the fork.
func (s *shim) capture(stdin []byte) (files []uintptr, done func(), err error) {
	in, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	if _, err = unix.Write(in, stdin); err == nil {
		_, err = unix.Seek(in, 0, 0)
	}
	r, w, perr := os.Pipe()
	if err == nil {
		err = perr
	}
	if err != nil {
		unix.Close(in)
		return nil, nil, err
	}
	s.output = &tail{r: r, done: make(chan struct{})}
	go s.output.read()
	return []uintptr{uintptr(in), w.Fd(), w.Fd()}, func() {
		unix.Close(in)
		w.Close()
	}, nil
}

func (t *tail) read() {
	defer close(t.done)
	buf := make([]byte, maxAuxOutput)
	for {
		n, err := t.r.Read(buf)
		t.keep(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) { // last gives up
			t.drain(buf)
		}
		if err != nil {
			return // or everybody closed it
		}
	}
}

// drain takes what is in the pipe, once: past its deadline Read gives nothing of
// that, and on a busy machine all of a command's output may lie there.
func (t *tail) drain(buf []byte) {
	c, err := t.r.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { // closed: there is nothing
		for drained := 0; drained < pipeSize; {
			n, err := unix.Read(int(fd), buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				return
			}
			t.keep(buf[:n])
			drained += n
		}
	})
}

func (t *tail) keep(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	if extra := len(t.end) - maxAuxOutput; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
}

// last is the end of what was written so far, as text; empty for nil.
func (t *tail) last() string {
	if t == nil {
		return ""
	}
	_ = t.r.SetReadDeadline(time.Now().Add(drainTime))
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.end), "�")
}
