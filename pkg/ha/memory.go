package ha

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// identityFile and planeFile are what a data directory remembers.
const (
	identityFile = "node.json"
	planeFile    = "plane.json"
)

type identity struct {
	Node     lease.NodeID `json:"nodeId"`
	Priority *int         `json:"priority,omitempty"` // set by an operator at run time
}

type planeMemory struct {
	Plane lease.PlaneID `json:"planeId"`
	Term  lease.Term    `json:"maxTerm"`
}

// Dir is a Memory in a directory on the local disk. It must never lie on the
// shared store.
type Dir struct {
	path string
	mu   sync.Mutex
	id   identity
	mem  planeMemory
	sick bool // the last attempt to remember failed, so the next one must write

	// Proof, when set, keeps the local record of R10 before a claim; it must
	// be durable when it returns.
	Proof func(plane lease.PlaneID, term lease.Term, inc lease.Incarnation) error
}

// OpenDir opens a data directory, makes it if need be, and draws the node id
// on first use. A file that is there and can not be read is an error: a node
// that forgot its plane or its terms would be a danger to others.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &Dir{path: path}
	if err := load(filepath.Join(path, planeFile), &d.mem); err != nil {
		return nil, err
	}
	if err := load(filepath.Join(path, identityFile), &d.id); err != nil {
		return nil, err
	}
	if d.id.Node == "" {
		d.id.Node = NewNodeID()
		if err := d.save(identityFile, d.id); err != nil {
			return nil, err
		}
	}
	if _, err := lease.ParseNodeID(string(d.id.Node)); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the file to draw a new id", filepath.Join(path, identityFile), err)
	}
	return d, nil
}

// Remembered is what a data directory remembers, as LookInto reads it.
type Remembered struct {
	Node  lease.NodeID  // empty before the first start
	Plane lease.PlaneID // empty before the node has joined one
	Term  lease.Term    // highest seen of that plane
}

// LookInto reads what a data directory remembers and makes nothing, neither
// the directory nor an identity. It may be called beside the running node.
func LookInto(path string) (Remembered, error) {
	var (
		mem planeMemory
		id  identity
	)
	if err := load(filepath.Join(path, planeFile), &mem); err != nil {
		return Remembered{}, err
	}
	if err := load(filepath.Join(path, identityFile), &id); err != nil {
		return Remembered{}, err
	}
	return Remembered{Node: id.Node, Plane: mem.Plane, Term: mem.Term}, nil
}

// Node is the node's id, the same for as long as the directory lives.
func (d *Dir) Node() lease.NodeID { return d.id.Node }

// Priority is what an operator set at run time; otherwise the given one.
func (d *Dir) Priority(otherwise int) int {
	if d.id.Priority != nil {
		return *d.id.Priority
	}
	return otherwise
}

// Recall implements Memory.
func (d *Dir) Recall() (lease.PlaneID, lease.Term) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mem.Plane, d.mem.Term
}

// Remember implements Memory.
func (d *Dir) Remember(plane lease.PlaneID, term lease.Term, inc lease.Incarnation, claim bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.remember(plane, term, inc, claim)
	d.sick = err != nil
	return err
}

func (d *Dir) remember(plane lease.PlaneID, term lease.Term, inc lease.Incarnation, claim bool) error {
	if d.mem.Plane != "" && d.mem.Plane != plane {
		return fmt.Errorf("%s remembers plane %s, not %s", d.path, d.mem.Plane, plane)
	}
	next := planeMemory{Plane: plane, Term: max(term, d.mem.Term)}
	if next != d.mem || d.sick {
		if err := d.save(planeFile, next); err != nil {
			return err
		}
		d.mem = next
	}
	if claim && d.Proof != nil {
		return d.Proof(plane, term, inc)
	}
	return nil
}

// KeepPriority implements Memory.
func (d *Dir) KeepPriority(p int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.id
	next.Priority = &p
	if err := d.save(identityFile, next); err != nil {
		return err
	}
	d.id = next
	return nil
}

// ForgetPlane removes what is remembered of a plane, so that the node may join
// another one.
func (d *Dir) ForgetPlane() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(filepath.Join(d.path, planeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.mem = planeMemory{}
	return syncDir(d.path)
}

func load(path string, into any) error {
	b, err := os.ReadFile(path) //nolint:gosec // a path of the operator's own
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s is damaged (%w); restore it, or with the node's service stopped remove it to start anew as another node", path, err)
	}
	return nil
}

// save replaces a file durably: write aside, fsync, rename, fsync the
// directory, in this order.
func (d *Dir) save(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := filepath.Join(d.path, "."+name+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // a path of the operator's own
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(d.path, name)); err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	f, err := os.Open(path) //nolint:gosec // a path of the operator's own
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
