package posix

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
)

// mount is what the kernel says about the file system a path lies on.
type mount struct {
	id      uint64   // as in /proc/self/mountinfo, 0 when unknown
	root    string   // the part of the file system that is mounted: / unless it is a bind mount or a subvolume
	point   string   // where it is mounted
	fstype  string   // e.g. nfs4, ext4, fuse.sshfs
	source  string   // e.g. server:/export, /dev/vda
	options []string // of the mount and of the file system, as the kernel prints them
	dev     uint64   // device number of its files, 0 when unknown

	// missing is what /etc/fstab wants mounted between this mount and the
	// directory that was asked for, and is not: the directory is a mount point.
	missing *fstabEntry
}

func (m mount) has(option string) bool { return slices.Contains(m.options, option) }

func (m mount) value(option string) string {
	for _, o := range m.options {
		if v, ok := strings.CutPrefix(o, option+"="); ok {
			return v
		}
	}
	return ""
}

func (m mount) String() string {
	if m.fstype == "" {
		return "unknown file system"
	}
	return fmt.Sprintf("%s (%s mounted at %s)", m.fstype, m.source, m.point)
}

// sharedTypes are the file systems whose files other machines see (R0).
var sharedTypes = []string{
	"nfs", "nfs4", "ceph", "gfs2", "ocfs2", "lustre", "glusterfs", "fuse.glusterfs", "cifs", "smb3",
}

// refusedTypes do not rename atomically for all their clients, or cache what
// others change; the reason is told.
var refusedTypes = map[string]string{
	"s3fs":        "it copies and deletes instead of renaming",
	"gcsfuse":     "it copies and deletes instead of renaming",
	"goofys":      "it copies and deletes instead of renaming",
	"mount-s3":    "it can not rename",
	"rclone":      "it renames in a cache of its own",
	"sshfs":       "it caches directories and is cut off from other clients' renames",
	"9p":          "its caches and renames are those of one machine",
	"vboxsf":      "its renames are not atomic and it is tied to one machine",
	"prl_fs":      "its renames are not atomic and it is tied to one machine",
	"vmhgfs":      "its renames are not atomic and it is tied to one machine",
	"vmhgfs-fuse": "its renames are not atomic and it is tied to one machine",
}

func (m mount) shared() bool { return slices.Contains(sharedTypes, m.fstype) }

// syncDirs reports whether a rename must be followed by an fsync of its
// directory to be durable. NFS and SMB servers commit it before they answer.
func (m mount) syncDirs() bool {
	switch m.fstype {
	case "nfs", "nfs4", "cifs", "smb3":
		return false
	}
	return true
}

// bestNFS is the remedy for every other way to mount NFS.
const bestNFS = "mount with vers=4.2,proto=tcp,hard"

// refusal explains why a plane can not live on this file system, or is nil.
func (m mount) refusal(dir string) error {
	name := strings.TrimPrefix(m.fstype, "fuse.")
	why, bad := refusedTypes[name]
	if !bad && m.fstype == "fuse" { // older helpers name themselves as the source only
		name, _, _ = strings.Cut(m.source, "#")
		why, bad = refusedTypes[name]
	}
	if !bad {
		return nil
	}
	return fmt.Errorf("%w: %s lies on %s: %s; use NFS 4.2 or a cluster file system, or point understudy at the bucket itself",
		persistence.Unsupported, dir, m, why)
}

// vacancy explains that dir is the mount point of something that is not mounted,
// or is nil. Its emptiness says nothing about the place that is meant.
func (m mount) vacancy(dir string) error {
	switch {
	case m.fstype == "autofs": // it may be about to
		return fmt.Errorf("%w: %s is not mounted: the automounter has mounted nothing at %s; look at its map and its log",
			persistence.Unknown, dir, m.point)
	case m.missing != nil:
		return fmt.Errorf("%w: %s is not mounted: /etc/fstab wants %s at %s; mount it, or take the line out if it is not meant any more",
			persistence.Unknown, dir, m.missing.source, m.missing.point)
	}
	return nil
}

