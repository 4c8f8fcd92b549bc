package ha

import (
	"context"
	"sync"
)

// lane runs jobs one after another on a goroutine of its own and holds at most
// one waiting, so that storage that hangs delays nothing but itself. A newer
// job replaces the one that waits.
type lane struct {
	mu      sync.Mutex
	waiting func(context.Context)
	wake    chan struct{}
}

func newLane() *lane { return &lane{wake: make(chan struct{}, 1)} }

func (l *lane) put(job func(context.Context)) {
	l.mu.Lock()
	l.waiting = job
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.mu.Lock()
		job := l.waiting
		l.waiting = nil
		l.mu.Unlock()
		if job != nil {
			job(ctx)
		}
	}
}
