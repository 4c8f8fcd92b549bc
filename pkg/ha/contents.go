package ha

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Contents is what a location holds, read as a whole and without a node, for
// people: nothing is decided by it. What can not be parsed is there too, with
// the reason.
type Contents struct {
	Register Register
	Nodes    []Stored[lease.NodeRecord]
	View     *Stored[View] // nil: none was published
	History  []Stored[ReignRecord]
	Requests []Stored[Operation] // what operators asked for and has not ended
	Progress []Stored[Operation] // what masters wrote of it, and of what has ended
	// Data are the objects that belong to services and operators, by what
	// their keys begin with.
	Data map[string]Data
	// Foreign are objects and top-level names that no version of this program
	// known to this one writes.
	Foreign []string
	// Scratch are areas and temporary files, in use or left behind.
	Scratch []persistence.Entry
}

// Register is the register as it was found.
type Register struct {
	Value lease.Value // if Err is nil
	Raw   []byte      // if it is one value at all, readable or not
	Err   error       // Absent, Torn, or lease.ErrUnreadable
	Parts [][]byte    // what is in its place, if Err is Torn and the store can tell
}

// Stored is an object and what it says.
type Stored[T any] struct {
	Key   string
	Value T     // if Err is nil
	Err   error // why it can not be read
}

// View is the master's picture of the plane, which the other nodes read.
type View struct {
	Writer lease.Incarnation
	Beat   uint64
	Nodes  []Aged
}

// Aged is a record with its age as the master saw it.
type Aged struct {
	Record lease.NodeRecord
	Age    time.Duration
}

// Data sums up objects that this package does not look into.
type Data struct {
	Objects int
	Bytes   int64
}

// dataPrefixes are where services' and operators' data lies.
var dataPrefixes = []string{"state/", "artifacts/", "backups/"}

// ReadContents reads a location. Each operation is bounded by limit. The error
// says that the location could not be read; what is wrong in it is in the
// result.
func ReadContents(ctx context.Context, store persistence.Store, limit time.Duration) (*Contents, error) {
	r := contentsReader{ctx: ctx, store: store, limit: limit, c: &Contents{Data: map[string]Data{}}}
	if err := r.register(); err != nil {
		return nil, err
	}
	if err := r.objects(""); err != nil {
		return nil, err
	}
	if err := r.survey(); err != nil {
		return nil, err
	}
	slices.Sort(r.c.Foreign)
	r.c.Foreign = slices.Compact(r.c.Foreign)
	return r.c, nil
}

type contentsReader struct {
	ctx   context.Context //nolint:containedctx // lives for one call of ReadContents
	store persistence.Store
	limit time.Duration
	c     *Contents
}

