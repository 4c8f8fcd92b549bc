package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Damage is one object that is not what it must be.
type Damage struct {
	Object string // its key
	What   string
	// Missing: it is not there. Where a reader was too slow for a collection
	// that is as it should be, and reading again from the register's head helps.
	Missing bool
}

func (d Damage) String() string { return d.Object + ": " + d.What }

// DamageError says that a state can not be read, and every object that is in
// the way.
type DamageError struct{ Damages []Damage }

func (e *DamageError) Error() string {
	words := make([]string, 0, len(e.Damages))
	for _, d := range e.Damages {
		words = append(words, d.String())
	}
	return "the persisted state is damaged: " + strings.Join(words, "; ") +
		"; restore these objects from a copy of the store, or begin anew with persistMode CLEAN. Nothing is changed by itself"
}

// Missing reports whether some of it is that objects are not there.
func (e *DamageError) Missing() bool {
	return slices.ContainsFunc(e.Damages, func(d Damage) bool { return d.Missing })
}

// Loader reads states from a store.
type Loader struct {
	Objects persistence.Objects
	Plane   lease.PlaneID
	// Limit bounds each request, and for how long a large object may bring no
	// more bytes. Required.
	Limit time.Duration
	// Workers read segments ahead; 0: 8.
	Workers int

	avoid lease.Head // a snapshot that is not to be used
}

// aheadBytes bounds what is read ahead of the chain.
const aheadBytes = 256 << 20

// Loaded is a state and how it was come by.
type Loaded struct {
	*State
	// Damages were met on the way and could be done without.
	Damages []Damage
	// Follows: it was made of the state the caller had, by these segments, the
	// oldest first. Otherwise of a snapshot, or from the beginning.
	Follows  bool
	Segments []*Segment
}

// errElsewhere: the state that the caller has is not in the chain.
var errElsewhere = errors.New("the state is not in the chain")

// Load returns the state after the segment head. from, if not nil, is a state
// that the caller has already: if it is in the chain, only what follows it is
// read.
//
// A damaged snapshot is no reason to fail as long as the one before it and the
// log between are whole; the damage is returned beside the state then. An error
// is a *DamageError, or the store's.
func (l *Loader) Load(ctx context.Context, head lease.Head, from *State) (*Loaded, error) {
	switch {
	case head.Rand == "":
		return &Loaded{State: Empty()}, nil
	case from != nil && from.Head == head:
		return &Loaded{State: from, Follows: true}, nil
	}
	got, err := l.load(ctx, head, from)
	var damage *DamageError
	if from != nil && (errors.Is(err, errElsewhere) || (errors.As(err, &damage) && damage.Missing())) {
		got, err = l.load(ctx, head, nil) // left behind by a collection, or by a CLEAN start
	}
	return got, err
}

func (l *Loader) load(ctx context.Context, head lease.Head, from *State) (*Loaded, error) {
	w := &walk{l: l, from: from, ahead: map[lease.Head]Stored{}}
	base, err := w.back(ctx, head)
	if err != nil {
		return nil, err
	}
	out := &Loaded{Follows: from != nil && base == from}
	for _, g := range slices.Backward(w.chain) {
		if base, err = base.Apply(g.Segment, g.Size); err != nil {
			return nil, w.fail(SegmentKey(g.Head), err.Error())
		}
		out.Follows = out.Follows && !g.Clean
		out.Segments = append(out.Segments, g.Segment)
	}
	out.State, out.Damages = base, w.damages
	return out, nil
}

// Stored is a segment and the length of its object, in bytes.
type Stored struct {
	*Segment
	Size int64
}

// walk follows a chain from its head back to something to begin with.
type walk struct {
	l       *Loader
	from    *State
	chain   []Stored // newest first
	ahead   map[lease.Head]Stored
	damages []Damage
}

// fail returns the error that names all damage found.
func (w *walk) fail(object, what string) error {
	w.damages = append(w.damages, Damage{Object: object, What: what})
	return &DamageError{w.damages}
}

