package guard

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is what is waited for the last words of a command that has ended,
// while others hold its pipe open.
const drainTime = 50 * time.Millisecond

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
		t.mu.Lock()
		t.end = append(t.end, buf[:n]...)
		if extra := len(t.end) - maxAuxOutput; extra > 0 {
			t.end = append(t.end[:0], t.end[extra:]...)
		}
		t.mu.Unlock()
		if err != nil {
			return // everybody closed it, or last gave up
		}
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
