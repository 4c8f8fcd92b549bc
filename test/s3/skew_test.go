//go:build linux && amd64

package s3_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/s3/server"
)

// shiftClock changes the time of day that one running Go program sees, and
// nobody else: it writes a call of the kernel over the vDSO's clock_gettime in
// that process' own copy of the page, which adds to CLOCK_REALTIME.
func shiftClock(pid int, by time.Duration) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var lo, hi int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &lo, &hi); err != nil {
				return err
			}
		}
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, hi-lo)
	if _, err := mem.ReadAt(image, lo); err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return err
	}
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 0x0d, // jne to the end
		0x48, 0xb9, // mov rcx, seconds
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(int64(by.Seconds()))) //nolint:gosec // two's complement is meant
	code = append(code, 0x48, 0x01, 0x0e, 0xc3)                                // add [rsi], rcx; ret
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(code)) {
			// No thread may be in it meanwhile.
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				return err
			}
			_, err := mem.WriteAt(code, lo+int64(s.Value)) //nolint:gosec // an offset within the page
			return errors.Join(err, unix.Kill(pid, unix.SIGCONT))
		}
	}
	return errors.New("the vDSO has no clock_gettime of that size")
}

// TestClockOff: the master's clock, then a standby's, is 20 minutes off, at which
// S3 refuses requests. There are never two masters, and the plane goes on.
func TestClockOff(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{Nodes: 2})
	master := c.StartAndWait(settle)
	for _, by := range []time.Duration{20 * time.Minute, -20 * time.Minute} {
		at := intervals.Now()
		must(t, shiftClock(master.Pid(), by))
		time.Sleep(2 * fastT)
		if n := len(c.Masters()); n > 1 {
			t.Errorf("%d masters", n)
		}
		refused := 0
		for _, r := range c.net(master).Requests() {
			if r.At > at && r.Status == http.StatusForbidden {
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("no request of %s was refused: this shows nothing", master.Name)
		}
		harness.Note(t, fmt.Sprintf("clock off by %v: %d requests refused, %d services since", by, refused, c.Record().StartsAfter(at)))
		master = c.WaitSettled(settle)
	}
	standby := c.Standby(master)
	must(t, shiftClock(standby.Pid(), -20*time.Minute))
	time.Sleep(fastT)
	at := master.KillTree()
	if next := c.WaitStart(at, settle); c.NodeOf(next) != standby {
		t.Errorf("%v, want a service of %s", next, standby.Name)
	}
}
