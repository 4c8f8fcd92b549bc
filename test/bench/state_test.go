package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/s3/server"
)

const (
	writers    = 64
	rounds     = 300 // of one writer, and of the raw store beside it
	valueBytes = 100
	together   = 5 * time.Second // how long 64 writers write
	mostRatio  = 1.3             // of a single writer's latency to the raw store's
	leastTimes = 10              // of 64 writers' changes to one commit per change
)

// place opens handles on one store; each call another prefix or directory.
type place func(t *testing.T, name string) persistence.Store

func TestStateThroughput(t *testing.T) {
	t.Run("posix", func(t *testing.T) {
		root := scratch(t)
		throughput(t, func(t *testing.T, name string) persistence.Store {
			t.Helper()
			dir := filepath.Join(root, name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			s, err := posix.Open(dir, posix.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
	t.Run("s3", func(t *testing.T) {
		srv := server.Start(t, server.Versity)
		inPath := true
		throughput(t, func(t *testing.T, name string) persistence.Store {
			t.Helper()
			s, err := s3.Open(srv.Bucket, name, s3.Options{Endpoint: srv.URL, PathStyle: &inPath, Credentials: srv.Keys()})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
}

// scratch is a directory on the disk that dataDir would be on.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "understudy-bench-") //nolint:usetesting // removed before the next part
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func throughput(t *testing.T, open place) {
	t.Helper()
	raw := newRaw(t, open(t, "raw"))
	n := start(t, open(t, "plane"), nil)
	put := func(key string) {
		if _, err := n.Persisted().Put(t.Context(), key, bytes.Repeat([]byte{'x'}, valueBytes)); err != nil {
			t.Error(err)
		}
	}
	// In turns, so that both meet whatever else the machine does.
	var one, two []time.Duration
	for i := range rounds {
		one = append(one, timed(raw.commit))
		two = append(two, timed(func() { put(fmt.Sprint("single/", i%50)) }))
	}
	ratio := float64(median(two)) / float64(median(one))

	var changes atomic.Int64
	before := n.Status().Counts.Commits
	ctx, cancel := context.WithTimeout(t.Context(), together)
	defer cancel()
	began := time.Now()
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				put(fmt.Sprintf("many/%d/%d", w, i%50))
				changes.Add(1)
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	rate := float64(changes.Load()) / took.Seconds()
	alone := 1 / median(one).Seconds()
	t.Logf("one segment and one compare-and-swap: median %v, that is %.0f commits per second", median(one).Round(time.Microsecond), alone)
	t.Logf("one writer: median %v, %.2f times that (at most %.1f)", median(two).Round(time.Microsecond), ratio, mostRatio)
	t.Logf("%d writers: %.0f changes per second in %.0f commits, %.1f times one commit per change (at least %d)", writers, rate,
		float64(n.Status().Counts.Commits-before)/took.Seconds(), rate/alone, leastTimes)
	if ratio > mostRatio {
		t.Errorf("a single writer takes %.2f times what the store takes, at most %.1f", ratio, mostRatio)
	}
	if rate < leastTimes*alone {
		t.Errorf("%d writers make %.1f times as many changes as one commit per change would, at least %d", writers, rate/alone, leastTimes)
	}
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func median(ds []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(ds))[len(ds)/2]
}

// raw does to a store what one commit does, and nothing else.
type raw struct {
	t       *testing.T
	store   persistence.Store
	value   lease.Value
	version persistence.Version
	segment []byte
}

func newRaw(t *testing.T, store persistence.Store) *raw {
	t.Helper()
	r := &raw{t: t, store: store, value: lease.Value{Plane: ha.NewPlaneID(), Lease: 5 * time.Second, WriteID: ha.NewWriteID()}}
	if err := store.Init(t.Context(), r.value.Encode()); err != nil {
		t.Fatal(err)
	}
	snap, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.version = snap.Version
	b := journal.NewBatch(journal.Empty(), false)
	if _, err := b.Add(journal.Txn{Changes: []journal.Change{{Key: "single/1", Value: make([]byte, valueBytes)}}}); err != nil {
		t.Fatal(err)
	}
	r.segment = b.Segment(r.value.Plane, 1, "aaaaaaaaaaaaaaaa", lease.Head{}, false).Encode()
	return r
}

func (r *raw) commit() {
	r.value.Seq++
	r.value.WriteID = ha.NewWriteID()
	r.value.Head = lease.Head{Seq: uint64(r.value.Seq), Rand: "aaaaaaaaaaaaaaaa"}
	err := r.store.Put(r.t.Context(), journal.SegmentKey(r.value.Head), bytes.NewReader(r.segment), int64(len(r.segment)))
	if err == nil {
		r.version, err = r.store.CAS(r.t.Context(), r.version, r.value.Encode())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// node is one running node.
type node struct {
	*ha.Node
	stop func() // and wait
}

// start runs a node until the test ends, and waits until it is master, or holds
// the state if there is one already.
func start(t *testing.T, store persistence.Store, master *node) *node {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Timeout: 15 * time.Second, PollDivisor: store.Limits().PollDivisor})
	if err != nil {
		t.Fatal(err)
	}
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: timing.Timeout, WriteID: ha.NewWriteID()}
	if err := store.Init(t.Context(), v.Encode()); err != nil && !isConflict(err) {
		t.Fatal(err)
	}
	n, err := ha.New(store, ha.Options{
		Node: ha.NewNodeID(), Timing: timing, HotStandby: true, Clock: clock.Now, Persist: &ha.Persist{},
		OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); wait.Wait(); _ = store.Close() })
	t.Cleanup(stop)
	want := lease.StateMaster
	if master != nil {
		want = lease.StateHotStandby
	}
	until(t, 5*time.Minute, string(want), func() bool { return n.State() == want && n.Status().Persisted.Lag == 0 })
	return &node{n, stop}
}

func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(time.Millisecond)
	}
}

func isConflict(err error) bool { return errors.Is(err, persistence.Conflict) }

const (
	manyKeys     = 1_000_000
	manyValue    = 1 << 10
	mostCold     = 10 * time.Second
	mostHot      = 500 * time.Millisecond
	keysPerWrite = 1000
)

// TestPromotionWithAMillionKeys measures how long it takes from the claim until
// the service starts: of a node that has the state still to read, with nothing
// of it in the page cache, and of a hot standby.
func TestPromotionWithAMillionKeys(t *testing.T) {
	dir := scratch(t)
	open := func() persistence.Store {
		s, err := posix.Open(dir, posix.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := start(t, open(), nil)
	fill(t, first)
	first.stop()
	forget(t, dir)
	runtime.GC()

	spent := processor()
	cold := start(t, open(), nil)
	took := promoted(t, cold)
	t.Logf("cold: %v from the claim to the start of the service with %d keys, %d MiB (at most %v); %v of processor time, %d MiB of heap",
		took, cold.Status().Persisted.Keys, cold.Status().Persisted.Bytes>>20, mostCold, processor()-spent, heap())
	if took > mostCold || cold.Status().Persisted.Keys != manyKeys {
		t.Errorf("cold: %v, %d keys", took, cold.Status().Persisted.Keys)
	}
	hot := start(t, open(), cold)
	both := heap()
	cold.stop()
	until(t, time.Minute, "the hot standby is master", func() bool { return hot.State() == lease.StateMaster })
	took = promoted(t, hot)
	t.Logf("hot: %v (at most %v); %d MiB of heap with both nodes in this process", took, mostHot, both)
	if took > mostHot {
		t.Errorf("hot: %v", took)
	}
}

// fill writes a million keys of a kibibyte.
func fill(t *testing.T, n *node) {
	t.Helper()
	jobs := make(chan int)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for at := range jobs {
				x := journal.Txn{}
				for i := at; i < at+keysPerWrite; i++ {
					value := bytes.Repeat([]byte{byte(i)}, manyValue)
					x.Changes = append(x.Changes, journal.Change{Key: fmt.Sprintf("key/%07d", i), Value: value})
				}
				if _, err := n.Persisted().Txn(t.Context(), x); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for at := 0; at < manyKeys; at += keysPerWrite {
		jobs <- at
	}
	close(jobs)
	wait.Wait()
}

// promoted is how long the node's reign took from the claim to the start of the
// service.
func promoted(t *testing.T, n *node) time.Duration {
	t.Helper()
	var ms int64 = -1
	until(t, time.Minute, "the reign is recorded", func() bool {
		for _, r := range n.Status().Reigns {
			if r.Node == n.Status().Node && r.To == nil {
				ms = r.Phases.Started
				return true
			}
		}
		return false
	})
	return time.Duration(ms) * time.Millisecond
}

// processor is the time that this process has spent on processors.
func processor() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Round(10 * time.Millisecond)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse >> 20
}

// forget has the kernel drop what it keeps of the files.
func forget(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) //nolint:gosec // a file descriptor is small
	})
	if err != nil {
		t.Fatal(err)
	}
}
