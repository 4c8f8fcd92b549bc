package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
)

// Place is the file system that a path lies on; the zero Place is unknown.
type Place struct {
	Type, Source, Point string
	Shared              bool // of a type whose files other machines see
	Local               bool // of a type that is certainly this machine's own
	Memory              bool // gone after a reboot
}

func (p Place) String() string {
	return fmt.Sprintf("%s (%s mounted at %s)", p.Type, p.Source, p.Point)
}

// with reports whether p is the shared file system: by its type, or because it
// is the very mount the store lies on and not known to be a local disk.
func (p Place) with(store Place) bool {
	return p.Shared || (!p.Local && p.Point != "" && p.Point == store.Point)
}

// DataDir is what is judged of the data directory.
type DataDir struct {
	Path         string
	Place, Store Place
	// UID is the user the node runs as: the live daemon's, or whoever asks.
	UID    int
	Daemon bool // UID is the live daemon's
}

const dataDirName = "data directory"

// Look judges place, owner and mode of the directory, which need not exist yet.
func (d DataDir) Look() []persistence.Finding {
	lines := d.place()
	var st unix.Stat_t
	err := unix.Stat(d.Path, &st)
	switch {
	case errors.Is(err, unix.ENOENT) && len(lines) == 0:
		lines = d.missing()
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		lines = append(lines, fail(dataDirName, "give it to the user that runs understudy", "%s: %v", d.Path, err))
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		lines = append(lines, fail(dataDirName, "name a directory on a local disk in dataDir", "%s is not a directory", d.Path))
	default:
		lines = append(lines, d.rights(st)...)
	}
	if len(lines) == 0 {
		lines = append(lines, ok(dataDirName, "%s on %s, for its owner only", d.Path, d.Place))
	}
	return lines
}

func (d DataDir) place() []persistence.Finding {
	switch p := d.Place; {
	case p.Type == "":
		return []persistence.Finding{warn(dataDirName, "see what 'findmnt -T "+d.Path+"' says", "%s: which file system it lies on could not be found out", d.Path)}
	case p.with(d.Store):
		return []persistence.Finding{fail(dataDirName, "name a directory on a disk of this machine in dataDir, e.g. /var/lib/understudy, and stop the node before you move it",
			"%s lies on the shared file system, %s: the node could not be stopped while that hangs, and another machine might run with this node's identity", d.Path, p)}
	case p.Memory:
		return []persistence.Finding{warn(dataDirName, "name a directory on a disk in dataDir, e.g. /var/lib/understudy",
			"%s lies in memory, %s: after a reboot this is a new node that has forgotten its plane, certificate and password", d.Path, p)}
	case !p.Local:
		return []persistence.Finding{warn(dataDirName, "if it is not a disk of this machine alone, name another directory in dataDir",
			"%s lies on %s, of which it is not known whether other machines share it", d.Path, p)}
	}
	return nil
}

func (d DataDir) missing() []persistence.Finding {
	parent := d.Path
	for {
		parent = filepath.Dir(parent)
		if _, err := os.Stat(parent); err == nil || parent == filepath.Dir(parent) {
			break
		}
	}
	if err := accessible(parent); err != nil {
		return []persistence.Finding{fail(dataDirName, fmt.Sprintf("make it for the user that runs understudy: install -d -m 0700 -o USER %s", d.Path),
			"%s does not exist, and this user can not make it in %s: %v", d.Path, parent, err)}
	}
	return []persistence.Finding{ok(dataDirName, "%s does not exist yet; the first start makes it", d.Path)}
}

