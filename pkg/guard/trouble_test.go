package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/need"
)

// crowded lists the living processes of a crowd.
func crowded(mark string) (pids []int) {
	all, _ := allPids()
	for _, pid := range all {
		s, err := readStat(pid)
		if err == nil && s.state != 'Z' && s.state != 'X' && strings.Contains(readAll("/proc/"+strconv.Itoa(pid)+"/cmdline"), mark) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// 200 processes, deaf to TERM, in sessions and groups of their own, their
// parents gone, pipes in their hands: nothing of them is alive when the term is
// said to be over, and that is within S; and not when the release is written.
// One variant at a time: they are many.
func TestTreeOf200(t *testing.T) {
	const (
		size = 200
		S    = 10 * time.Second // T = 30s
		kill = 2 * time.Second  // after the stop began; as late as 8 s would show no more
	)
	for _, v := range variants() {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			d := startDaemon(t, v)
			mark := "1000." + filepath.Base(d.dir)[9:]
			t.Cleanup(func() {
				for _, pid := range crowded(mark) {
					t.Errorf("pid %d is left", pid)
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			})
			d.arm(1, time.Minute, time.Minute+kill, time.Minute+S)
			d.run(1, 1, service{Crowd: size, Mark: mark, IgnoreTerm: true})
			if !within(wait, func() bool { return len(crowded(mark)) >= size }) {
				t.Fatalf("%d of %d came up", len(crowded(mark)), size)
			}
			began := boot()
			d.tell(order{Do: opStop, Term: 1})
			e := d.wait(Empty)
			left := len(crowded(mark))
			if took := boot() - began; !e.Final || left > 0 || took > S {
				t.Errorf("after %v: %+v, %d alive", took, e, left)
			} else {
				t.Logf("%d processes proven gone %v after the stop began, KILL was due after %v", size, took, kill)
			}
		})
	}
}

func TestTreeOf200WhenTheDaemonDies(t *testing.T) {
	for _, v := range variants() {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			d := startDaemon(t, v)
			mark := "1000." + filepath.Base(d.dir)[9:]
			d.arm(1, time.Minute, time.Minute, time.Minute)
			d.run(1, 1, service{Crowd: 200, Mark: mark, IgnoreTerm: true})
			if !within(wait, func() bool { return len(crowded(mark)) >= 200 }) {
				t.Fatalf("%d of 200 came up", len(crowded(mark)))
			}
			killed := boot()
			d.kill9(d.proc.Pid)
			at := d.releasedAt(wait)
			for _, pid := range crowded(mark) {
				t.Errorf("pid %d is alive after the release", pid)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			t.Logf("200 processes gone and released %v after the kill, KILL was due after %v", at-killed, killAfter)
		})
	}
}

