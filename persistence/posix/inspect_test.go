package posix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/test/need"
)

func find(t *testing.T, fs []persistence.Finding, name string) persistence.Finding {
	t.Helper()
	i := slices.IndexFunc(fs, func(f persistence.Finding) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("no finding %q among %+v", name, fs)
	}
	return fs[i]
}

// graded holds a finding to its grade and to words it must have. What is not
// well must say what to do.
func graded(t *testing.T, f persistence.Finding, want persistence.Grade, words ...string) {
	t.Helper()
	if f.Status != want {
		t.Errorf("%s is %s, want %s: %s", f.Name, f.Status, want, f.Detail)
	}
	for _, w := range words {
		if !strings.Contains(f.Detail+" "+f.Remedy, w) {
			t.Errorf("%s lacks %q: %s; %s", f.Name, w, f.Detail, f.Remedy)
		}
	}
	if f.Status == persistence.GradeWarn && f.Remedy == "" {
		t.Errorf("%s has no remedy: %s", f.Name, f.Detail)
	}
}

// TestInspector looks at this machine's own file system.
func TestInspector(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		fs := s.Inspect(t.Context())
		graded(t, find(t, fs, aboutMount), persistence.GradeOK, "mounted at")
		graded(t, find(t, fs, aboutOptions), persistence.GradeOK)
		graded(t, find(t, fs, aboutShared), persistence.GradeWarn, "no other machine sees it")
		graded(t, find(t, fs, aboutWriting), persistence.GradeOK)
		graded(t, find(t, fs, aboutClock), persistence.GradeOK, "agrees")
		if f := find(t, fs, aboutSpace); !strings.Contains(f.Detail, "iB of ") {
			t.Errorf("%+v", f)
		}
		find(t, fs, aboutInodes)
	}
	look()
	if err := s.Init(t.Context(), []byte("u1.x")); err != nil {
		t.Fatal(err)
	}
	look()
	if es, err := os.ReadDir(dir); err != nil || len(es) != 1 || es[0].Name() != leaseDir {
		t.Errorf("left behind: %v, %v", es, err)
	}
	if gone := findingsOf(t, filepath.Join(dir, "none")); gone[0].Status != persistence.GradeFail || !strings.Contains(gone[0].Detail, "no such file") {
		t.Errorf("a directory that is not there: %+v", gone)
	}
}

func findingsOf(t *testing.T, dir string) []persistence.Finding {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Inspect(t.Context())
}

func TestAdviceOnNFS(t *testing.T) {
	for options, want := range map[string]struct {
		nfs, options persistence.Grade
		words        string
	}{
		"rw,vers=4.2,hard,proto=tcp": {persistence.GradeOK, persistence.GradeOK, "each request once"},
		"rw,vers=4.1,hard,proto=tcp": {persistence.GradeOK, persistence.GradeOK, "async"},
		"rw,vers=3,hard,proto=tcp":   {persistence.GradeOK, persistence.GradeOK, "vers=4.2"},
		"rw,vers=4.0,hard,proto=tcp": {persistence.GradeWarn, persistence.GradeOK, "no sessions"},
		"rw,vers=4.2,softerr":        {persistence.GradeOK, persistence.GradeWarn, "each request once"},
		"rw,vers=4.2,softreval":      {persistence.GradeOK, persistence.GradeWarn, "each request once"},
	} {
		m := parsed(t, "40 27 0:50 / /mnt/nfs rw - nfs4 server:/export "+options+"\n")[0]
		f, ok := m.adviseNFS()
		if !ok {
			t.Fatalf("%s is no NFS", options)
		}
		graded(t, f, want.nfs, want.words)
		if d := m.doubts(); (len(d) > 0) != (want.options == persistence.GradeWarn) {
			t.Errorf("%s: %+v", options, d)
		}
		graded(t, m.sharing(), persistence.GradeOK, "several machines")
	}
	if _, ok := parsed(t, table)[1].adviseNFS(); ok {
		t.Error("ext4 is taken for NFS")
	}
}

// TestUnmounted: what /etc/fstab wants above the directory and is not there.
func TestUnmounted(t *testing.T) {
	fstab := parseFstab(strings.NewReader(`# comment
UUID=1 / ext4 defaults 0 1
server:/export /mnt/nfs nfs4 vers=4.2 0 0
server:/inner /mnt/nfs/inner/ nfs4 noauto
//server/a\040b /mnt/a\040b cifs rw
swap none swap sw
short line
`))
	ms := parsed(t, table)
	for path, want := range map[string]string{
		"/srv/plane":           "",
		"/mnt/nfs/plane":       "",
		"/mnt/nfs/inner/plane": "",
		"/mnt/nfsx":            "",
		"/mnt/a b/plane":       "/mnt/a b",
	} {
		m, _ := findMount(ms, path, 0)
		got := ""
		if m.missing = unmounted(fstab, path, m); m.missing != nil {
			got = m.missing.point
			graded(t, m.sharing(), persistence.GradeFail, "not mounted", got)
			if w := m.warnings(); len(w) != 1 || !strings.Contains(w[0], "/etc/fstab wants //server/a b (cifs) there") {
				t.Errorf("%q", w)
			}
		}
		if got != want {
			t.Errorf("%s: %q is missing, want %q", path, got, want)
		}
	}
	root, _ := findMount(ms[:2], "/mnt/nfs/inner/plane", 0)
	if e := unmounted(fstab, "/mnt/nfs/inner/plane", root); e == nil || e.point != "/mnt/nfs/inner" {
		t.Errorf("with nothing mounted: %+v, want the innermost", e)
	}
}

