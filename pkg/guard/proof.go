package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

const proofFile = "incarnation.json"

// initPidNamespace is the inode of a machine's first PID namespace, a constant
// of the kernel (PROC_PID_INIT_INO).
const initPidNamespace = 0xEFFFFFFC

// Proof is the local record of one incarnation that R10 asks for. It is made
// durable before the incarnation claims; with it, a restarted node can show
// that its former incarnation and its service are gone.
type Proof struct {
	Plane       lease.PlaneID     `json:"planeId"`
	Term        lease.Term        `json:"term"` // the term about to be claimed
	Incarnation lease.Incarnation `json:"incarnation"`
	MachineID   string            `json:"machineId"`
	ProductUUID string            `json:"productUuid"`
	BootID      string            `json:"bootId"`
	PidNS       uint64            `json:"pidNs"` // inode of the daemon's PID namespace
	InContainer bool              `json:"inContainer"`
	Daemon      Process           `json:"daemon"`
	Guard       Process           `json:"guard"` // Pid 0: there was none
	Cgroup      string            `json:"cgroup"`
}

// Process names a process for as long as the machine runs.
type Process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// NewProof describes this process and its guard; guard is 0 when there is none.
func NewProof(plane lease.PlaneID, term lease.Term, inc lease.Incarnation, guard int) Proof {
	m := thisMachine()
	p := Proof{
		Plane: plane, Term: term, Incarnation: inc,
		MachineID: m.machineID, ProductUUID: m.productUUID, BootID: m.bootID,
		PidNS: m.pidNS, InContainer: m.container,
		Daemon: Process{os.Getpid(), startTime(os.Getpid())},
		Cgroup: strings.TrimSpace(readAll("/proc/self/cgroup")),
	}
	if guard != 0 {
		p.Guard = Process{guard, startTime(guard)}
	}
	return p
}

// Save makes the record durable in the data directory, replacing a former one.
func (p Proof) Save(dir string) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, proofFile)
	f, err := newFile(path)
	if err == nil {
		err = commitFile(f, path, append(b, '\n'))
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("record this incarnation: %w", err)
	}
	return nil
}

// LoadProof reads the record of the data directory; ok is false when there is
// none.
func LoadProof(dir string) (p Proof, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, proofFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Proof{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return Proof{}, false, fmt.Errorf("read the record of the former incarnation: %w", err)
	}
	return p, true, nil
}

// Check reports whether the recorded incarnation and its service are provably
// gone (R10); why says what is missing. That the register still holds the
// incarnation's value, unchanged while watched, is for the caller to see.
// Processes that were just killed get a second to be gone: a lock ends a
// little before the process that held it.
func (p Proof) Check(dir string) (ok bool, why string) {
	m := thisMachine()
	for range 50 {
		ok, why = p.check(dir, m)
		if ok || p.BootID != m.bootID {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ok, why
}

// machine is what identifies the machine, its boot, and this process' view of
// it.
type machine struct {
	machineID, productUUID, bootID string
	pidNS                          uint64
	container                      bool
}

func thisMachine() machine {
	m := machine{
		machineID:   firstLine("/etc/machine-id"),
		productUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		bootID:      bootID(),
		pidNS:       pidNamespace("self"),
	}
	m.container = m.pidNS != initPidNamespace || exists("/.dockerenv") || exists("/run/.containerenv") ||
		os.Getenv("container") != "" || os.Getenv("KUBERNETES_SERVICE_HOST") != ""
	return m
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (p Proof) check(dir string, m machine) (ok bool, why string) {
	switch {
	case m.machineID == "" && m.productUUID == "":
		return false, "this machine can not be told from others: neither /etc/machine-id nor the product UUID is readable"
	case p.MachineID != m.machineID || p.ProductUUID != m.productUUID:
		return false, "the record was made on another machine"
	case p.BootID == "" || m.bootID == "":
		return false, "the kernel's boot id is not readable"
	case p.BootID != m.bootID:
		if p.InContainer || m.container {
			return false, "in a container another boot proves nothing: the old one may run elsewhere"
		}
		return true, ""
	case p.PidNS == 0 || p.PidNS != m.pidNS:
		return false, "the record was made in another PID namespace"
	case p.Daemon.Pid == 0 || p.Daemon.Start == 0:
		return false, "the record names no daemon"
	case alive(p.Daemon.Pid, p.Daemon.Start):
		return false, fmt.Sprintf("the former daemon, pid %d, is alive", p.Daemon.Pid)
	case p.Guard.Pid != 0 && alive(p.Guard.Pid, p.Guard.Start):
		return false, fmt.Sprintf("the former guard, pid %d, is alive", p.Guard.Pid)
	}
	t, found, err := LoadTree(dir)
	switch {
	case err != nil:
		return false, err.Error()
	case !found || t.latest() < p.Term:
		return true, "" // nothing was ever started in that term
	case t.latest() > p.Term:
		return false, fmt.Sprintf("the service ran in term %d, after the record was made", t.latest())
	}
	if t = t.since(p.Term); t.Outside && !t.Empty {
		return false, "the service hands its work to other processes, and its probe was not seen to say that they have stopped"
	}
	return t.Gone()
}