// bounded gives f a context that ends after the limit.
func bounded(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

func (r *contentsReader) register() error {
	x, err := readRegister(r.ctx, r.store, r.limit)
	r.c.Register = x
	return err
}

// readRegister reads the register whatever state it is in; the error is that
// of a store that gives no answer.
func readRegister(ctx context.Context, store persistence.Store, limit time.Duration) (x Register, err error) {
	err = bounded(ctx, limit, func(ctx context.Context) error {
		snap, err := store.Read(ctx)
		x.Raw, x.Err = snap.Value, err
		return err
	})
	switch {
	case err == nil:
		x.Value, x.Err = lease.ParseValue(x.Raw)
	case errors.Is(err, persistence.Absent):
	case errors.Is(err, persistence.Torn):
		if p, ok := store.(persistence.Repairer); ok {
			err := bounded(ctx, limit, func(ctx context.Context) (err error) {
				x.Parts, err = p.Parts(ctx)
				return err
			})
			if err != nil {
				return x, err
			}
		}
	default:
		return x, err
	}
	return x, nil
}

// readLife reads only what shows that a node is alive.
func readLife(ctx context.Context, store persistence.Store, limit time.Duration) (*Contents, error) {
	r := contentsReader{ctx: ctx, store: store, limit: limit, c: &Contents{}}
	if err := r.register(); err != nil {
		return nil, err
	}
	return r.c, r.objects(recordPrefix)
}

// objects lists all with the prefix and reads what it knows.
func (r *contentsReader) objects(prefix string) error {
	for after, more := "", true; more; {
		var page persistence.Page
		err := bounded(r.ctx, r.limit, func(ctx context.Context) (err error) {
			page, err = r.store.List(ctx, prefix, after)
			return err
		})
		if err != nil {
			return err
		}
		for _, it := range page.Items {
			after = it.Key
			if err := r.object(it); err != nil {
				return err
			}
		}
		more = page.More && len(page.Items) > 0
	}
	return nil
}

func (r *contentsReader) object(it persistence.Item) error {
	prefix, _, nested := strings.Cut(it.Key, "/")
	switch {
	case strings.HasPrefix(it.Key, recordPrefix):
		return readStored(r, it.Key, &r.c.Nodes, func(b []byte) (lease.NodeRecord, error) {
			rec, err := lease.ParseNodeRecord(b)
			if err == nil && recordPrefix+string(rec.Node) != it.Key {
				err = fmt.Errorf("it is the record of node %s", rec.Node)
			}
			return rec, err
		})
	case strings.HasPrefix(it.Key, historyPrefix):
		return readStored(r, it.Key, &r.c.History, func(b []byte) (rec ReignRecord, err error) {
			if err = json.Unmarshal(b, &rec); err == nil && historyKey(rec.Term) != it.Key {
				err = fmt.Errorf("it is the history of term %d", rec.Term)
			}
			return rec, err
		})
	case strings.HasPrefix(it.Key, requestPrefix):
		return readStored(r, it.Key, &r.c.Requests, func(b []byte) (Operation, error) { return parseRequest(it.Key, b) })
	case strings.HasPrefix(it.Key, operationPrefix):
		return readStored(r, it.Key, &r.c.Progress, func(b []byte) (p Operation, err error) {
			if err = json.Unmarshal(b, &p); err == nil && !strings.HasPrefix(it.Key, operationPrefix+p.ID+"/") {
				err = fmt.Errorf("it is of operation %s", p.ID)
			}
			return p, err
		})
	case it.Key == viewKey:
		var views []Stored[View]
		if err := readStored(r, it.Key, &views, parseView); err != nil {
			return err
		}
		r.c.View = &views[0]
	case nested && slices.Contains(dataPrefixes, prefix+"/"):
		size, err := r.size(it)
		if err != nil {
			return err
		}
		d := r.c.Data[prefix+"/"]
		r.c.Data[prefix+"/"] = Data{d.Objects + 1, d.Bytes + size}
	default:
		r.c.Foreign = append(r.c.Foreign, it.Key)
	}
	return nil
}

func parseView(b []byte) (View, error) {
	var o viewObject
	if err := json.Unmarshal(b, &o); err != nil {
		return View{}, err
	}
	v := View{Writer: o.Writer, Beat: o.Beat}
	for _, n := range o.Nodes {
		v.Nodes = append(v.Nodes, Aged{n.Record, time.Duration(n.AgeMs) * time.Millisecond})
	}
	return v, nil
}

// readStored reads one object into a list. What the object says may be wrong;
// that the store does not answer is an error.
func readStored[T any](r *contentsReader, key string, into *[]Stored[T], parse func([]byte) (T, error)) error {
	var b []byte
	err := bounded(r.ctx, r.limit, func(ctx context.Context) (err error) {
		b, err = readObject(ctx, r.store, key)
		return err
	})
	if errors.Is(err, persistence.Absent) {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	s := Stored[T]{Key: key}
	s.Value, s.Err = parse(b)
	*into = append(*into, s)
	return nil
}

// size is that of an object, which not every listing tells.
func (r *contentsReader) size(it persistence.Item) (size int64, err error) {
	if it.Size >= 0 {
		return it.Size, nil
	}
	err = bounded(r.ctx, r.limit, func(ctx context.Context) error {
		b, err := readObject(ctx, r.store, it.Key)
		size = int64(len(b))
		return err
	})
	if errors.Is(err, persistence.Absent) {
		return 0, nil // removed since it was listed
	}
	return size, err
}

// survey adds what a listing of objects does not show.
func (r *contentsReader) survey() error {
	sv, ok := r.store.(persistence.Surveyor)
	if !ok {
		return nil
	}
	var entries []persistence.Entry
	err := bounded(r.ctx, r.limit, func(ctx context.Context) (err error) {
		entries, err = sv.Survey(ctx)
		return err
	})
	if err != nil {
		return err
	}
	known := []string{"lease", "nodes", "history", "requests", "operations", "view", "state", "artifacts", "backups", "lost+found"}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name, "."):
			r.c.Scratch = append(r.c.Scratch, e)
		case slices.Contains(known, e.Name):
		default:
			// Objects beneath it may be listed as well; their directory says it all.
			r.c.Foreign = slices.DeleteFunc(r.c.Foreign, func(k string) bool { return strings.HasPrefix(k, e.Name+"/") })
			r.c.Foreign = append(r.c.Foreign, e.Name)
		}
	}
	return nil
}

// HighestTerm is the highest term that anything in the location speaks of.
func (c *Contents) HighestTerm() lease.Term {
	var t lease.Term
	for _, v := range c.Register.values() {
		t = max(t, v.Term)
	}
	for _, n := range c.Nodes {
		if n.Err == nil {
			t = max(t, n.Value.Term)
		}
	}
	for _, h := range c.History {
		if h.Err == nil {
			t = max(t, h.Value.Term)
		}
	}
	return t
}

// values are those parts of the register that are values, newest first.
func (x Register) values() []lease.Value {
	var out []lease.Value
	for _, b := range append(slices.Clone(x.Parts), x.Raw) {
		if v, err := lease.ParseValue(b); err == nil {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b lease.Value) int {
		switch {
		case a.Newer(b):
			return -1
		case b.Newer(a):
			return 1
		}
		return 0
	})
	return out
}
