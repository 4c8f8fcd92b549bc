package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	planeName = "plane"
	nodesName = "nodes"
)

// Plane is what is judged of the plane on a store.
type Plane struct {
	URL string
	// What this node remembers, each empty or 0 when nothing.
	Node  lease.NodeID
	Known lease.PlaneID
	Term  lease.Term
	// AutoInit and Local say whether a node would make a plane in an empty
	// location: only where asked to, and not on a local disk unless that is
	// allowed (R0).
	AutoInit, Local bool
	// ReadOnly says that nothing can be written there now.
	ReadOnly bool
	Timeout  time.Duration // this node's T
	Version  string        // of this binary
	Running  bool          // this node's daemon lives
	Now      time.Time
}

// Register reads the register and holds it against what this node remembers.
func (p Plane) Register(ctx context.Context, store persistence.Store) persistence.Finding {
	snap, err := store.Read(ctx)
	if errors.Is(err, persistence.Absent) {
		return p.none(ctx, store)
	}
	if err != nil {
		return Failed(planeName, err)
	}
	v, err := lease.ParseValue(snap.Value)
	switch {
	case err != nil:
		return fail(planeName, "see 'understudy store dump' for what is there; nothing is promoted until it is repaired", "the register in %s can not be read, so no node may become master: %v", p.URL, err)
	case p.Known != "" && v.Plane != p.Known:
		return fail(planeName, fmt.Sprintf("see whether persistenceDir names the right place, and for a mount whether it is mounted; if this node shall move, stop it and run: understudy forget-plane %s", p.Known),
			"%s holds plane %s, but this node belongs to plane %s: it refuses to start there", p.URL, v.Plane, p.Known)
	case v.Term < p.Term:
		return fail(planeName, "find out who restored or rolled back the store, and restore the newer state if there is one; nodes claim above the highest term they know",
			"the register is at term %d, but this node has seen term %d: the store went back in time", v.Term, p.Term)
	}
	state := "held by nobody"
	switch {
	case !v.Held:
		state = "released: free to be claimed"
	case v.Holder != "":
		state = "held by " + string(v.Holder)
	}
	if v.Held && v.Holder != "" && v.Holder != p.Node && v.Lease != p.Timeout {
		return warn(planeName, "set ha.heartbeatTimeout or ha.preset alike on all nodes", "%s at term %d, %s with a heartbeatTimeout of %s; this node's is %s. Both stay safe, but take over at different speeds (TIMING_MISMATCH)",
			v.Plane, v.Term, state, v.Lease, p.Timeout)
	}
	return ok(planeName, "%s at term %d, %s", v.Plane, v.Term, state)
}

// none judges a location without a register.
func (p Plane) none(ctx context.Context, store persistence.Store) persistence.Finding {
	if p.Known != "" {
		return fail(planeName, fmt.Sprintf("see whether persistenceDir names the right place, and for a mount whether it is mounted; if the plane is really gone, stop this node and run: understudy forget-plane %s", p.Known),
			"%s holds no plane, but this node belongs to plane %s: it refuses to start there", p.URL, p.Known)
	}
	empty, err := store.Empty(ctx)
	switch {
	case err != nil:
		return Failed(planeName, err)
	case !empty:
		return fail(planeName, "name a directory of the plane's own in persistenceDir, or move away what is in it", "%s holds no plane and is not empty: nodes make a plane only in an empty place", p.URL)
	case p.ReadOnly:
		return ok(planeName, "%s holds no plane yet", p.URL)
	case p.Local:
		return fail(planeName, "mount the shared file system there; or, to try things out on this machine alone, set store.allowLocal: true",
			"%s is empty and not shared with other machines, so a node makes no plane there and waits for ever", p.URL)
	case !p.AutoInit:
		return warn(planeName, "run 'understudy init' on one machine", "%s is empty, and by configuration nodes make no plane there by themselves", p.URL)
	}
	return ok(planeName, "%s is empty: the first node to start makes a plane there", p.URL)
}

// lately is how old, by the wall clocks, a node record may be and still count
// as that of a node in use. It only chooses what is compared here.
const lately = 10 * time.Minute

const maxRecord = 1 << 20

