package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	passes    = `{"Action":"run","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	fails     = `{"Action":"fail","Package":"p","Test":"TestB"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
	noBuild   = `{"Action":"fail","Package":"q"}` + "\n"
	noTests   = `{"Action":"skip","Package":"r"}` + "\n"
	skips     = `{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:7: not today\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestC"}` + "\n"
	kernel    = `{"Action":"output","Package":"p","Test":"TestD","Output":"    d_test.go:7: kernel: no FUSE\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestD"}` + "\n"
	firstLine = `{"Action":"output","Package":"p","Test":"TestE","Output":"    e_test.go:3: kernel: is a word here\n"}` + "\n" +
		`{"Action":"output","Package":"p","Test":"TestE","Output":"    e_test.go:7: flaky\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestE"}` + "\n"
)

// leave is a command that leaves events as go test -json would, and exits.
func leave(t *testing.T, dir, events string, code string) []string {
	t.Helper()
	src := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(src, []byte(events), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"sh", "-c", "echo said something; cp " + src + " " + filepath.Join(dir, "s.json") + "; exit " + code}
}

func TestCounts(t *testing.T) {
	for name, c := range map[string]struct {
		events string
		exit   string
		ci     bool
		want   string
		says   string
	}{
		"passed":                      {events: passes + noTests, exit: "0", want: "1 passed, 0 failed, 0 skipped"},
		"failed":                      {events: passes + fails, exit: "1", want: "1 passed, 1 failed, 0 skipped", says: "said something"},
		"does not build":              {events: passes + noBuild, exit: "1", want: "1 passed, 1 failed, 0 skipped", says: "the package failed: q"},
		"failed, but exit code 0":     {events: passes + fails, exit: "0", want: "1 passed, 1 failed, 0 skipped"},
		"passed, but exit code 2":     {events: passes, exit: "2", want: "1 passed, 1 failed, 0 skipped", says: "exit status 2"},
		"no test ran":                 {events: noTests, exit: "0", want: "0 passed, 1 failed, 0 skipped", says: "no test ran"},
		"half a line":                 {events: passes + `{"Action":`, exit: "0", want: "1 passed, 1 failed, 0 skipped", says: "s.json"},
		"skipped":                     {events: passes + skips, exit: "0", want: "1 passed, 0 failed, 1 skipped", says: "p TestC: not today"},
		"skipped in CI":               {events: passes + skips, exit: "0", ci: true, want: "1 passed, 1 failed, 0 skipped", says: "failure with CI=true: p TestC: not today"},
		"the kernel can not, in CI":   {events: passes + kernel, exit: "0", ci: true, want: "1 passed, 0 failed, 1 skipped", says: "kernel: no FUSE"},
		"an earlier log line, in CI":  {events: passes + firstLine, exit: "0", ci: true, want: "1 passed, 1 failed, 0 skipped", says: "flaky"},
		"skipped for two reasons, CI": {events: skips + kernel, exit: "0", ci: true, want: "0 passed, 1 failed, 1 skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var out, sum strings.Builder
			s := suite{dir: dir, name: "s", counts: true, ci: c.ci}
			ok, err := s.run(&out, leave(t, dir, c.events, c.exit))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Contains(c.want, " 0 failed"); ok != want {
				t.Errorf("ok = %v, want %v", ok, want)
			}
			if !strings.HasPrefix(out.String(), "s        "+c.want+"  (") || !strings.Contains(out.String(), c.says) {
				t.Errorf("printed %q, want %q and %q", out.String(), c.want, c.says)
			}
			sumOK, err := total(&sum, dir, []string{"s"})
			if err != nil || sumOK != ok || sum.String() != c.want+"\n" {
				t.Errorf("total = %v, %v, printed %q", sumOK, err, sum.String())
			}
		})
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	ok, err := suite{dir: dir, name: "good"}.run(&out, []string{"sh", "-c", "echo quiet"})
	if err != nil || !ok || strings.Contains(out.String(), "quiet") {
		t.Errorf("%v, %v, printed %q", ok, err, out.String())
	}
	ok, err = suite{dir: dir, name: "bad"}.run(&out, []string{"sh", "-c", "echo loud; exit 3"})
	if err != nil || ok || !strings.Contains(out.String(), "loud\n") {
		t.Errorf("%v, %v, printed %q", ok, err, out.String())
	}
	ok, err = suite{dir: dir, name: "missing"}.run(&out, []string{filepath.Join(dir, "no-such-program")})
	if err != nil || ok {
		t.Errorf("a command that can not be run: %v, %v", ok, err)
	}
	out.Reset()
	ok, err = total(&out, dir, []string{"good", "bad", "missing", "never"})
	if err != nil || ok || out.String() != "never: did not finish\n1 passed, 3 failed, 0 skipped\n" {
		t.Errorf("%v, %v, printed %q", ok, err, out.String())
	}
}

// TestNothingOldCounts: a suite that leaves no events must not be judged by
// those of the run before.
func TestNothingOldCounts(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	s := suite{dir: dir, name: "s", counts: true}
	if ok, err := s.run(&out, leave(t, dir, passes, "0")); err != nil || !ok {
		t.Fatalf("%v, %v, printed %q", ok, err, out.String())
	}
	if ok, err := s.run(&out, []string{"true"}); err != nil || ok {
		t.Errorf("%v, %v, printed %q", ok, err, out.String())
	}
}

func TestUse(t *testing.T) {
	for _, args := range [][]string{{}, {"check"}, {"check", "x", "true"}, {"what", "x", "--", "true"}, {"check", "x", "--"}} {
		if _, err := run(t.TempDir(), args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