// warnings lists what an operator should change or know, each with its remedy.
func (m mount) warnings() []string {
	var w []string
	for _, f := range m.doubts() {
		w = append(w, f.Detail+"; "+f.Remedy)
	}
	return w
}

// doubts are what the mount alone says against it, short of a refusal.
func (m mount) doubts() []persistence.Finding {
	var w []persistence.Finding
	doubt := func(detail, remedy string) {
		w = append(w, persistence.Finding{Name: aboutOptions, Status: persistence.GradeWarn, Detail: detail, Remedy: remedy})
	}
	add := func(what, remedy string) { doubt(m.point+" is "+what, remedy) }
	if e := m.missing; e != nil {
		doubt(fmt.Sprintf("%s is not mounted: /etc/fstab wants %s (%s) there, and this is the empty mount point, which lies on %s",
			e.point, e.source, e.fstype, m), "mount "+e.point)
	}
	switch m.fstype {
	case "autofs":
		add("an automount point on which nothing is mounted", "look at the automounter's map and its log")
	case "nfs", "nfs4":
		if m.has("nocto") {
			add("mounted with nocto, so nodes may see each other's writes late", "mount without nocto")
		}
		if m.has("softreval") {
			add("mounted with softreval, so an outage shows old data instead of no data", "mount without softreval")
		}
		if m.has("soft") || m.has("softerr") {
			add("mounted soft, so an outage shows as I/O errors after a minute or more", bestNFS)
		}
		if p := m.value("proto"); p == "udp" || p == "udp6" {
			add("mounted over UDP", bestNFS)
		}
	case "ceph":
		if m.value("recover_session") != "clean" {
			add("mounted without recover_session=clean, so it stays dead once Ceph has evicted this machine", "mount with recover_session=clean")
		}
	case "cifs", "smb3":
		add("SMB, which is experimental here", "prefer NFS: "+bestNFS)
		if m.value("cache") != "none" {
			add("mounted without cache=none, so nodes may see each other's writes late", "mount with cache=none")
		}
		if m.has("soft") {
			add("mounted soft, so an outage shows as I/O errors", "mount with hard")
		}
	case "glusterfs", "fuse.glusterfs":
		add("GlusterFS, which is experimental here", "prefer NFS: "+bestNFS)
	}
	return w
}

// parseMountinfo reads the format of /proc/self/mountinfo, see proc(5). Lines
// it can not understand are left out.
func parseMountinfo(r io.Reader) ([]mount, error) {
	var out []mount
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20) // overlay mounts list all their layers
	for sc.Scan() {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
		left, right, ok := strings.Cut(sc.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		m := mount{
			root:    unescape(l[3]),
			point:   unescape(l[4]),
			fstype:  r[0],
			source:  unescape(r[1]),
			options: strings.Split(l[5], ","),
		}
		if len(r) > 2 {
			m.options = append(m.options, strings.Split(unescape(r[2]), ",")...)
		}
		m.id, _ = strconv.ParseUint(l[0], 10, 64) // 0 names none
		if major, minor, ok := strings.Cut(l[2], ":"); ok {
			a, err1 := strconv.ParseUint(major, 10, 32)
			b, err2 := strconv.ParseUint(minor, 10, 32)
			if err1 == nil && err2 == nil {
				m.dev = unix.Mkdev(uint32(a), uint32(b))
			}
		}
		out = append(out, m)
	}
	return out, sc.Err()
}

