// Package bench measures how fast a store is at what a plane asks of it, and
// reckons what it costs. It works in a scratch location that it removes, one
// operation after the other, as a node does.
package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
)

// Options adjust Run; the zero value is a run of a minute at most.
type Options struct {
	// Count is how often each primitive is done, and For how long at most.
	// Zero: 200, and 10 s.
	Count int
	For   time.Duration
	// Limit bounds each operation. Zero: 30 s.
	Limit time.Duration
	// Nodes is how many records are listed. Zero: 3.
	Nodes int
	// Progress is told before each primitive and now and then within; done of
	// total are complete. May be nil.
	Progress func(primitive string, done, total int)
}

// The primitives, in the order in which they are measured.
const (
	Read   = "read"         // the register
	Renew  = "renew"        // swap the register
	Put    = "put record"   // a node's record, 400 bytes
	Get    = "get record"   // the same
	List   = "list records" // of all nodes
	Delete = "delete"       // one record
	Store  = "put 1 MiB"    // an object
	Fetch  = "get 1 MiB"    // the same
)

// Primitive is one measurement.
type Primitive struct {
	Name string `json:"name"`
	verify.Latency
}

// Report is what Run measured.
type Report struct {
	URL        string      `json:"url"`
	Kind       string      `json:"kind"`
	Primitives []Primitive `json:"primitives"`
	// RenewalsPerSecond is how many renewals one master gets done, one after
	// the other; Throttled how many requests were refused as too many.
	RenewalsPerSecond float64       `json:"renewalsPerSecond"`
	Throttled         int           `json:"throttled"`
	Took              time.Duration `json:"tookNs"`
}

// Of returns the latency of a primitive.
func (r Report) Of(name string) verify.Latency {
	for _, p := range r.Primitives {
		if p.Name == name {
			return p.Latency
		}
	}
	return verify.Latency{}
}

// Run measures the store. An error says that the store did not answer, or took
// no writes; what was measured before is in the report.
func Run(ctx context.Context, store persistence.Store, opts Options) (Report, error) {
	opts = opts.withDefaults()
	begin := time.Now()
	name := verify.ScratchPrefix + "bench-" + strings.ToLower(rand.Text()[:10])
	scratch, err := store.Sub(name)
	if err != nil {
		return Report{}, err
	}
	b := &bench{s: scratch, opts: opts, beat: store.Limits().MinBeat}
	err = b.all(ctx)
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Limit)
	defer cancel()
	err = errors.Join(err, scratch.RemoveAll(cctx))
	l := store.Limits()
	b.report.URL, b.report.Kind, b.report.Took = l.URL, l.Kind, time.Since(begin)
	if err != nil {
		return b.report, fmt.Errorf("measure %s: %w", l.URL, err)
	}
	return b.report, nil
}

