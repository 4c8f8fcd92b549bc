//go:build !race

package guard

import (
	"fmt"
	"strings"
	"testing"
)

// The guard alone stays small while it serves, locked memory and all.
func TestGuardIsSmall(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, service{})
		for range 50 {
			d.arm(1, wait, wait, wait)
		}
		for name, pid := range map[string]int{"guard": d.guard, "shim": d.shim()} {
			kb := rss(pid)
			d.t.Logf("%s: %d KiB resident", name, kb)
			if kb == 0 || kb > 16<<10 {
				d.t.Errorf("%s: %d KiB resident, want at most 16 MiB", name, kb)
			}
		}
	})
}

func rss(pid int) (kb int) {
	for l := range strings.Lines(readAll(fmt.Sprintf("/proc/%d/status", pid))) {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			_, _ = fmt.Sscan(v, &kb)
		}
	}
	return kb
}
