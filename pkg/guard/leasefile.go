package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

const leaseName = "lease"

// LeaseFile finds the place of a node's lease file, which tells the service
// until when it may serve, and makes its directory: below what systemd made for
// the unit (RuntimeDirectory=), below /run or $XDG_RUNTIME_DIR if they are in
// memory, else the data directory. warning says what the latter costs.
func LeaseFile(node lease.NodeID, dataDir string) (path, warning string, err error) {
	first, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	bases := []string{first}
	if os.Geteuid() == 0 && onTmpfs("/run") {
		bases = append(bases, "/run/understudy")
	}
	if user := os.Getenv("XDG_RUNTIME_DIR"); onTmpfs(user) {
		bases = append(bases, filepath.Join(user, "understudy"))
	}
	for _, base := range bases {
		dir := filepath.Join(base, string(node))
		if filepath.IsAbs(base) && os.MkdirAll(dir, 0o755) == nil { //nolint:gosec // the service may be another user
			return filepath.Join(dir, leaseName), "", nil
		}
	}
	if path, err = filepath.Abs(filepath.Join(dataDir, leaseName)); err != nil {
		return "", "", fmt.Errorf("lease file: %w", err)
	}
	return path, "HA_LEASE_FILE is on a disk, in dataDir: it may fall behind when that disk is slow. Give the daemon a /run or an XDG_RUNTIME_DIR in memory", nil
}

// openLease makes the directory of the lease file, should an earlier guard have
// taken it along.
func (g *guardian) openLease() {
	if g.cfg.LeaseFile != "" {
		g.disk.add(func() { _ = os.MkdirAll(filepath.Dir(g.cfg.LeaseFile), 0o755) }) //nolint:gosec // as above
	}
}

// closeLease takes the directory along, unless others use it: the data
// directory is never empty.
func (g *guardian) closeLease() {
	if g.cfg.LeaseFile != "" {
		g.disk.add(func() { _ = os.Remove(filepath.Dir(g.cfg.LeaseFile)) })
	}
}

// noteLease rewrites the lease file for the deadline that was acknowledged: the
// boot id and the CLOCK_BOOTTIME nanoseconds of the end of the right to serve.
// A file that falls behind says less than is true.
func (g *guardian) noteLease(d Deadline) {
	if g.cfg.LeaseFile == "" {
		return
	}
	text := fmt.Sprintf("%s %d\n", g.bootID, d.T0.Boot+d.End.Nanoseconds())
	g.disk.add(func() {
		err := writeWhole(g.cfg.LeaseFile, text, 0o644)
		if err != nil && !g.leaseLost {
			g.log.printf("lease file: %v", err) // once: the next follows soon
		}
		g.leaseLost = err != nil
	})
}

// dropLease removes the lease file: the term is over.
func (g *guardian) dropLease() {
	if g.cfg.LeaseFile == "" {
		return
	}
	g.disk.add(func() {
		if err := os.Remove(g.cfg.LeaseFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.log.printf("lease file: %v", err)
		}
	})
}
