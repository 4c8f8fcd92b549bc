// Package watchdog speaks to the hardware watchdogs of Linux: a device that
// resets the machine unless somebody feeds it. It is the only thing left that can
// stop a service when its daemon and its guard are frozen together.
//
// Opening the device starts it. Closing it stops it only after the letter V (the
// "magic close"), and not at all where the kernel forbids it (nowayout): a guard
// that is killed leaves it running, on purpose.
package watchdog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is an open watchdog, which runs. Its methods are called by one goroutine
// at a time and do not wait for anything but the device.
type Device interface {
	// SetTimeout asks for a reset so long after the last Feed, in whole seconds,
	// and returns what the device made of that.
	SetTimeout(d time.Duration) (time.Duration, error)
	Feed() error
	// Stop stops and closes it, where the kernel lets it be stopped.
	Stop() error
}

type device struct{ f *os.File }

// Open opens, and thereby starts, a device.
func Open(path string) (Device, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s is in use by another program (systemd's RuntimeWatchdogSec=, or a watchdog daemon); stop that, or name another device", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("there is no watchdog at %s; load the driver of the hardware, or modprobe softdog", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s can not be opened: %w; run the daemon as root, or give its user the device", path, err)
	case err != nil:
		return nil, err
	}
	return &device{f}, nil
}

// ask does one ioctl with an int.
func (d *device) ask(request uint, value int32) (int32, error) {
	//nolint:gosec // that is how an ioctl is called
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&value)))
	if errno != 0 {
		return 0, errno
	}
	return value, nil
}

// SetTimeout implements Device. A device whose timeout is fixed keeps it.
func (d *device) SetTimeout(want time.Duration) (time.Duration, error) {
	_, err := d.ask(unix.WDIOC_SETTIMEOUT, int32(want/time.Second))
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOTTY) {
		return 0, fmt.Errorf("set its timeout to %s: %w", want, err)
	}
	got, err := d.ask(unix.WDIOC_GETTIMEOUT, 0)
	if err != nil {
		return 0, fmt.Errorf("it does not tell its timeout: %w", err)
	}
	return time.Duration(got) * time.Second, nil
}

// Feed implements Device.
func (d *device) Feed() error {
	_, err := d.ask(unix.WDIOC_KEEPALIVE, 0)
	return err
}

// Stop implements Device.
func (d *device) Stop() error {
	_, err := d.f.WriteString("V")
	return errors.Join(err, d.f.Close())
}

// Info is what the kernel tells of a watchdog without its being opened.
type Info struct {
	Device   string        `json:"device"`   // /dev/watchdog0
	Known    bool          `json:"known"`    // it tells of this one; otherwise the rest means nothing
	Identity string        `json:"identity"` // its make; empty if not known
	Timeout  time.Duration `json:"timeoutNs"`
	Running  bool          `json:"running"`
	Nowayout bool          `json:"nowayout"` // once started it can not be stopped
}

// List lists the watchdogs of a machine. root is "/" but in tests.
func List(root string) []Info {
	names, err := filepath.Glob(filepath.Join(root, "dev/watchdog[0-9]*"))
	if err != nil {
		return nil // a bad pattern: can not happen
	}
	var out []Info
	for _, n := range names {
		out = append(out, describe(root, filepath.Base(n)))
	}
	if len(out) == 0 { // drivers older than the kernel's watchdog core have this alone
		if _, err := os.Stat(filepath.Join(root, "dev/watchdog")); err == nil {
			out = append(out, Info{Device: "/dev/watchdog"})
		}
	}
	return out
}

// Look describes the watchdog at a path; false if it is not there. /dev/watchdog
// is another name of the first.
func Look(root, path string) (Info, bool) {
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		return Info{}, false
	}
	name := filepath.Base(path)
	if name == "watchdog" {
		name = "watchdog0"
	}
	i := describe(root, name)
	i.Device = path
	return i, true
}

func describe(root, name string) Info {
	attr := func(a string) string {
		b, err := os.ReadFile(filepath.Join(root, "sys/class/watchdog", name, a))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	i := Info{Device: "/dev/" + name, Known: attr("state") != "", Identity: attr("identity"), Running: attr("state") == "active", Nowayout: attr("nowayout") == "1"}
	if s, err := strconv.Atoi(attr("timeout")); err == nil {
		i.Timeout = time.Duration(s) * time.Second
	}
	return i
}
