package posix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
)

// The names of the findings of Inspect.
const (
	aboutMount   = "file system"
	aboutOptions = "mount options"
	aboutNFS     = "NFS version"
	aboutShared  = "shared"
	aboutWriting = "writing"
	aboutSpace   = "free space"
	aboutInodes  = "free inodes"
	aboutClock   = "store clock"
)

// What is too little, and what too much.
const (
	lowSpacePercent  = 5
	lowSpaceBytes    = 100 << 20
	lowInodesPercent = 1
	clockTolerance   = 10 * time.Second
)

// Inspect implements persistence.Inspector: the mount with its options, free
// space and inodes, whether one may write there, and how far the clock of
// whoever keeps the files is from this machine's.
func (s *Store) Inspect(ctx context.Context) []persistence.Finding {
	var out []persistence.Finding
	for _, part := range []struct {
		name string
		look func() []persistence.Finding
	}{{aboutMount, s.inspectMount}, {aboutSpace, s.inspectSpace}, {aboutWriting, s.inspectWriting}} {
		// One worker each: what was found out before a hang is kept.
		found, err := call(ctx, s.objects, func() ([]persistence.Finding, error) { return part.look(), s.open() }, nil)
		if err != nil {
			return append(out, failure(part.name, err))
		}
		out = append(out, found...)
	}
	return out
}

// failure is a finding out of an error, which carries its own remedy.
func failure(name string, err error) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeFail, Detail: err.Error()}
}

func okay(name, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeOK, Detail: fmt.Sprintf(format, args...)}
}

// inspectMount judges what the kernel says about the mount.
func (s *Store) inspectMount() []persistence.Finding {
	m, err := s.look()
	if err != nil {
		return []persistence.Finding{failure(aboutMount, err)}
	}
	out := []persistence.Finding{okay(aboutMount, "%s", m.describe())}
	if err := m.refusal(s.dir); err != nil {
		out[0] = failure(aboutMount, err)
	}
	doubts := m.doubts()
	if len(doubts) == 0 {
		doubts = []persistence.Finding{okay(aboutOptions, "nothing speaks against them")}
	}
	out = append(out, doubts...)
	if f, ok := m.adviseNFS(); ok {
		out = append(out, f)
	}
	return append(out, m.sharing())
}

// describe is String with what tells one mount from another.
func (m mount) describe() string {
	text := m.String()
	if m.root != "" && m.root != "/" {
		text += ", of which the part " + m.root + " is mounted (a bind mount or a subvolume)"
	}
	for _, o := range []string{"vers", "proto", "addr"} {
		if v := m.value(o); v != "" {
			text += ", " + o + "=" + v
		}
	}
	return text
}

// adviseNFS says what the version of the protocol means here.
func (m mount) adviseNFS() (f persistence.Finding, isNFS bool) {
	if m.fstype != "nfs" && m.fstype != "nfs4" {
		return f, false
	}
	const sync = ". Whether the server exports it async, which would lose what it had promised in a crash, can not be seen from here: exportfs -v on the server must say sync"
	switch v := m.value("vers"); v {
	case "4.1", "4.2":
		return okay(aboutNFS, "%s, which does each request once, also after a broken connection%s", v, sync), true
	case "3":
		f = okay(aboutNFS, "3 keeps the contract; a request repeated after a broken connection may be answered wrongly, which is found out by reading back%s", sync)
		f.Remedy = "if the server can do it, " + bestNFS
		return f, true
	default:
		return persistence.Finding{
			Name: aboutNFS, Status: persistence.GradeWarn,
			Detail: fmt.Sprintf("%q, which has no sessions, so that a request repeated after a broken connection may be answered wrongly", v) + sync,
			Remedy: bestNFS,
		}, true
	}
}

// sharing says whether other machines see the same files.
func (m mount) sharing() persistence.Finding {
	f := persistence.Finding{Name: aboutShared, Status: persistence.GradeWarn}
	switch {
	case m.shared():
		return okay(aboutShared, "%s is a file system of several machines", m.fstype)
	case m.missing != nil:
		f.Status = persistence.GradeFail
		f.Detail = fmt.Sprintf("the shared file system is not mounted: what is seen is its mount point %s, on this machine's own %s", m.missing.point, m)
		f.Remedy = "mount " + m.missing.point
	case m.fstype == "autofs":
		f.Status = persistence.GradeFail
		f.Detail = fmt.Sprintf("the automounter has mounted nothing at %s", m.point)
		f.Remedy = "look at the automounter's map and its log"
	case m.fstype == "tmpfs" || m.fstype == "ramfs":
		f.Detail = fmt.Sprintf("%s is in this machine's memory: no other machine sees it, and a reboot empties it", m)
		f.Remedy = "mount the shared file system there; this is for trying things out"
	default:
		f.Detail = fmt.Sprintf("%s is this machine's own disk, as far as can be told: no other machine sees it, so that none can take over", m)
		f.Remedy = "mount the shared file system there, or name a directory on it; this is for trying things out"
	}
	return f
}

