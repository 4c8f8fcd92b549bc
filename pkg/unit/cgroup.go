package unit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// populated reports whether a process lives in a control group that systemd
// made, or below: in the hierarchy of version 2, or systemd's own of version 1.
// One that is not there is empty, since none can be removed that is not.
func populated(group string) (bool, error) {
	if group == "" {
		return false, nil // systemd has none for it
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("find the control groups: %w", err)
	}
	seen := false
	for l := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(l, " - ")
		f := strings.Fields(before)
		two := strings.HasPrefix(after, "cgroup2 ")
		if len(f) < 5 || f[3] != "/" || (!two && !strings.Contains(after, "name=systemd")) {
			continue
		}
		seen = true
		if alive, err := populatedIn(filepath.Join(f[4], group), two); alive || err != nil {
			return alive, err
		}
	}
	if !seen {
		return false, errors.New("the control groups of systemd can not be seen from here, so nobody can tell whether the unit's is empty; mount them")
	}
	return false, nil
}

func populatedIn(dir string, two bool) (bool, error) {
	if two {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if missing(err) {
			return false, nil
		}
		return !bytes.Contains(b, []byte("populated 0\n")), err
	}
	alive := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return ignoreMissing(err)
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		alive = alive || len(b) > 0
		return ignoreMissing(err)
	})
	return alive, err
}

// missing: it is not there, or was removed at this moment.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}