func (d DataDir) rights(st unix.Stat_t) []persistence.Finding {
	var lines []persistence.Finding
	perm, owner := fs.FileMode(st.Mode&0o777), int(st.Uid)
	switch {
	case perm&0o022 != 0:
		lines = append(lines, fail(dataDirName, "chmod 0700 "+d.Path, "%s has mode %04o: other users of this machine can replace what the node remembers, and its key", d.Path, perm))
	case perm&0o077 != 0:
		lines = append(lines, warn(dataDirName, "chmod 0700 "+d.Path, "%s has mode %04o: other users of this machine can look inside", d.Path, perm))
	}
	switch err := accessible(d.Path); {
	case owner != d.UID && d.Daemon && d.UID != 0:
		lines = append(lines, fail(dataDirName, fmt.Sprintf("chown -R %s %s", userName(d.UID), d.Path), "%s belongs to %s, but the daemon runs as %s", d.Path, userName(owner), userName(d.UID)))
	case owner != d.UID && d.UID == 0 && !d.Daemon:
		lines = append(lines, warn(dataDirName, fmt.Sprintf("if the node runs as %[1]s, ask as %[1]s: sudo -u %[1]s understudy doctor", userName(owner)),
			"%s belongs to %s, and you are root: what doctor says about rights is true for root", d.Path, userName(owner)))
	case err != nil && os.Geteuid() == d.UID:
		remedy := fmt.Sprintf("run doctor, like the node, as %s; only if the node shall run as %[2]s from now on: chown -R %[2]s %s", userName(owner), userName(d.UID), d.Path)
		if errors.Is(err, unix.EROFS) {
			remedy = "mount it read-write, or name another local directory in dataDir"
		}
		lines = append(lines, fail(dataDirName, remedy, "%s belongs to %s and can not be used by %s: %v", d.Path, userName(owner), userName(d.UID), err))
	}
	return lines
}

// accessible asks with the rights in force, which access(2) alone does not.
func accessible(dir string) error {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}

// Secret is a file that not everybody may read.
type Secret struct {
	Path string
	Own  bool // made by the node itself: for its owner only. Otherwise a group may read it
}

// Secrets judges who may read the files that are there.
func Secrets(files []Secret) []persistence.Finding {
	const name = "secrets"
	var lines []persistence.Finding
	seen := 0
	for _, s := range files {
		st, err := os.Stat(s.Path)
		if s.Own && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			continue // not made yet; or the directory is closed, as it should be
		}
		if err != nil {
			lines = append(lines, fail(name, "correct the path in the configuration, or give the file to the user that runs understudy", "%s: %v", s.Path, cause(err)))
			continue
		}
		seen++
		forbidden, mode := fs.FileMode(0o077), "0600"
		if !s.Own {
			forbidden, mode = 0o027, "0640"
		}
		if p := st.Mode().Perm(); p&forbidden != 0 {
			lines = append(lines, fail(name, "chmod "+mode+" "+s.Path+", and have a new key or password made: others may have read this one", "%s has mode %04o: other users of this machine can read or replace it", s.Path, p))
		}
	}
	if len(lines) == 0 && seen > 0 {
		lines = append(lines, ok(name, "keys and passwords are for their owner only"))
	}
	return lines
}

// Thresholds of free space. A node writes little to its data directory, but
// must not take part when it can not remember.
const (
	lowBytes  = 100 << 20
	noBytes   = 1 << 20
	lowInodes = 1000
	noInodes  = 10
)

// Space judges what is free on the file system of a directory, or of the one
// it would be made in.
func Space(dir string) persistence.Finding {
	const name = "data directory space"
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return warn(name, "see what 'df "+dir+"' says", "%s: %v", dir, err)
	}
	return space(name, dir, st)
}

func space(name, dir string, st unix.Statfs_t) persistence.Finding {
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
	text := fmt.Sprintf("%s free", size(free))
	limited := st.Files > 0 // btrfs and others count no inodes
	if limited {
		text += fmt.Sprintf(", %d inodes", st.Ffree)
	}
	const remedy = "free space: logs and old files first, see 'du -xh --max-depth=2' and 'df -i'"
	switch {
	case free < noBytes || (limited && st.Ffree < noInodes):
		return fail(name, remedy, "%s in %s: a node that can not remember must not take part", text, dir)
	case free < lowBytes || (limited && st.Ffree < lowInodes):
		return warn(name, remedy, "only %s in %s", text, dir)
	}
	return ok(name, "%s", text)
}