// unescape undoes the octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// findMount picks the mount that path lies on. Of several with the same mount
// point the last covers the others. dev, the device of path's own files or 0,
// decides where a mount higher up hides one further down.
func findMount(mounts []mount, path string, dev uint64) (mount, bool) {
	var best mount
	found := false
	pick := func(match func(mount) bool) {
		for _, m := range mounts {
			if covers(m.point, path) && match(m) && (!found || len(m.point) >= len(best.point)) {
				best, found = m, true
			}
		}
	}
	if dev != 0 {
		pick(func(m mount) bool { return m.dev == dev })
	}
	if !found { // btrfs gives its subvolumes device numbers that appear nowhere
		pick(func(mount) bool { return true })
	}
	return best, found
}

func covers(point, path string) bool {
	return point == "/" || path == point || strings.HasPrefix(path, point+"/")
}

// magics name the file systems that matter here where /proc does not.
var magics = map[int64]string{
	unix.NFS_SUPER_MAGIC:   "nfs",
	unix.CEPH_SUPER_MAGIC:  "ceph",
	unix.OCFS2_SUPER_MAGIC: "ocfs2",
	unix.CIFS_SUPER_MAGIC:  "cifs",
	unix.SMB2_SUPER_MAGIC:  "smb3",
	unix.V9FS_MAGIC:        "9p",
	0x0BD00BD0:             "lustre",
	0x01161970:             "gfs2",
}

// inspect finds the mount of dir. It does I/O on the file system in question
// and may block with it.
func inspect(dir string) (mount, error) {
	// Opened, not only looked at: that is what has an automounter mount it.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return mount{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return mount{}, err
	}
	mounts, err := readMountinfo()
	if err == nil {
		m, ok := mountOf(mounts, fd, path)
		if ok {
			m.missing = unmounted(readFstab(), path, m)
			return m, nil
		}
		err = errors.New("no mount covers it")
	}
	var sf unix.Statfs_t
	if serr := unix.Fstatfs(fd, &sf); serr == nil {
		if name, ok := magics[int64(sf.Type)]; ok { //nolint:unconvert // its type differs between architectures
			return mount{point: path, fstype: name, source: "?"}, nil
		}
	}
	return mount{}, fmt.Errorf("mount of %s: %w", path, err)
}

// mountOf picks the mount of an open directory: by the mount's id, which tells
// stacked and bind mounts apart, where the kernel (5.8) gives it; otherwise by
// device and path.
func mountOf(mounts []mount, fd int, path string) (mount, bool) {
	var sx unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sx)
	if err == nil && sx.Mask&unix.STATX_MNT_ID != 0 {
		if i := slices.IndexFunc(mounts, func(m mount) bool { return m.id == sx.Mnt_id }); i >= 0 {
			return mounts[i], true
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		st.Dev = 0
	}
	return findMount(mounts, path, st.Dev)
}

// inspectByName is inspect without touching the file system: right unless the
// path leads through symbolic links.
func inspectByName(dir string) mount {
	mounts, err := readMountinfo()
	if err != nil {
		return mount{}
	}
	m, _ := findMount(mounts, dir, 0)
	return m
}

func readMountinfo() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

// fstabEntry is a line of /etc/fstab.
type fstabEntry struct {
	source, point, fstype string
}

// fstabFile is another one in tests.
var fstabFile = "/etc/fstab"

// readFstab reads /etc/fstab; a machine without one mounts in other ways.
func readFstab() []fstabEntry {
	f, err := os.Open(fstabFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseFstab(f)
}

func parseFstab(r io.Reader) []fstabEntry {
	var out []fstabEntry
	for sc := bufio.NewScanner(r); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") {
			continue
		}
		out = append(out, fstabEntry{source: unescape(f[0]), point: filepath.Clean(unescape(f[1])), fstype: f[2]})
	}
	return out
}

// unmounted returns what /etc/fstab wants mounted at path or above it, and
// beneath the mount m that path really lies on; nil if there is nothing.
func unmounted(fstab []fstabEntry, path string, m mount) *fstabEntry {
	for _, e := range slices.Backward(fstab) { // the innermost comes last, as a rule
		if covers(e.point, path) && covers(m.point, e.point) && e.point != m.point {
			return &e
		}
	}
	return nil
}
