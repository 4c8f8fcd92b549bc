// Package imports holds the dependency directions in ways a linter can not:
// through everything a package pulls in, not only what it names itself.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Rule says what a package may pull in.
type Rule struct {
	// Unwanted maps an import path, or a path followed by "/..." for
	// everything at and beneath it, to the reason why it is unwanted.
	Unwanted map[string]string
	// Others are the packages outside the standard library that are wanted,
	// in the same form. Any further one is unwanted. What a package of another
	// module pulls in is not looked at.
	Others []string
}

// Check fails t for each unwanted package that the package in the working
// directory, which for a test is its own, depends on; tests do not count. The
// message gives the reason and the chain of imports that leads there.
func Check(t *testing.T, r Rule) {
	t.Helper()
	found, err := r.find(t, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// listed is what `go list -json` says about a package.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

func (r Rule) find(t *testing.T, pkg string) ([]string, error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports", pkg)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", cmd.Args, err, &stderr)
	}
	all := map[string]listed{}
	root := ""
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all[l.ImportPath] = l
		root = l.ImportPath // go list -deps ends with the package itself
	}

	via := r.reach(all, root)
	var found []string
	for _, path := range slices.Sorted(maps.Keys(via)) {
		if why, unwanted := r.why(all[path]); unwanted && path != root {
			found = append(found, fmt.Sprintf("%s: %s (%s)", path, why, chain(via, path)))
		}
	}
	return found, nil
}

func (r Rule) why(l listed) (string, bool) {
	for pattern, why := range r.Unwanted {
		if matches(pattern, l.ImportPath) {
			return why, true
		}
	}
	if l.Standard || slices.ContainsFunc(r.Others, func(p string) bool { return matches(p, l.ImportPath) }) {
		return "", false
	}
	return "nothing but the standard library and what the rule names", true
}

func matches(pattern, path string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	return path == tree || ok && strings.HasPrefix(path, tree+"/")
}

const module = "github.com/understudy-ha/understudy/"

// reach walks all that root pulls in and says, for each package, by which
// other it is first reached. It does not look inside packages of other
// modules: whether to take one is the question, not what it is made of. Nor
// inside unwanted packages: naming them is enough.
func (r Rule) reach(all map[string]listed, root string) map[string]string {
	via := map[string]string{root: ""}
	for queue := []string{root}; len(queue) > 0; queue = queue[1:] {
		l := all[queue[0]]
		if !l.Standard && !strings.HasPrefix(l.ImportPath, module) {
			continue
		}
		if _, unwanted := r.why(l); unwanted && l.ImportPath != root {
			continue
		}
		for _, next := range l.Imports {
			if _, ok := all[next]; !ok {
				next = "vendor/" + next // the standard library's own copy
			}
			if _, ok := all[next]; !ok {
				continue // "C"
			}
			if _, seen := via[next]; !seen {
				via[next] = l.ImportPath
				queue = append(queue, next)
			}
		}
	}
	return via
}

func chain(via map[string]string, to string) string {
	var way []string
	for at := to; at != ""; at = via[at] {
		way = append(way, at)
	}
	slices.Reverse(way)
	return strings.Join(way, " -> ")
}
