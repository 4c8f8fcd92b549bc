package address

import (
	"context"
	"os"
	"time"
)

const roleEvery = 50 * time.Millisecond // between two looks at the role

// KeepRole keeps a file that says "0" while serving() and "1" otherwise, as
// keepalived's track_file wants it, until ctx ends; then it says "1". It is
// replaced whole and not synced: what it says is of no use after a reboot. The
// first failure in a row is told to failed.
func KeepRole(ctx context.Context, path string, serving func() bool, failed func(error)) {
	tick := time.NewTicker(roleEvery)
	defer tick.Stop()
	broken := false
	for {
		over := ctx.Err() != nil // asked once: what ends in between is the next round's
		role := "1\n"
		if !over && serving() {
			role = "0\n"
		}
		// What it says is read, not remembered: the guard turns it, too.
		if b, err := os.ReadFile(path); err != nil || string(b) != role {
			if err = writeRole(path, role); err != nil && !broken {
				failed(err)
			}
			broken = err != nil
		}
		if over {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// writeRole uses a temporary name of its own: the guard may write at the same
// time.
func writeRole(path, role string) error {
	tmp := path + ".daemon.tmp"
	if err := os.WriteFile(tmp, []byte(role), 0o644); err != nil { //nolint:gosec // anybody may know it
		return err
	}
	return os.Rename(tmp, path)
}
