package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Digest is a hash (SHA-256) over all keys, values and versions, equal for equal
// states wherever they are stored.
func (s *State) Digest() [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	number := func(x uint64) {
		binary.BigEndian.PutUint64(n[:], x)
		_, _ = h.Write(n[:]) // never fails
	}
	for e := range s.t.from("") {
		number(uint64(len(e.Key)))
		_, _ = io.WriteString(h, e.Key)
		number(e.Version)
		number(uint64(len(e.Value)))
		_, _ = h.Write(e.Value)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Found is an object of the persisted state, as a listing of the store shows it.
type Found struct {
	Key      string
	Head     lease.Head
	Snapshot bool
	Size     int64 // bytes
}

// Survey is everything that lies below state/.
type Survey struct {
	Objects []Found  // segments, then snapshots, each in the order of their numbers
	Foreign []string // what is neither
}

// statePrefix is where all of it lies.
const statePrefix = "state/"

// Survey lists everything that lies below state/.
func (l *Loader) Survey(ctx context.Context) (*Survey, error) {
	s := &Survey{}
	err := l.list(ctx, "", statePrefix, func(it persistence.Item) bool {
		if h, snapshot, ok := ParseKey(it.Key); ok {
			s.Objects = append(s.Objects, Found{it.Key, h, snapshot, it.Size})
		} else {
			s.Foreign = append(s.Foreign, it.Key)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", statePrefix, err)
	}
	return s, nil
}

// Report is what a check of everything has found.
type Report struct {
	Survey
	State *State // what the head leads to; nil if it can not be read
	// Broken is what stands in the way of reading the state, or would if one
	// thing more went wrong: it is to be restored from a copy.
	Broken []Damage
	// Idle is damaged and nobody needs it: history, or what no register ever
	// named.
	Idle []Damage
	// Above are segments numbered above the head: commits that came to nothing,
	// or what a register that was rolled back no longer knows.
	Above []string
}

// Check reads every object of the persisted state of the register's head. The
// error says that the store could not be asked; what is wrong is in the report.
func (l *Loader) Check(ctx context.Context, head lease.Head) (*Report, error) {
	s, err := l.Survey(ctx)
	if err != nil {
		return nil, err
	}
	r := &Report{Survey: *s}
	got, err := l.tolerant(ctx, r, head)
	if err != nil {
		return nil, err
	}
	if got != nil {
		r.State = got.State
		if err := l.checkFallback(ctx, r, head); err != nil {
			return nil, err
		}
	}
	for _, o := range r.Objects {
		if head.Rand == "" || o.Head.Seq > head.Seq {
			r.Above = append(r.Above, o.Key)
		}
		var err error
		if o.Snapshot {
			_, err = l.Snapshot(ctx, o.Head)
		} else {
			_, err = l.Segment(ctx, o.Head)
		}
		var damage *DamageError
		switch {
		case errors.As(err, &damage) && damage.Missing(): // removed since it was listed
		case errors.As(err, &damage) && !r.named(o.Key):
			r.Idle = append(r.Idle, damage.Damages...)
		case err != nil && damage == nil:
			return nil, err
		}
	}
	return r, nil
}

func (r *Report) named(key string) bool {
	return slices.ContainsFunc(r.Broken, func(d Damage) bool { return d.Object == key })
}

// note adds damage that was not named yet.
func (r *Report) note(damages []Damage) {
	for _, d := range damages {
		if !r.named(d.Object) {
			r.Broken = append(r.Broken, d)
		}
	}
}

// tolerant loads a state, with what is wrong in the report.
func (l *Loader) tolerant(ctx context.Context, r *Report, head lease.Head) (*Loaded, error) {
	got, err := l.Load(ctx, head, nil)
	var damage *DamageError
	switch {
	case errors.As(err, &damage):
		r.note(damage.Damages)
		return nil, nil //nolint:nilnil // there is none, and the report says why
	case err != nil:
		return nil, err
	}
	r.note(got.Damages)
	return got, nil
}

// checkFallback reads the state a second time, without its newest snapshot, as
// a reader would to whom that is damaged, and holds one against the other.
func (l *Loader) checkFallback(ctx context.Context, r *Report, head lease.Head) error {
	snapshot := r.State.Snapshot
	if snapshot.Rand == "" || r.named(SnapshotKey(snapshot)) {
		return nil
	}
	other := *l
	other.avoid = snapshot
	got, err := other.tolerant(ctx, r, head)
	if err != nil || got == nil {
		return err
	}
	if got.Digest() != r.State.Digest() {
		r.note([]Damage{{Object: SnapshotKey(snapshot), What: "it is not what the log before it makes"}})
	}
	return nil
}
