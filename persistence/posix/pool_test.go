package posix

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// leave has callers of p leave all its workers behind, which come back when
// the returned function is called.
func leave(t *testing.T, p *pool) (comeBack func()) {
	t.Helper()
	gate := make(chan struct{})
	for range maxWorkers {
		ctx, cancel := context.WithCancel(t.Context())
		inside := make(chan struct{})
		done := make(chan error)
		go func() {
			_, err := call(ctx, p, func() (int, error) { close(inside); <-gate; return 0, nil }, nil)
			done <- err
		}()
		<-inside
		cancel()
		if err := <-done; !errors.Is(err, persistence.Unknown) {
			t.Fatalf("a caller that left got %v", err)
		}
	}
	return func() { close(gate) }
}

// TestCallersHaveJustLeft: what a node does last, after it has given up
// whatever it was doing, is not refused because that takes another moment.
func TestCallersHaveJustLeft(t *testing.T) {
	p := newPool("/nowhere", "object")
	comeBack := leave(t, p)
	time.AfterFunc(25*time.Millisecond, comeBack)
	if got, err := call(t.Context(), p, func() (int, error) { return 1, nil }, nil); err != nil || got != 1 {
		t.Errorf("got %d, %v; want 1", got, err)
	}
}

func TestCallersHaveLeftForGood(t *testing.T) {
	p := newPool("/nowhere", "object")
	comeBack := leave(t, p)
	defer comeBack()
	_, err := call(t.Context(), p, func() (int, error) { return 1, nil }, nil)
	if !errors.Is(err, errNotSent) || t.Context().Err() != nil {
		t.Errorf("got %v, want an error before the context's end", err)
	}
}
