package doctor

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const clockSourceDir = "sys/devices/system/clocksource/clocksource0"

// goodSources count at a steady rate whatever the machine does.
var goodSources = []string{
	"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "hyperv_clocksource_msr", "xen", "arch_sys_counter",
	"riscv_clocksource", "timebase", "tod", "stick", "tick", "vmware-clock",
}

// ClockSource judges what the kernel counts time by; root is "/" but in tests.
func ClockSource(root string) persistence.Finding {
	const name = "clock source"
	current := firstLine(filepath.Join(root, clockSourceDir, "current_clocksource"))
	available := strings.Fields(firstLine(filepath.Join(root, clockSourceDir, "available_clocksource")))
	demoted := ""
	if slices.Contains(available, "tsc") {
		demoted = "; the processor's own counter, tsc, is there but not used"
	}
	switch {
	case current == "":
		return warn(name, "look at /"+clockSourceDir+" on the host", "what this kernel counts time by can not be read here, so whether it is steady is not known")
	case slices.Contains(goodSources, current):
		return ok(name, "%s, which is steady", current)
	case current == "jiffies" || current == "refined-jiffies" || current == "pit":
		return fail(name, "boot without clocksource= and notsc on the kernel's command line, or use another machine or hypervisor setting",
			"%s, which counts timer interrupts and falls behind when some are lost: leases measured by it may be longer than others think%s", current, demoted)
	case current == "hpet" || current == "acpi_pm":
		return warn(name, "see why with 'dmesg | grep -i -e tsc -e clocksource'; as a rule the kernel found tsc unsteady",
			"%s: right, but slow to read, and usually a sign of a machine whose faster clock went wrong%s", current, demoted)
	default:
		return warn(name, "ask the machine's or hypervisor's maker whether it keeps a steady rate within 1 %", "%s, of which nothing is known here%s", current, demoted)
	}
}

// SampleClocks reads both clocks of the machine as nearly at once as it can:
// of several readings, the one that was interrupted least.
func SampleClocks(now func() lease.Instant) lease.Instant {
	best, width := lease.Instant{}, int64(math.MaxInt64)
	last := now()
	for range 10 {
		next := now()
		if w := next.Boot - last.Boot; w >= 0 && w < width {
			best, width = last, w
		}
		last = next
	}
	return best
}

// Pace compares the rates of the two clocks that leases are judged by,
// CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW, between two samples about a second
// apart. NTP steers the former by up to 500 ppm.
func Pace(from, to lease.Instant) persistence.Finding {
	const name = "clock pace"
	boot, raw := to.Boot-from.Boot, to.Raw-from.Raw
	if boot <= 0 || raw <= 0 {
		return fail(name, "use another clock source, or another machine", "a clock of this machine stood still or went back within %s", time.Duration(max(boot, raw)))
	}
	ppm := math.Abs(float64(boot-raw)) / float64(raw) * 1e6
	apart := fmt.Sprintf("the machine's two clocks run %.0f ppm (millionths) apart", ppm)
	switch {
	case ppm > 1e6/election.DriftParts:
		return fail(name, "run doctor again: a pause of the machine shows once. If it stays, stop what slews the clock (adjtimex, chrony's makestep and maxslewrate) or use another clock source",
			"%s, over the 1 %% that the protocol allows for", apart)
	case ppm > 1000:
		return warn(name, "run doctor again; if it stays, see what slews the clock: 'adjtimex --print' or 'chronyc tracking'",
			"%s, more than time synchronisation needs", apart)
	default:
		return ok(name, "the machine's two clocks run alike, %.0f ppm (millionths) apart; 1 %% is allowed for", ppm)
	}
}

// Kernel is what adjtimex(2) says of the wall clock.
type Kernel struct {
	State int // e.g. TIME_ERROR
	Timex unix.Timex
	Err   error
}

// AskKernel calls adjtimex without changing anything.
func AskKernel() Kernel {
	var k Kernel
	k.State, k.Err = unix.Adjtimex(&k.Timex)
	return k
}

const timeError = 5 // TIME_ERROR of <linux/timex.h>: the clock is not synchronised

// WallClock judges the time of day. No decision rests on it (R12).
func WallClock(k Kernel) persistence.Finding {
	const name = "time of day"
	const use = "no decision rests on it, but certificates and the times in logs and history do"
	switch {
	case k.Err != nil:
		return warn(name, "look at 'timedatectl' on the host", "whether it is synchronised can not be asked here (%v); %s", k.Err, use)
	case k.State == timeError || k.Timex.Status&unix.STA_UNSYNC != 0:
		return warn(name, "run a time service: chrony, ntpd or systemd-timesyncd", "it is not synchronised; %s", use)
	default:
		return ok(name, "it is synchronised, to within %s by the kernel's own estimate", (time.Duration(k.Timex.Maxerror) * time.Microsecond).Round(time.Millisecond))
	}
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	l, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(l)
}