// inspectSpace judges how much there is left.
func (s *Store) inspectSpace() []persistence.Finding {
	var sf unix.Statfs_t
	if err := unix.Statfs(s.place(), &sf); err != nil {
		return []persistence.Finding{failure(aboutSpace, wrap("look up the free space of", s.place(), err))}
	}
	size := uint64(sf.Bsize) //nolint:gosec // positive
	return []persistence.Finding{judgeSpace(sf.Bavail*size, sf.Blocks*size), judgeInodes(sf.Ffree, sf.Files)}
}

func judgeSpace(free, total uint64) persistence.Finding {
	f := okay(aboutSpace, "%s of %s", bytesText(free), bytesText(total))
	switch {
	case total == 0:
		f.Detail = "the file system does not tell"
	case free == 0:
		f.Status, f.Remedy = persistence.GradeFail, "free space, or make the file system larger; nothing can be written there"
	case free < total/100*lowSpacePercent || free < lowSpaceBytes:
		f.Status, f.Remedy = persistence.GradeWarn, "free space: a master that can not renew its lease stops its service"
	}
	return f
}

func judgeInodes(free, total uint64) persistence.Finding {
	f := okay(aboutInodes, "%d of %d", free, total)
	switch {
	case total == 0:
		f.Detail = "without limit"
	case free == 0:
		f.Status, f.Remedy = persistence.GradeFail, "remove files; no new one can be made there"
	case free < total/100*lowInodesPercent:
		f.Status, f.Remedy = persistence.GradeWarn, "remove files: each write needs an inode for a moment"
	}
	return f
}

// bytesText is a size as people read it.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/(1<<10), 0
	for v >= 1<<10 && i < len(units)-1 {
		v, i = v/(1<<10), i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// inspectWriting writes a scratch file and removes it again, and compares the
// time that it got with this machine's.
func (s *Store) inspectWriting() []persistence.Finding {
	if err := s.stillThere(); err != nil {
		return []persistence.Finding{failure(aboutWriting, err)}
	}
	before := time.Now()
	stamp, err := s.scratch()
	after := time.Now()
	if err == nil {
		err = s.mayWriteBelow()
	}
	if err != nil {
		return []persistence.Finding{failure(aboutWriting, err)}
	}
	return []persistence.Finding{
		okay(aboutWriting, "a file was made, written and removed in %s", after.Sub(before).Round(10*time.Microsecond)),
		judgeClock(before, stamp, after),
	}
}

// mayWriteBelow looks at the directories of a plane that is there already,
// which may belong to somebody else than the location itself.
func (s *Store) mayWriteBelow() error {
	entries, err := listDir(s.dir)
	if err != nil {
		if s.sub() && isMissing(err) {
			return nil
		}
		return rootError(s.dir, err)
	}
	for _, e := range entries {
		if !e.IsDir() || hidden(e.Name()) || e.Name() == "lost+found" {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		err := unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK)
		if err != nil && !isMissing(err) {
			return wrap("write in", path, err)
		}
	}
	return nil
}

// judgeClock compares the time that the store gave a file, written between two
// readings of the own clock, with these. No decision rests on it (R12).
func judgeClock(before, stamp, after time.Time) persistence.Finding {
	var off time.Duration
	switch {
	case stamp.Before(before):
		off = stamp.Sub(before)
	case stamp.After(after):
		off = stamp.Sub(after)
	}
	f := okay(aboutClock, "")
	switch {
	case off.Abs() < time.Second: // file systems round, some to seconds
		f.Detail = "agrees with this machine's"
	case off < 0:
		f.Detail = fmt.Sprintf("%s behind this machine's", -off.Round(100*time.Millisecond))
	default:
		f.Detail = fmt.Sprintf("%s ahead of this machine's", off.Round(100*time.Millisecond))
	}
	if off.Abs() >= clockTolerance {
		f.Status = persistence.GradeWarn
		f.Detail += "; nothing is decided by it, but times shown to people will not match"
		f.Remedy = "run NTP on both"
	}
	return f
}

// scratch makes, writes and removes a file, and returns the time that the
// store gave it. Permission bits do not tell about read-only mounts, quotas or
// squashed users; writing does.
func (s *Store) scratch() (stamp time.Time, err error) {
	path := filepath.Join(s.dir, ".check-"+random())
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return stamp, wrap("create a file in", s.dir, err)
	}
	_, err = f.WriteString("understudy\n")
	if err == nil {
		err = f.Sync()
	}
	if fi, serr := f.Stat(); serr == nil {
		stamp = fi.ModTime()
	} else {
		err = errors.Join(err, serr)
	}
	err = errors.Join(err, f.Close())
	if rerr := os.Remove(path); err == nil {
		err = rerr
	}
	if err != nil {
		return stamp, wrap("write a file in", s.dir, err)
	}
	return stamp, nil
}