func size(n uint64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v < 1<<10 {
			break
		}
		v, unit = v/(1<<10), u
	}
	if v < 10 && unit != "B" {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// Binary judges where the program lies that the node runs.
func Binary(path string, place, store Place) persistence.Finding {
	const name = "binary"
	switch {
	case place.Type == "":
		return warn(name, "see what 'findmnt -T "+path+"' says", "%s: which file system it lies on could not be found out", path)
	case place.with(store):
		return fail(name, "install it on a disk of this machine, e.g. install -m 0755 "+path+" /usr/local/bin/understudy, and start that",
			"%s lies on the shared file system, %s: when that hangs, guard and daemon hang with it and can not stop the service", path, place)
	}
	return ok(name, "%s on %s", path, place)
}

// cause is what the kernel said, without the path that package os adds.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Service is what is judged of the managed service's configuration.
type Service struct {
	Command, Ready []string // no Command: a unit of systemd is the service
	Beside         []Program
	Env            []string // of the service; its PATH finds the commands
	WorkDir        string   // empty: the data directory
	Output         string   // empty: in the data directory
	Store          Place
	Find           func(path string) (Place, error)
}

// Program is a command beside the service's own.
type Program struct {
	Key     string // of the configuration
	Command []string
	Without string // what becomes of the node without it, for people
}

// Look judges the service's files: each is there, can be used by this process'
// user, and does not lie on the shared file system.
func (s Service) Look() []persistence.Finding {
	const name = "service command"
	var lines []persistence.Finding
	path := ""
	if len(s.Command) > 0 {
		var err error
		if path, err = s.executable(s.Command[0]); err != nil {
			return []persistence.Finding{fail(name, "install it on this machine, or put service.command right: this node would win terms and fail in each", "%s: %v", s.Command[0], err)}
		}
		lines = s.usable(name, path)
	}
	if len(s.Ready) > 0 {
		lines = append(lines, s.beside("service ready check", Program{"service.ready.exec", s.Ready, "the service is never ready"})...)
	}
	for _, p := range s.Beside {
		if len(p.Command) > 0 {
			lines = append(lines, s.beside(p.Key, p)...)
		}
	}
	for _, dir := range []struct{ name, path string }{{"service directory", s.WorkDir}, {"service output", filepath.Dir(s.Output)}} {
		if dir.path == "" || s.Output == "" && dir.name == "service output" {
			continue
		}
		if st, err := os.Stat(dir.path); err != nil {
			lines = append(lines, fail(dir.name, "make it, or correct the configuration", "%s: %v", dir.path, cause(err)))
		} else if !st.IsDir() {
			lines = append(lines, fail(dir.name, "correct the configuration", "%s is not a directory", dir.path))
		}
		lines = append(lines, s.offShared(dir.name, dir.path)...)
	}
	if len(lines) == 0 && path != "" {
		lines = append(lines, ok(name, "%s is there and can be executed", path))
	}
	return lines
}

// beside judges a command beside the service's own; no line if all is well.
func (s Service) beside(name string, p Program) []persistence.Finding {
	path, err := s.executable(p.Command[0])
	if err != nil {
		return []persistence.Finding{fail(name, "install it on this machine, or put "+p.Key+" right: without it "+p.Without, "%s: %v", p.Command[0], err)}
	}
	return s.usable(name, path)
}

// usable judges a program that is there: where it lies, and what runs it.
func (s Service) usable(name, path string) []persistence.Finding {
	lines := s.offShared(name, path)
	if interpreter := shebang(path); interpreter != "" {
		if _, err := s.executable(interpreter); err != nil {
			lines = append(lines, fail(name, "install "+interpreter+", or correct the script's first line", "%s is a script for %s: %v", path, interpreter, err))
		}
	}
	return lines
}

func (s Service) offShared(name, path string) []persistence.Finding {
	place, err := s.Find(path)
	if err != nil || !place.with(s.Store) {
		return nil
	}
	return []persistence.Finding{fail(name, "put it on a disk of this machine", "%s lies on the shared file system, %s: when that hangs, the service can be neither started nor stopped", path, place)}
}

// executable finds a command as the guard does, by the service's PATH.
func (s Service) executable(name string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		path := ""
		for _, kv := range s.Env {
			if v, isPath := strings.CutPrefix(kv, "PATH="); isPath {
				path = v
			}
		}
		candidates = nil
		for _, dir := range filepath.SplitList(path) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	var last error
	for _, c := range candidates {
		st, err := os.Stat(c)
		switch {
		case err != nil:
			err = cause(err)
		case st.IsDir():
			err = syscall.EISDIR
		default:
			err = unix.Faccessat(unix.AT_FDCWD, c, unix.X_OK, unix.AT_EACCESS)
		}
		if err == nil {
			return c, nil
		}
		if last == nil || !errors.Is(err, unix.ENOENT) {
			last = err
		}
	}
	if last == nil || (errors.Is(last, unix.ENOENT) && !strings.Contains(name, "/")) {
		return "", errors.New("not found in the service's PATH")
	}
	return "", last
}

// shebang is the interpreter that a script's first line names, or empty.
func shebang(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := f.Read(head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	rest, script := strings.CutPrefix(line, "#!")
	words := strings.Fields(rest)
	if !script || len(words) == 0 {
		return ""
	}
	return words[0]
}
