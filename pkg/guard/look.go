package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Abilities is what a guard could do for a service.
type Abilities struct {
	Isolation string // how the service's tree would be kept together
	// TreeLost and MemoryLost say in words which protection is missing for
	// want of rights; empty: none.
	TreeLost, MemoryLost string
}

// Look finds out what a guard started by this process could do, by trying it.
// Nothing that it starts stays. The error says that the isolation asked for is
// not possible here, with the remedy.
func Look(isolation string) (Abilities, error) {
	// The probe dies with the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	iso, err := chooseIsolation(isolation)
	if err != nil {
		return Abilities{}, err
	}
	a := Abilities{Isolation: iso.kind, MemoryLost: memoryLost()}
	if len(iso.lost) > 0 {
		a.TreeLost = iso.lost[0]
	}
	return a, nil
}

// Holder tells who holds a data directory, by what the holder has noted there,
// without touching the lock: the pids of the daemon and of its guard, each 0
// when that process is gone or never was.
func Holder(dir string) (daemon, guard int, err error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find out who holds the data directory: %w", err)
	}
	defer f.Close()
	e := lockHolder(dir, f)
	return e.Daemon, e.Guard, nil
}
