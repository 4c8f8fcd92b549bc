package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// BenchmarkLoad reads 200,000 keys of a kibibyte: half of them out of a
// snapshot, half out of the log after it.
func BenchmarkLoad(b *testing.B) {
	const keys, each = 200_000, 1000
	l := newLog(b)
	var snap lease.Head
	for at := 0; at < keys; at += each {
		x := journal.Txn{}
		for i := at; i < at+each; i++ {
			x.Changes = append(x.Changes, journal.Change{Key: fmt.Sprintf("key/%07d", i), Value: bytes.Repeat([]byte{byte(i)}, 1<<10)})
		}
		l.commit(1, snap, false, x)
		if snap = (lease.Head{}); at == keys/2 {
			snap = l.snapshot(time.Unix(1, 0))
		}
	}
	b.SetBytes(l.state.Bytes())
	for b.Loop() {
		if _, err := l.loader().Load(context.Background(), l.state.Head, nil); err != nil {
			b.Fatal(err)
		}
	}
}
