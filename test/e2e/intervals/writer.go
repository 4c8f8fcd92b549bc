package intervals

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Writer writes what one process says about itself. A line is in the page
// cache when its method returns, hence survives kill -9; nothing is synced,
// because the tests kill processes, not machines. Methods may be called from
// several goroutines.
type Writer struct {
	// Tree names the service that the process belongs to, for the processes it
	// forks.
	Tree string

	mu sync.Mutex
	f  *os.File
}

// Create begins the record of this process: node and term are those that run
// it, tree is empty in the first process of a service, and born is when the
// process began.
func Create(dir, node, term, tree string, born Instant) (*Writer, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	// The pid alone would not do: it is 1 or 2 in a PID namespace.
	self := fmt.Sprintf("%s-%s-%d-%s", node, term, os.Getpid(), hex.EncodeToString(b[:]))
	if tree == "" {
		tree = self
	}
	f, err := os.OpenFile(filepath.Join(dir, self+Ext), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	w := &Writer{Tree: tree, f: f}
	_, err = fmt.Fprintf(f, "start %d %d %s %s %s %d\n", born, time.Now().UnixNano(), term, node, tree, os.Getpid())
	return w, err
}

// Beat says that the process is alive.
func (w *Writer) Beat() error { return w.line("beat", "") }

// Signal says that the process was sent a signal.
func (w *Writer) Signal(name string) error { return w.line("signal", " "+Word(name)) }

// Stop says that the process is about to end. Nothing may follow.
func (w *Writer) Stop(reason string) error { return w.line("stop", " "+Word(reason)) }

// line writes one line in one write call, so that a kill leaves it whole or
// absent.
func (w *Writer) line(what, rest string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := fmt.Fprintf(w.f, "%s %d%s\n", what, Now(), rest)
	return err
}