// TestVacantMountPoint: no plane is made where another file system belongs.
func TestVacantMountPoint(t *testing.T) {
	dir := t.TempDir()
	fstabFile = filepath.Join(t.TempDir(), "fstab")
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
	if err := os.WriteFile(fstabFile, []byte("nas:/export "+dir+" nfs vers=4.2,_netdev 0 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(dir, "plane"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "plane"), 0o755); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Empty(t.Context()); ok || !errors.Is(err, persistence.Unknown) || !strings.Contains(fmt.Sprint(err), "wants nas:/export at "+dir) {
		t.Errorf("empty %t, %v; want an error that names what is not mounted", ok, err)
	}
	if w := s.Limits().Warnings; len(w) != 1 || !strings.Contains(w[0], "not mounted") {
		t.Errorf("warnings %q", w)
	}
	graded(t, find(t, s.Inspect(t.Context()), aboutShared), persistence.GradeFail, "not mounted", "mount "+dir)
	if err := os.WriteFile(fstabFile, []byte("# nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Empty(t.Context()); !ok || err != nil {
		t.Errorf("empty %t, %v once nothing is missing", ok, err)
	}
}

func TestJudgements(t *testing.T) {
	const gb = 1 << 30
	now := time.Now()
	for _, tt := range []struct {
		f    persistence.Finding
		want persistence.Grade
		word string
	}{
		{judgeSpace(500*gb, 1000*gb), persistence.GradeOK, "500.0 GiB of 1000.0 GiB"},
		{judgeSpace(50*gb, 1000*gb), persistence.GradeOK, ""},
		{judgeSpace(49*gb, 1000*gb), persistence.GradeWarn, ""},
		{judgeSpace(99<<20, gb), persistence.GradeWarn, "99.0 MiB"},
		{judgeSpace(101<<20, gb), persistence.GradeOK, ""},
		{judgeSpace(0, gb), persistence.GradeFail, "0 B"},
		{judgeSpace(0, 0), persistence.GradeOK, "does not tell"},
		{judgeInodes(100, 10000), persistence.GradeOK, "100 of 10000"},
		{judgeInodes(99, 10000), persistence.GradeWarn, ""},
		{judgeInodes(0, 10000), persistence.GradeFail, ""},
		{judgeInodes(0, 0), persistence.GradeOK, "without limit"},
		{judgeClock(now, now, now), persistence.GradeOK, "agrees"},
		{judgeClock(now, now.Add(5*time.Second), now.Add(time.Second)), persistence.GradeOK, "4s ahead"},
		{judgeClock(now, now.Add(time.Hour), now), persistence.GradeWarn, "1h0m0s ahead"},
		{judgeClock(now, now.Add(-time.Hour), now), persistence.GradeWarn, "1h0m0s behind"},
		{mount{fstype: "tmpfs", source: "none", point: "/m"}.sharing(), persistence.GradeWarn, "memory"},
		{mount{fstype: "autofs", source: "map", point: "/m"}.sharing(), persistence.GradeFail, "nothing"},
	} {
		graded(t, tt.f, tt.want, tt.word)
	}
}

// TestInspectWhatIsWrong: the words are right where it matters.
func TestInspectWhatIsWrong(t *testing.T) {
	need.Root(t, "mount file systems")
	for name, tt := range map[string]struct {
		flags   uintptr
		options string
		prepare func(dir string) error
		about   string
		want    persistence.Grade
		words   []string
	}{
		"read-only": {unix.MS_RDONLY, "", nil, aboutWriting, persistence.GradeFail, []string{"read-only", "mount it read-write"}},
		"full": {0, "size=64k", func(dir string) error {
			return os.WriteFile(dir+"/.fill", make([]byte, 64<<10), 0o644)
		}, aboutSpace, persistence.GradeFail, []string{"0 B of 64.0 KiB", "free space"}},
		"nearly full": {0, "size=1m", nil, aboutSpace, persistence.GradeWarn, []string{"1.0 MiB"}},
		"no inodes":   {0, "nr_inodes=1", nil, aboutInodes, persistence.GradeFail, []string{"remove files"}},
		"in memory":   {0, "size=1m", nil, aboutShared, persistence.GradeWarn, []string{"memory", "reboot"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mountAt(t, "none", dir, "tmpfs", tt.flags, tt.options)
			if tt.prepare != nil {
				if err := tt.prepare(dir); err != nil {
					t.Fatal(err)
				}
			}
			f := find(t, findingsOf(t, dir), tt.about)
			graded(t, f, tt.want, tt.words...)
			t.Logf("%s: %s; %s", f.Name, f.Detail, f.Remedy)
		})
	}
}

// mountAt mounts for the rest of the test.
func mountAt(t *testing.T, source, target, fstype string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestMountOf: bind mounts and stacked mounts are told apart, and a directory
// beneath one is on the one on top.
func TestMountOf(t *testing.T) {
	need.Root(t, "mount file systems")
	dir := t.TempDir()
	for _, m := range []struct{ source, fstype, options string }{{"lower", "tmpfs", "size=1m"}, {"upper", "tmpfs", "size=2m"}} {
		mountAt(t, m.source, dir, m.fstype, 0, m.options)
		if got, err := inspect(dir); err != nil || got.source != m.source || got.id == 0 {
			t.Errorf("%+v, %v; want %s", got, err, m.source)
		}
	}
	if err := os.Mkdir(dir+"/part", 0o755); err != nil {
		t.Fatal(err)
	}
	bound := t.TempDir()
	mountAt(t, dir+"/part", bound, "", unix.MS_BIND, "")
	graded(t, find(t, findingsOf(t, bound), aboutMount), persistence.GradeOK, "upper", "/part is mounted (a bind mount")
}
