// Package port finds ports of loopback for servers that are told theirs before
// they listen, and may be started on it again.
package port

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// The ranges lie beneath the one that the kernel hands out by itself (from
// 32768 on), or a connection of anybody's could have the port of a server that
// is being restarted. Each kind of server has a range of its own, since suites
// are other processes and may run side by side.
var (
	S3   = Range{10000, 2000}
	Node = Range{12000, 18000}
)

// Range is so many ports from the first one on.
type Range struct{ First, Count int }

var (
	mu    sync.Mutex
	given = map[int]bool{} // the servers of some may not listen yet, or again
)

// Free returns a port of 127.0.0.1 that nobody listens on and that this
// process was not given before.
func (r Range) Free(tb testing.TB) int {
	tb.Helper()
	mu.Lock()
	defer mu.Unlock()
	var lc net.ListenConfig
	for _, i := range rand.Perm(r.Count) {
		port := r.First + i
		if given[port] {
			continue
		}
		l, err := lc.Listen(context.WithoutCancel(tb.Context()), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		given[port] = true
		return port
	}
	tb.Fatalf("all ports from %d to %d are taken", r.First, r.First+r.Count-1)
	return 0
}
