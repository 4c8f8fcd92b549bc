package main

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// output is a buffer that is read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var joinLine = regexp.MustCompile(`(?m)^    understudy store verify \S+ --join ([a-z2-7]{8})$`)

// verifyFromTwo runs the command at two mounts of one file system, as an
// operator does: the second by the line that the first one prints.
func verifyFromTwo(t *testing.T, here, there string, args ...string) (said [2]string, codes [2]int) {
	t.Helper()
	var (
		outs [2]output
		errs [2]output
		wg   sync.WaitGroup
	)
	run := func(i int, args ...string) {
		codes[i] = execute(t.Context(), append([]string{"store", "verify"}, args...), &outs[i], &errs[i])
	}
	wg.Go(func() { run(0, append([]string{here, "--peer", "node2"}, args...)...) })
	var token string
	for end := time.Now().Add(30 * time.Second); token == ""; time.Sleep(time.Millisecond) {
		if m := joinLine.FindStringSubmatch(errs[0].String()); m != nil {
			token = m[1]
		} else if time.Now().After(end) {
			t.Fatalf("the line to run was not printed: %s", &errs[0])
		}
	}
	run(1, there, "--join", token)
	wg.Wait()
	for i := range said {
		said[i] = outs[i].String()
		t.Logf("%d: %s", codes[i], said[i])
	}
	return said, codes
}

func TestTwoMountsOfOneFileSystem(t *testing.T) {
	need.Root(t, "mount file systems")
	backing := t.TempDir()
	for name, broken := range map[string]bool{"good": false, "renames are not exclusive": true} {
		t.Run(name, func(t *testing.T) {
			a, here := mountFaultyOn(t, backing)
			b, there := mountFaultyOn(t, backing)
			var faults []*faultfs.Fault
			if broken { // only where two nodes meet: alone, each finds it good
				for _, fs := range []*faultfs.FS{a, b} {
					faults = append(faults, fs.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "verify-peer-", Shared: 100 * time.Millisecond}))
				}
			}
			said, codes := verifyFromTwo(t, here, there, "--writers", "8", "--rounds", "5")
			fired := 0
			for _, f := range faults {
				fired += f.Fired()
			}
			for i := range said {
				if !broken {
					if codes[i] != exitOK || !strings.Contains(said[i], "no value swapped away twice") || !strings.Contains(said[i], "both runs are on one machine") {
						t.Errorf("node %d: exit code %d, %s", i+1, codes[i], said[i])
					}
					continue
				}
				alone := regexp.MustCompile(`(?m)^ok +racing writers `).MatchString(said[i])
				if codes[i] != exitFailed || !alone || !strings.Contains(said[i], ": NOT SAFE: ") || !strings.Contains(said[i], "had swapped the same value") {
					t.Errorf("node %d: exit code %d, %s", i+1, codes[i], said[i])
				}
			}
			if broken && fired == 0 {
				t.Error("the fault never fired")
			}
			mustBeClean(t, here)
		})
	}
}