// back collects the segments to be applied, newest first, and returns the state
// to apply them to.
func (w *walk) back(ctx context.Context, head lease.Head) (*State, error) {
	first, err := w.segment(ctx, head)
	if err != nil {
		return nil, err
	}
	// Where to begin, the best first: what the caller has, a snapshot, the one
	// before it, the beginning.
	snapshots := []lease.Head{first.Snapshot, first.Previous}
	if first.Snapshot == w.l.avoid {
		snapshots = snapshots[1:]
	}
	if w.from != nil {
		if w.from.Head.Seq < first.Previous.Seq || w.from.Head.Seq >= head.Seq {
			return nil, errElsewhere
		}
		snapshots = nil
		w.readAhead(ctx, w.from.Head.Seq, head)
	} else {
		w.readAhead(ctx, first.Snapshot.Seq, head)
	}
	for g := first; ; {
		w.chain = append(w.chain, g)
		switch {
		case g.Clean:
			return &State{Head: g.Pred}, nil
		case w.from != nil && g.Pred == w.from.Head:
			return w.from, nil
		case w.from != nil && g.Pred.Seq <= w.from.Head.Seq:
			return nil, errElsewhere
		case g.Pred.Rand == "":
			return Empty(), nil
		}
		for len(snapshots) > 0 && snapshots[0].Rand != "" && g.Pred.Seq <= snapshots[0].Seq {
			s, err := w.snapshot(ctx, snapshots[0], g.Pred)
			if s != nil || err != nil {
				return s, err
			}
			snapshots = snapshots[1:]
		}
		next, err := w.segment(ctx, g.Pred)
		if err != nil {
			return nil, err
		}
		if next.Term > g.Term {
			return nil, w.fail(SegmentKey(g.Head), fmt.Sprintf("it is of term %d and follows one of term %d", g.Term, next.Term))
		}
		g = next
	}
}

// segment returns one segment of the chain.
func (w *walk) segment(ctx context.Context, h lease.Head) (Stored, error) {
	if g, ok := w.ahead[h]; ok {
		delete(w.ahead, h)
		return g, nil
	}
	g, err := w.l.Segment(ctx, h)
	var damage *DamageError
	if errors.As(err, &damage) {
		w.damages = append(w.damages, damage.Damages...)
		return Stored{}, &DamageError{w.damages}
	}
	return g, err
}

// snapshot returns the state that h holds, to which the segment after pred is
// applied; nil if it is damaged.
func (w *walk) snapshot(ctx context.Context, h, pred lease.Head) (*State, error) {
	s, err := w.l.Snapshot(ctx, h)
	var damage *DamageError
	switch {
	case errors.As(err, &damage):
		w.damages = append(w.damages, damage.Damages...)
		return nil, nil //nolint:nilnil // there may be another to begin with
	case err != nil:
		return nil, err
	case s.Head != pred:
		w.damages = append(w.damages, Damage{Object: SnapshotKey(h), What: fmt.Sprintf("it was made after segment %s, where the chain has %s", name(s.Head), name(pred))})
		return nil, nil //nolint:nilnil // as above
	}
	return s, nil
}

// readAhead fetches what is listed above low and below high, several at a time:
// following the chain takes a request after the other. Whatever goes wrong here
// goes wrong again, and is told of, where the object is needed.
func (w *walk) readAhead(ctx context.Context, low uint64, high lease.Head) {
	if high.Seq-low < 4 {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs := make(chan lease.Head)
	var mu sync.Mutex
	var wait sync.WaitGroup
	workers := w.l.Workers
	if workers == 0 {
		workers = 8
	}
	for range workers {
		wait.Go(func() {
			for h := range jobs {
				if g, err := w.l.Segment(ctx, h); err == nil {
					mu.Lock()
					w.ahead[h] = g
					mu.Unlock()
				}
			}
		})
	}
	var bytes int64
	_ = w.l.list(ctx, fmt.Sprintf("%s%012x-~", LogPrefix, low), LogPrefix, func(it persistence.Item) bool {
		h, _, ok := ParseKey(it.Key)
		if bytes += it.Size; h.Seq > high.Seq || bytes > aheadBytes {
			return false
		}
		if ok && h != high {
			jobs <- h
		}
		return true
	})
	close(jobs)
	wait.Wait()
}

// list hands every object with the prefix after a key to fn, until it has had
// enough.
func (l *Loader) list(ctx context.Context, after, prefix string, fn func(persistence.Item) bool) error {
	for more := true; more; {
		page, err := l.page(ctx, prefix, after)
		if err != nil {
			return err
		}
		for _, it := range page.Items {
			if after = it.Key; !fn(it) {
				return nil
			}
		}
		more = page.More && len(page.Items) > 0
	}
	return nil
}

func (l *Loader) page(ctx context.Context, prefix, after string) (persistence.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Limit)
	defer cancel()
	return l.Objects.List(ctx, prefix, after)
}

