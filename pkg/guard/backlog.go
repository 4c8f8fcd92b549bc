package guard

import "time"

// backlog does things with files in a goroutine of its own, in order: a disk
// that hangs must not hold up the guard.
type backlog struct {
	jobs chan func()
	done chan struct{}
}

func newBacklog() *backlog {
	b := &backlog{jobs: make(chan func(), 64), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for f := range b.jobs {
			f()
		}
	}()
	return b
}

// add reports false when too much waits already.
func (b *backlog) add(f func()) bool {
	select {
	case b.jobs <- f:
		return true
	default:
		return false
	}
}

// within adds f and waits for its end, for at most limit.
func (b *backlog) within(limit time.Duration, f func()) bool {
	ended := make(chan struct{})
	if !b.add(func() { f(); close(ended) }) {
		return false
	}
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}

// close does what is left, for at most a second.
func (b *backlog) close() {
	close(b.jobs)
	select {
	case <-b.done:
	case <-time.After(time.Second):
	}
}
