package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/understudy-ha/understudy/pkg/journal"
)

// KeyPrefix is what the keys begin with under which the index lies in the
// persisted state. They are reserved: users can not write them.
const KeyPrefix = ".artifacts/"

// View is a picture of the persisted state; *journal.State is one.
type View interface {
	Get(key string) (journal.Entry, bool)
	List(prefix, after string) iter.Seq[journal.Entry]
}

// StateIndex is the index in the persisted state.
type StateIndex struct {
	// Read returns the state as it is now.
	Read func() (View, error)
	// Write commits changes of reserved keys. Its error wraps ErrUndecided when
	// the outcome is not known. Nil: the index can only be read.
	Write func(ctx context.Context, t journal.Txn) error
}

var _ Index = StateIndex{}

// ErrReadOnly says that this index can only be read.
var ErrReadOnly = errors.New("the artifacts can only be read here; ask the master")

// Get implements Index.
func (x StateIndex) Get(_ context.Context, name string) (Entry, error) {
	v, err := x.Read()
	if err != nil {
		return Entry{}, err
	}
	je, ok := v.Get(KeyPrefix + name)
	if !ok {
		return Entry{}, fmt.Errorf("%w: %s", ErrNone, name)
	}
	return decodeEntry(je)
}

// List implements Index.
func (x StateIndex) List(context.Context) ([]Entry, error) {
	v, err := x.Read()
	if err != nil {
		return nil, err
	}
	return Entries(v)
}

// Entries are the artifacts that a state knows, in the order of their names.
func Entries(v View) ([]Entry, error) {
	var out []Entry
	for je := range v.List(KeyPrefix, "") {
		e, err := decodeEntry(je)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func decodeEntry(je journal.Entry) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(je.Value, &e); err != nil {
		return Entry{}, fmt.Errorf("the entry %s can not be read: %w; push the artifact again", je.Key, err)
	}
	if e.Name != strings.TrimPrefix(je.Key, KeyPrefix) {
		return Entry{}, fmt.Errorf("the entry %s is that of %q; push the artifact again", je.Key, e.Name)
	}
	return e, e.Check()
}

// Change is the change of the persisted state that makes e an entry.
func (e Entry) Change() (journal.Change, error) {
	b, err := json.Marshal(e)
	return journal.Change{Key: KeyPrefix + e.Name, Value: b}, err
}

// Set implements Index.
func (x StateIndex) Set(ctx context.Context, e Entry) error {
	c, err := e.Change()
	if err != nil {
		return err
	}
	return x.write(ctx, journal.Txn{Changes: []journal.Change{c}})
}

// Delete implements Index.
func (x StateIndex) Delete(ctx context.Context, name string) error {
	key := KeyPrefix + name
	err := x.write(ctx, journal.Txn{
		If:      []journal.Condition{{Key: key, Any: true}},
		Changes: []journal.Change{{Key: key, Delete: true}},
	})
	var conflict *journal.ConflictError
	if errors.As(err, &conflict) {
		return fmt.Errorf("%w: %s", ErrNone, name)
	}
	return err
}

func (x StateIndex) write(ctx context.Context, t journal.Txn) error {
	if x.Write == nil {
		return ErrReadOnly
	}
	return x.Write(ctx, t)
}
