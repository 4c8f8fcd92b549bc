package posix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
)

const table = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:50 / /mnt/nfs rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2,hard,proto=tcp,timeo=600
41 27 0:51 / /mnt/nfs/inner rw,noatime - nfs server:/inner rw,vers=3,soft,proto=udp,nocto
42 27 0:52 / /mnt/with\040blank\134 rw - cifs //server/share\040x rw,vers=3.0,cache=strict,soft
43 27 0:53 / /mnt/smb rw - smb3 //server/share rw,vers=3.1.1,cache=none
44 27 0:54 / /mnt/gl rw - fuse.glusterfs vol rw,user_id=0
45 27 0:55 / /mnt/s3 rw - fuse.s3fs s3fs rw
46 27 0:56 / /mnt/gcs rw - fuse gcsfuse rw
47 27 0:57 / /mnt/auto rw - autofs /etc/auto.nfs rw,fd=5
48 47 0:58 / /mnt/auto rw - nfs4 server:/auto rw,vers=4.1
49 27 0:59 / /mnt/ceph rw master:7 propagate_from:2 - ceph 10.0.0.1:/ rw,name=admin
53 27 0:62 / /mnt/cephs rw - ceph u@.fs=/ rw,recover_session=clean
50 27 254:0 /srv/data /bind rw - ext4 /dev/vda rw,discard
51 27 0:60 / /mnt/faulty rw - fuse.faultfs faultfs rw,user_id=0,allow_other
garbage
52 27 0:61 / /mnt/nosuper rw - tmpfs
`

func parsed(t *testing.T, s string) []mount {
	t.Helper()
	ms, err := parseMountinfo(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func TestFindMount(t *testing.T) {
	ms := parsed(t, table)
	for _, tt := range []struct {
		path, fstype, source string
		shared, syncDirs     bool
		refused              bool
		warnings             []string // words that one warning each contains
	}{
		{"/", "ext4", "/dev/vda", false, true, false, nil},
		{"/srv/plane", "ext4", "/dev/vda", false, true, false, nil},
		{"/mnt/nfsx", "ext4", "/dev/vda", false, true, false, nil},
		{"/mnt/nfs", "nfs4", "server:/export", true, false, false, nil},
		{"/mnt/nfs/plane/x", "nfs4", "server:/export", true, false, false, nil},
		{"/mnt/nfs/inner/plane", "nfs", "server:/inner", true, false, false, []string{"nocto", "hard", "tcp"}},
		{"/mnt/with blank\\/p", "cifs", "//server/share x", true, false, false, []string{"experimental", "cache=none", "hard"}},
		{"/mnt/smb", "smb3", "//server/share", true, false, false, []string{"experimental"}},
		{"/mnt/gl/p", "fuse.glusterfs", "vol", true, true, false, []string{"experimental"}},
		{"/mnt/s3/p", "fuse.s3fs", "s3fs", false, true, true, nil},
		{"/mnt/gcs/p", "fuse", "gcsfuse", false, true, true, nil},
		{"/mnt/auto/p", "nfs4", "server:/auto", true, false, false, nil},
		{"/mnt/ceph", "ceph", "10.0.0.1:/", true, true, false, []string{"recover_session"}},
		{"/mnt/cephs", "ceph", "u@.fs=/", true, true, false, nil},
		{"/bind/p", "ext4", "/dev/vda", false, true, false, nil},
		{"/mnt/faulty", "fuse.faultfs", "faultfs", false, true, false, nil},
		{"/mnt/nosuper", "ext4", "/dev/vda", false, true, false, nil},
	} {
		m, ok := findMount(ms, tt.path, 0)
		if !ok || m.fstype != tt.fstype || m.source != tt.source {
			t.Errorf("%s: found %+v, want %s from %s", tt.path, m, tt.fstype, tt.source)
			continue
		}
		if m.shared() != tt.shared || m.syncDirs() != tt.syncDirs {
			t.Errorf("%s: shared %t, syncDirs %t; want %t, %t", tt.path, m.shared(), m.syncDirs(), tt.shared, tt.syncDirs)
		}
		err := m.refusal(tt.path)
		if (err != nil) != tt.refused || (err != nil && !errors.Is(err, persistence.Unsupported)) {
			t.Errorf("%s: refusal %v, want %t", tt.path, err, tt.refused)
		}
		w := m.warnings()
		if len(w) != len(tt.warnings) {
			t.Errorf("%s: warnings %q, want %d", tt.path, w, len(tt.warnings))
			continue
		}
		for i, word := range tt.warnings {
			if !strings.Contains(w[i], word) || !strings.Contains(w[i], m.point) {
				t.Errorf("%s: warning %q lacks %q or the mount point", tt.path, w[i], word)
			}
		}
	}
}

// TestRefusedTypes goes through all that no plane may live on.
func TestRefusedTypes(t *testing.T) {
	for _, fstype := range []string{
		"fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.sshfs", "9p", "vboxsf", "fuse.mount-s3",
	} {
		m := mount{point: "/m", fstype: fstype, source: "x"}
		err := m.refusal("/m/plane")
		if !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), "/m/plane") || !strings.Contains(err.Error(), fstype) {
			t.Errorf("%s: %v", fstype, err)
		}
		if m.shared() {
			t.Errorf("%s counts as shared", fstype)
		}
	}
	for _, fstype := range append([]string{"ext4", "xfs", "tmpfs", "fuse.faultfs", "overlay"}, sharedTypes...) {
		if err := (mount{fstype: fstype, source: "sshfsx"}).refusal("/m"); err != nil {
			t.Errorf("%s: %v", fstype, err)
		}
	}
}

// TestFindMountByDevice has a mount further up hide one further down.
func TestFindMountByDevice(t *testing.T) {
	ms := parsed(t, `27 1 254:0 / / rw - ext4 /dev/vda rw
40 27 0:50 / /mnt/deep rw - nfs4 server:/hidden rw
41 27 0:51 / /mnt rw - tmpfs tmpfs rw
`)
	if m, _ := findMount(ms, "/mnt/deep/x", unix.Mkdev(0, 51)); m.fstype != "tmpfs" {
		t.Errorf("by the device of the mount on top: %+v", m)
	}
	if m, _ := findMount(ms, "/mnt/deep/x", unix.Mkdev(0, 99)); m.fstype != "nfs4" {
		t.Errorf("by a device that no mount has: %+v", m)
	}
	if _, ok := findMount(nil, "/", 0); ok {
		t.Error("found a mount in an empty table")
	}
}

// TestInspect looks at the real thing, through a symbolic link.
func TestInspect(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	if m, err := inspect(link); err != nil || m.fstype != "proc" || m.point != "/proc" {
		t.Errorf("%+v, %v; want proc", m, err)
	}
	if m := inspectByName(link); m.fstype == "proc" {
		t.Errorf("by name alone: %+v", m)
	}
	s, err := Open(link, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := s.Limits(); !l.Local || !strings.HasPrefix(l.LocalWhy, "proc ") {
		t.Errorf("limits after an operation: %+v", l)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`plain`: "plain", `a\040b`: "a b", `\134`: `\`, `a\011\012`: "a\t\n", `end\`: `end\`, `\04`: `\04`, `\999`: `\999`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