// sizeHint is more than most segments have, in bytes.
const sizeHint = 8 << 10

// Segment reads one segment. A *DamageError says what is wrong with it.
func (l *Loader) Segment(ctx context.Context, h lease.Head) (Stored, error) {
	key := SegmentKey(h)
	var b []byte
	err := l.get(ctx, key, func(r io.Reader) (err error) {
		var buf bytes.Buffer
		buf.Grow(sizeHint)
		_, err = buf.ReadFrom(io.LimitReader(r, maxSegment+1))
		b = buf.Bytes()
		return err
	})
	if err != nil {
		return Stored{}, missing(key, err)
	}
	g, err := DecodeSegment(b)
	switch {
	case err != nil:
	case g.Head != h:
		err = fmt.Errorf("it holds segment %s", name(g.Head))
	case g.Plane != l.Plane:
		err = fmt.Errorf("it belongs to plane %s, not %s", g.Plane, l.Plane)
	}
	if err != nil {
		return Stored{}, &DamageError{[]Damage{{Object: key, What: err.Error()}}}
	}
	return Stored{g, int64(len(b))}, nil
}

// Snapshot reads one snapshot. A *DamageError says what is wrong with it.
func (l *Loader) Snapshot(ctx context.Context, h lease.Head) (*State, error) {
	key := SnapshotKey(h)
	var s *State
	var info SnapshotInfo
	err := l.get(ctx, key, func(r io.Reader) (err error) {
		s, info, err = DecodeSnapshot(r)
		return err
	})
	if err == nil {
		err = l.own(info, h)
	}
	var read readError
	if errors.As(err, &read) || isStore(err) {
		return nil, missing(key, err)
	}
	if err != nil {
		return nil, &DamageError{[]Damage{{Object: key, What: err.Error()}}}
	}
	return s, nil
}

// Info reads what a snapshot says of itself, without its entries.
func (l *Loader) Info(ctx context.Context, h lease.Head) (SnapshotInfo, error) {
	var info SnapshotInfo
	err := l.get(ctx, SnapshotKey(h), func(r io.Reader) (err error) {
		info, err = DecodeSnapshotInfo(r)
		return err
	})
	if err == nil {
		err = l.own(info, h)
	}
	return info, err
}

// own reports whether a snapshot is the one that its name says.
func (l *Loader) own(info SnapshotInfo, h lease.Head) error {
	switch {
	case info.Head != h:
		return fmt.Errorf("it holds snapshot %s", name(info.Head))
	case info.Plane != l.Plane:
		return fmt.Errorf("it belongs to plane %s, not %s", info.Plane, l.Plane)
	}
	return nil
}

// storeError marks that the store could not be asked.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

func isStore(err error) bool {
	var s storeError
	return errors.As(err, &s)
}

// missing turns an error of the store into damage if the object is not there.
func missing(key string, err error) error {
	if errors.Is(err, persistence.Absent) {
		return &DamageError{[]Damage{{Object: key, What: "it is not there", Missing: true}}}
	}
	return fmt.Errorf("read %s: %w", key, err)
}

// get reads an object. It gives up when nothing came for the limit.
func (l *Loader) get(ctx context.Context, key string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(l.Limit, cancel)
	defer quiet.Stop()
	r, err := l.Objects.Get(ctx, key)
	if err != nil {
		return storeError{err}
	}
	defer r.Close()
	return read(&patient{r: r, quiet: quiet, limit: l.Limit})
}

// patient begins the limit anew with each read.
type patient struct {
	r     io.Reader
	quiet *time.Timer
	limit time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.quiet.Reset(p.limit)
	return n, err
}