// What the service writes goes past guard and shim: 10,000 lines a second hold
// up neither an acknowledgement nor the deadline.
func TestManyLines(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, variants()[0])
	d.arm(1, time.Minute, time.Minute, time.Minute)
	d.run(1, 1, service{Lines: 10_000})
	d.beating("main")
	logged := func() int64 {
		st, err := os.Stat(filepath.Join(d.dir, "guard.log"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size() / 80
	}
	before, began := logged(), time.Now()
	cpu := cpuTicks(d.guard) + cpuTicks(d.shim())
	var slowest time.Duration
	for time.Since(began) < 3*time.Second {
		asked := time.Now()
		d.arm(1, time.Minute, time.Minute, time.Minute)
		slowest = max(slowest, time.Since(asked))
		time.Sleep(50 * time.Millisecond)
	}
	rate := float64(logged()-before) / time.Since(began).Seconds()
	spent := cpuTicks(d.guard) + cpuTicks(d.shim()) - cpu
	t.Logf("%.0f lines/s; slowest acknowledgement %v; guard and shim took %d ms of processor time in %v", rate, slowest, 10*spent, time.Since(began))
	if rate < 9000 {
		t.Errorf("%.0f lines/s show nothing", rate)
	}
	if slowest > time.Second { // of the 2h that a daemon waits
		t.Errorf("an acknowledgement took %v", slowest)
	}
	const end = 4 * time.Second
	t0 := boot()
	d.arm(1, soon, 2*soon, end)
	if e := d.wait(Empty); !e.Final {
		t.Errorf("%+v", e)
	}
	if last := d.lastBeat("main") - t0; last > end {
		t.Errorf("last beat %v after t0", last)
	}
}

// cpuTicks is the processor time a process has used, in ticks of 10 ms.
func cpuTicks(pid int) (sum int) {
	_, rest, _ := strings.Cut(readAll(fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}

// A data directory without a free byte: what can not be recorded is refused
// with the remedy, what runs goes on, is stopped, recorded as empty, and
// released.
func TestDataDirFull(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		need.Root(t, "mount a small file system")
		if d.variant.nobody {
			return // it can not be given a mount more easily, and nothing of the guard differs
		}
		d.kill9(d.proc.Pid) // the one that was started has its directory elsewhere
		<-d.ended
		small := filepath.Join(d.dir, "small")
		if err := os.Mkdir(small, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("small", small, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		f := prepareDaemon(t, d.variant)
		base := f.dir
		f.dir, f.released = small, filepath.Join(d.dir, "released")
		t.Cleanup(func() { // before f's own, which waits for its guard
			f.cleanup()
			f.proc, f.dir = nil, base
			if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		f.start(d.variant)
		f.serve(1, stubborn())
		fill(t, small)

		f.arm(1, time.Minute, time.Minute, time.Minute)
		f.hookShell(Aux{Term: 1, ID: 9, Timeout: wait}, "exit 0")
		if e := f.wait(AuxRefused, AuxStarted); e.Kind != AuxRefused || !strings.Contains(e.Why, "free space in the data directory") {
			t.Errorf("%+v", e)
		}
		f.kill9(f.shim())
		if e := f.wait(Empty); e.Final {
			t.Errorf("%+v", e)
		}
		if !within(wait, func() bool { tree, _, err := LoadTree(small); return err == nil && tree.Empty }) {
			t.Error("not recorded as empty")
		}
		f.run(1, 2, service{Name: "second"})
		if e := f.wait(Refused, Started); e.Kind != Refused || !strings.Contains(e.Why, "free space in the data directory") {
			t.Errorf("%+v", e)
		}
		f.wait(Empty) // of its shim
		if err := os.Remove(filepath.Join(small, "fill")); err != nil {
			t.Fatal(err)
		}
		f.run(1, 3, service{Name: "third"})
		f.wait(Started)
		f.beating("third")
		fill(t, small)
		f.kill9(f.proc.Pid)
		f.releasedAt(wait)
		f.dead(wait, "third")
	})
}

// fill leaves no free byte on the file system of dir.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 1 << 20 {
		if _, err = f.Write(make([]byte, 512)); err != nil {
			return
		}
	}
	t.Fatal("it does not fill")
}

// A hook in uninterruptible sleep: said to be stuck, its term is not over and
// nothing is released until it is really gone.
func TestStuckHookIsNeverCalledGone(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		if d.variant.nobody {
			return // can not enter root's scratch directory; nothing of the guard differs
		}
		path, f := mountHang(t)
		letGo := sync.OnceFunc(func() { close(f.letGo) })
		defer letGo()
		d.serve(1, service{})
		d.tell(order{Do: opAux, Aux: &Aux{Term: 1, ID: 5, Timeout: 300 * time.Millisecond, Argv: []string{"/bin/cat", path, d.dir}}})
		select {
		case <-f.entered:
		case <-time.After(wait):
			t.Fatal("nobody reads the hanging file")
		}
		if e := d.wait(AuxStuck, AuxEnded); e.Kind != AuxStuck || e.Run != 5 {
			t.Fatalf("%+v", e)
		}
		d.alone("main")
		d.arm(1, soon, soon+2*time.Second, soon+3*time.Second)             // TERM is enough for the service
		for _, want := range []EventKind{Stopping, Exited, Empty, Stuck} { // of the service, then of the term
			if e := d.wait(Exited, Stopping, Empty, Stuck, AuxEnded); e.Kind != want || e.Final {
				t.Fatalf("%+v, want %s", e, want)
			}
		}
		d.kill9(d.proc.Pid)
		<-d.ended
		time.Sleep(300 * time.Millisecond) // time for the mistake
		d.notReleased()
		if tree, _, _ := LoadTree(d.dir); func() bool { gone, _ := tree.Gone(); return gone }() {
			t.Error("proven gone")
		}
		freed := boot()
		letGo()
		if at := d.releasedAt(wait); at < freed {
			t.Error("released while the hook was alive")
		}
	})
}
