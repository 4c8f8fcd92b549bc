// Command suite runs one suite of `make test`, prints one line about it and
// keeps the count; `suite total` adds the counts up. The Makefile says which
// suites there are and how each is run.
//
//	suite [-dir DIR] check  NAME -- COMMAND...   one pass or failure, by exit code
//	suite [-dir DIR] gotest NAME -- COMMAND...   counts the tests in DIR/NAME.json,
//	                                             which COMMAND fills with `go test -json` events
//	suite [-dir DIR] total  NAME...              prints "N passed, N failed, N skipped"
//
// Every failure counts, whatever the command's exit code, and every exit code
// counts, whatever the tests say. So does a suite in which no test ran. When
// CI=true a skipped test is a failure, unless it says that the kernel can not
// do what it needs, by a message that begins with "kernel:".
//
// Exit codes: 0 all passed, 1 something failed, 2 wrong use.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	dir := flag.String("dir", filepath.Join("bin", "results"), "where results and logs are kept")
	flag.Parse()
	ok, err := run(*dir, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(dir string, args []string) (ok bool, err error) {
	if len(args) < 2 {
		return false, errors.New("usage: suite [-dir DIR] check|gotest NAME -- COMMAND, or total NAMES")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	kind, rest := args[0], args[1:]
	if kind == "total" {
		return total(os.Stdout, dir, rest)
	}
	if (kind != "check" && kind != "gotest") || len(rest) < 3 || rest[1] != "--" {
		return false, fmt.Errorf("what is %q?", args)
	}
	s := suite{dir: dir, name: rest[0], counts: kind == "gotest", ci: os.Getenv("CI") == "true"}
	return s.run(os.Stdout, rest[2:])
}

type suite struct {
	dir, name string
	counts    bool // the command leaves go test -json events
	ci        bool
}

// Result is what a suite leaves for the total.
type Result struct {
	Passed  int
	Failed  int
	Skipped int
	Seconds float64
}

func (r Result) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.Passed, r.Failed, r.Skipped)
}

func (s suite) path(ext string) string { return filepath.Join(s.dir, s.name+ext) }

// run writes the line in two parts, so that one sees which suite is running.
func (s suite) run(out io.Writer, command []string) (ok bool, err error) {
	for _, ext := range []string{".json", ".result"} { // nothing old may count
		if err := os.Remove(s.path(ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	log, err := os.Create(s.path(".log"))
	if err != nil {
		return false, err
	}
	defer log.Close()
	fmt.Fprintf(out, "%-8s ", s.name)

	began := time.Now()
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // bounded by go test -timeout; Ctrl-C reaches its process group
	cmd.Stdout, cmd.Stderr = log, log
	failure := cmd.Run()

	var res Result
	var remarks []string
	if s.counts {
		res, remarks, err = s.count()
		if err != nil {
			remarks = append(remarks, err.Error())
		}
	} else if failure == nil {
		res.Passed = 1
	}
	if failure != nil {
		remarks = append(remarks, fmt.Sprintf("%s: %v", command[0], failure))
	}
	if res.Failed == 0 && (failure != nil || err != nil) {
		res.Failed = 1
	}
	if s.counts && res == (Result{}) {
		res.Failed = 1
		remarks = append(remarks, "no test ran")
	}
	res.Seconds = time.Since(began).Seconds()

	fmt.Fprintf(out, "%v  (%.1fs)\n", res, res.Seconds)
	if res.Failed > 0 {
		if err := show(out, s.path(".log")); err != nil {
			return false, err
		}
	}
	for _, r := range remarks {
		fmt.Fprintf(out, "%s: %s\n", s.name, r)
	}
	b, err := json.Marshal(res)
	if err != nil {
		return false, err
	}
	return res.Failed == 0, os.WriteFile(s.path(".result"), b, 0o644)
}

// show copies the end of a log, which is where the failures are.
func show(out io.Writer, path string) error {
	const most = 64 << 10
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(b) > most {
		fmt.Fprintf(out, "... the last %d KiB of %s:\n", most>>10, path)
		b = b[len(b)-most:]
	}
	_, err = out.Write(append(bytes.TrimRight(b, "\n"), '\n'))
	return err
}

// event is a line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// message matches what t.Skip and t.Log print: file, line, text.
var message = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// count counts tests and subtests. A package that fails without a failed test
// (it does not build, panics, exits early, times out) is one failure.
func (s suite) count() (res Result, remarks []string, err error) {
	f, err := os.Open(s.path(".json"))
	if err != nil {
		return res, nil, err
	}
	defer f.Close()
	output := map[[2]string]*strings.Builder{} // of tests that have not ended yet
	failedIn := map[string]bool{}
	for dec := json.NewDecoder(f); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return res, remarks, nil
		} else if err != nil {
			return res, remarks, fmt.Errorf("%s: %w", f.Name(), err)
		}
		key := [2]string{e.Package, e.Test}
		switch {
		case e.Test == "":
			if e.Action == "fail" && !failedIn[e.Package] {
				res.Failed++
				remarks = append(remarks, "the package failed: "+e.Package)
			}
			continue
		case e.Action == "output":
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			output[key].WriteString(e.Output)
			continue
		case e.Action == "pass":
			res.Passed++
		case e.Action == "fail":
			res.Failed++
			failedIn[e.Package] = true
		case e.Action == "skip":
			why := ""
			if o := output[key]; o != nil {
				if m := message.FindAllStringSubmatch(o.String(), -1); m != nil {
					why = m[len(m)-1][1]
				}
			}
			verdict := "skipped"
			if s.ci && !strings.HasPrefix(why, "kernel:") {
				verdict = "skipped, which is a failure with CI=true"
				res.Failed++
			} else {
				res.Skipped++
			}
			remarks = append(remarks, fmt.Sprintf("%s: %s %s: %s", verdict, e.Package, e.Test, why))
		default:
			continue // start, run, pause, cont, bench
		}
		delete(output, key)
	}
}

// total prints the sum of the suites. One that left no result did not finish,
// which is a failure.
func total(out io.Writer, dir string, names []string) (ok bool, err error) {
	var sum Result
	for _, name := range names {
		var r Result
		b, err := os.ReadFile(suite{dir: dir, name: name}.path(".result"))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			fmt.Fprintf(out, "%s: did not finish\n", name)
			r.Failed++
		}
		sum.Passed += r.Passed
		sum.Failed += r.Failed
		sum.Skipped += r.Skipped
	}
	fmt.Fprintln(out, sum)
	return sum.Failed == 0, nil
}
