package guard

import (
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Finals is what a guard does after its daemon has died and the term's tree is
// proven empty, before the release, in this order. None of it keeps the release
// from being written, but a Command that survives KILL.
type Finals struct {
	// RoleFile is a local file that is turned to "1", not master; that is done
	// whenever a stop begins, too. Empty: none.
	RoleFile string
	// Command is run if the term was not over when the daemon died; the term is
	// added to Env as HA_TERM and HA_TOKEN. Empty: none.
	Command []string
	Env     []string
	Dir     string        // of Command; empty: /
	Timeout time.Duration // of Command; 0 means 5s
}

const (
	finalID   = math.MaxUint64  // of the run of Finals.Command
	roleLimit = time.Second     // for the role file, on a disk that hangs
	finalTime = 5 * time.Second // of Command, if nothing else is said
)

// runFinals begins what is to be done at the end, once.
func (g *guardian) runFinals() {
	f := g.cfg.Finals
	g.finals = true
	if f.RoleFile != "" {
		if !g.disk.within(roleLimit, func() { g.logError("role file", writeWhole(f.RoleFile, "1\n", 0o644)) }) {
			g.log.printf("role file %s: its disk does not answer", f.RoleFile)
		}
	}
	if len(f.Command) == 0 || !g.diedServing {
		return
	}
	term := strconv.FormatUint(uint64(g.armed.Term), 10)
	r := &run{
		Run: Run{
			Term: g.armed.Term, ID: finalID, Argv: f.Command, Dir: f.Dir,
			Env: append(append([]string{}, f.Env...), "HA_TERM="+term, "HA_TOKEN="+term),
		},
		aux: &auxState{Aux: Aux{Timeout: or(f.Timeout, finalTime), OfStop: true}, end: Event{Exit: -1}},
		iso: g.auxIsolation(),
	}
	if why := g.startAux(r); why != "" {
		g.log.printf("final command: %s", why)
	}
}

func (g *guardian) logError(what string, err error) {
	if err != nil {
		g.log.printf("%s: %v", what, err)
	}
}

// writeWhole replaces a file so that readers see the old or the new text. It is
// not synced: what it says is of no use after a reboot.
func writeWhole(path, text string, mode os.FileMode) error {
	tmp := path + ".tmp"
	err := os.WriteFile(tmp, []byte(text), mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	return err
}

// onTmpfs reports whether a directory is in memory.
func onTmpfs(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
}