// Nodes compares what the nodes of the plane say of themselves.
func (p Plane) Nodes(ctx context.Context, store persistence.Store) []persistence.Finding {
	records, torn, err := readRecords(ctx, store)
	if err != nil {
		return []persistence.Finding{Failed(nodesName, err)}
	}
	var lines []persistence.Finding
	if len(torn) > 0 {
		lines = append(lines, warn(nodesName, "restart the nodes concerned; if it stays, see 'understudy store dump'", "the records of %s can not be read", strings.Join(torn, ", ")))
	}
	live := slices.DeleteFunc(records, func(r lease.NodeRecord) bool {
		return r.Removed || r.State == lease.StateTerminated || p.Now.Sub(time.UnixMilli(r.WallMs)) > lately
	})
	if len(live) == 0 {
		return append(lines, ok(nodesName, "none has been heard of within %d minutes", int(lately.Minutes())))
	}
	lines = append(lines, p.versions(live)...)
	lines = append(lines, p.timings(live)...)
	for _, r := range live {
		if r.State == lease.StateFailed {
			lines = append(lines, warn(nodesName, "see 'understudy status' there ("+r.URI+")", "%s says FAILED: %s", r.Node, r.Why))
		}
	}
	lines = append(lines, sameURI(live)...)
	if len(lines) == 0 {
		var who []string
		for _, r := range live {
			who = append(who, fmt.Sprintf("%s (%s)", r.Node, r.State))
		}
		lines = append(lines, ok(nodesName, "%s, all with version %s and the same timings", strings.Join(who, ", "), live[0].Version))
	}
	return lines
}

func readRecords(ctx context.Context, store persistence.Store) (records []lease.NodeRecord, torn []string, err error) {
	const prefix = "nodes/"
	for after := ""; ; {
		page, err := store.List(ctx, prefix, after)
		if err != nil {
			return nil, nil, err
		}
		for _, item := range page.Items {
			after = item.Key
			b, err := readObject(ctx, store, item.Key)
			if errors.Is(err, persistence.Absent) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, nil, err
			}
			r, err := lease.ParseNodeRecord(b)
			if err != nil {
				torn = append(torn, strings.TrimPrefix(item.Key, prefix))
				continue
			}
			records = append(records, r)
		}
		if !page.More || len(page.Items) == 0 {
			return records, torn, nil
		}
	}
}

func readObject(ctx context.Context, store persistence.Objects, key string) ([]byte, error) {
	rc, err := store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(rc, maxRecord))
	return b, errors.Join(err, rc.Close())
}

// versions says where the nodes differ from one another, or this binary from
// the daemon that runs here.
func (p Plane) versions(live []lease.NodeRecord) []persistence.Finding {
	var lines []persistence.Finding
	by := map[string][]string{}
	for _, r := range live {
		by[r.Version] = append(by[r.Version], string(r.Node))
		if p.Running && r.Node == p.Node && r.Version != p.Version {
			lines = append(lines, warn(nodesName, "restart this node to complete the update", "the daemon that runs here is version %s, this binary is %s", r.Version, p.Version))
		}
	}
	if len(by) > 1 {
		var each []string
		for _, v := range slices.Sorted(maps.Keys(by)) {
			each = append(each, fmt.Sprintf("%s on %s", v, strings.Join(by[v], ", ")))
		}
		lines = append(lines, warn(nodesName, "complete the update: standbys first, the master last", "the nodes run different versions: %s", strings.Join(each, "; ")))
	}
	return lines
}

// timings says which nodes have another heartbeatTimeout than this one.
func (p Plane) timings(live []lease.NodeRecord) []persistence.Finding {
	var others []string
	for _, r := range live {
		if d := time.Duration(r.LeaseMs) * time.Millisecond; d != p.Timeout && r.Node != p.Node {
			others = append(others, fmt.Sprintf("%s has %s", r.Node, d))
		}
		if d := time.Duration(r.LeaseMs) * time.Millisecond; d != p.Timeout && r.Node == p.Node && p.Running {
			others = append(others, fmt.Sprintf("the daemon that runs here has %s (it reads its configuration at its start only)", d))
		}
	}
	if len(others) == 0 {
		return nil
	}
	return []persistence.Finding{warn(nodesName, "set ha.heartbeatTimeout or ha.preset alike on all nodes and restart those that differ",
		"this node's heartbeatTimeout is %s, but %s. All stay safe, but take over at different speeds (TIMING_MISMATCH)", p.Timeout, strings.Join(others, ", "))}
}

// sameURI finds nodes that name the same address: peers reach only one.
func sameURI(live []lease.NodeRecord) []persistence.Finding {
	by := map[string][]string{}
	for _, r := range live {
		by[r.URI] = append(by[r.URI], string(r.Node))
	}
	var lines []persistence.Finding
	for _, uri := range slices.Sorted(maps.Keys(by)) {
		if nodes := by[uri]; uri != "" && len(nodes) > 1 {
			lines = append(lines, warn(nodesName, "set nodeUri on each to an address of its own that the others reach", "%s all name %s as their address", strings.Join(nodes, ", "), uri))
		}
	}
	return lines
}
