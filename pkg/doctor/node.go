package doctor

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Node is what a data directory says of its node; fields are empty for what
// it does not know yet.
type Node struct {
	DataDir string
	ID      lease.NodeID
	Plane   lease.PlaneID
	Term    lease.Term
	Err     error // of reading it
}

// Look says who this machine's node is.
func (n Node) Look() persistence.Finding {
	const name = "node"
	switch {
	case errors.Is(n.Err, fs.ErrPermission):
		return fail(name, "run doctor as root or as the user that runs the node", "%s can not be read by this user, so nothing is known of the node", n.DataDir)
	case n.Err != nil:
		return Failed(name, n.Err)
	case n.ID == "":
		return ok(name, "new: the first start gives it an id")
	case n.Plane == "":
		return ok(name, "%s, which has joined no plane yet", n.ID)
	}
	return ok(name, "%s of plane %s, which it has seen at term %d", n.ID, n.Plane, n.Term)
}

// Daemon is what is known of the daemon of a data directory.
type Daemon struct {
	DataDir    string
	Pid, Guard int  // 0: not alive
	Unknown    bool // who lives could not be found out
	// What it says of itself; State is empty when it did not answer.
	State    string
	Term     uint64
	Warnings []string // reason codes
}

// Look says whether the daemon runs and how it is.
func (d Daemon) Look() persistence.Finding {
	const name = "daemon"
	switch {
	case d.Unknown:
		return warn(name, "run doctor as root or as the user that runs the node", "whether it runs can not be told by this user")
	case d.Pid == 0 && d.Guard != 0:
		return warn(name, "wait; if it stays, see guard.log in "+d.DataDir, "it has died, and its guard, pid %d, is stopping the service", d.Guard)
	case d.Pid == 0:
		return ok(name, "not running")
	case d.State == "": // the check of the port says why
		return ok(name, "running, pid %d", d.Pid)
	case d.State == string(lease.StateFailed):
		return fail(name, "see 'understudy status' for the reason and the remedy", "running, pid %d, but it says FAILED", d.Pid)
	case len(d.Warnings) > 0:
		return warn(name, "see 'understudy status' for what they mean", "running, pid %d, %s at term %d, with warnings: %s", d.Pid, d.State, d.Term, strings.Join(d.Warnings, ", "))
	}
	return ok(name, "running, pid %d, %s at term %d", d.Pid, d.State, d.Term)
}