func (o Options) withDefaults() Options {
	if o.Count == 0 {
		o.Count = 200
	}
	if o.For == 0 {
		o.For = 10 * time.Second
	}
	if o.Limit == 0 {
		o.Limit = 30 * time.Second
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	return o
}

type bench struct {
	s      persistence.Store
	opts   Options
	beat   time.Duration // the store's shortest interval between writes of the register
	report Report
	values int
	done   int
}

const (
	recordBytes = 400
	objectBytes = 1 << 20
	objectCount = 20 // of the large ones
	primitives  = 8
)

func (b *bench) all(ctx context.Context) error {
	if err := b.bounded(ctx, func(ctx context.Context) error { return b.s.Init(ctx, b.value()) }); err != nil {
		return err
	}
	large := min(b.opts.Count, objectCount)
	record, object := content(recordBytes), content(objectBytes)
	steps := []struct {
		name  string
		count int
		f     func(ctx context.Context, n int) error
	}{
		{Read, b.opts.Count, func(ctx context.Context, _ int) error { _, err := b.s.Read(ctx); return err }},
		{Renew, b.opts.Count, nil},
		{Put, b.opts.Count, func(ctx context.Context, n int) error { return b.put(ctx, b.key(n), record) }},
		{Get, b.opts.Count, func(ctx context.Context, n int) error { return b.get(ctx, b.key(n), recordBytes) }},
		{List, b.opts.Count, func(ctx context.Context, _ int) error { _, err := b.s.List(ctx, "nodes/", ""); return err }},
		{Delete, min(b.opts.Count, b.opts.Nodes), func(ctx context.Context, n int) error { return b.s.Delete(ctx, b.key(n)) }},
		{Store, large, func(ctx context.Context, _ int) error { return b.put(ctx, "artifacts/object", object) }},
		{Fetch, large, func(ctx context.Context, _ int) error { return b.get(ctx, "artifacts/object", objectBytes) }},
	}
	for i, s := range steps {
		b.done = i * b.opts.Count
		if s.name == Renew {
			if err := b.renew(ctx); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			continue
		}
		if err := b.measure(ctx, s.name, s.count, s.f); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.opts.Progress("done", primitives*b.opts.Count, primitives*b.opts.Count)
	return nil
}

// measure does f up to count times, and reports how long each took.
func (b *bench) measure(ctx context.Context, name string, count int, f func(ctx context.Context, n int) error) error {
	var took []time.Duration
	for begin, n := time.Now(), 0; n < count && (n < 3 || time.Since(begin) < b.opts.For); n++ {
		b.opts.Progress(name, b.done+n, primitives*b.opts.Count)
		start := time.Now()
		err := b.bounded(ctx, func(ctx context.Context) error { return f(ctx, n) })
		if errors.Is(err, persistence.Throttled) {
			b.report.Throttled++
			continue
		}
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
	}
	b.report.Primitives = append(b.report.Primitives, Primitive{name, verify.Sum(took)})
	return nil
}

// renew swaps the register from each value to the next. Where the store sets
// an interval, it is kept, and counts in the rate but not in the latency.
func (b *bench) renew(ctx context.Context) error {
	var snap persistence.Snapshot
	err := b.bounded(ctx, func(ctx context.Context) (err error) {
		snap, err = b.s.Read(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var took []time.Duration
	begin := time.Now()
	for n := 0; n < b.opts.Count && (n < 3 || time.Since(begin) < b.opts.For); n++ {
		b.opts.Progress(Renew, b.done+n, primitives*b.opts.Count)
		if b.beat > 0 {
			select {
			case <-time.After(b.beat):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		start := time.Now()
		err := b.bounded(ctx, func(ctx context.Context) error {
			v, err := b.s.CAS(ctx, snap.Version, b.value())
			if err == nil {
				snap.Version = v
			}
			return err
		})
		if errors.Is(err, persistence.Throttled) {
			b.report.Throttled++
			continue
		}
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
	}
	b.report.RenewalsPerSecond = float64(len(took)) / time.Since(begin).Seconds()
	b.report.Primitives = append(b.report.Primitives, Primitive{Renew, verify.Sum(took)})
	return nil
}

func (b *bench) bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.opts.Limit)
	defer cancel()
	return f(ctx)
}

// value returns bytes that no other attempt has.
func (b *bench) value() []byte {
	b.values++
	return fmt.Appendf(nil, "u1.bench.%06d.%s", b.values, strings.ToLower(rand.Text()))
}

// key names one of as many records as there are nodes.
func (b *bench) key(n int) string { return fmt.Sprintf("nodes/n%07d", n%b.opts.Nodes) }

func (b *bench) put(ctx context.Context, key string, data []byte) error {
	return b.s.Put(ctx, key, bytes.NewReader(data), int64(len(data)))
}

func (b *bench) get(ctx context.Context, key string, want int64) error {
	rc, err := b.s.Get(ctx, key)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, rc)
	if err = errors.Join(err, rc.Close()); err == nil && n != want {
		err = fmt.Errorf("%s has %d bytes where %d were put", key, n, want)
	}
	return err
}

// content is data that no store can make smaller.
func content(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // documented never to fail
	return b
}
