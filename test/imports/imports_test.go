package imports

import (
	"strings"
	"testing"
)

// This package imports testing, hence os/exec, hence much more: enough to see
// that what is pulled in through others is found, with the way it came.
func TestFindsWhatOthersPullIn(t *testing.T) {
	for name, c := range map[string]struct {
		rule Rule
		want []string // one part of each finding, in order
	}{
		"nothing unwanted": {rule: Rule{Unwanted: map[string]string{"net/http": "no HTTP"}}},
		"direct":           {rule: Rule{Unwanted: map[string]string{"os/exec": "starts nothing"}}, want: []string{"os/exec: starts nothing ("}},
		"through another":  {rule: Rule{Unwanted: map[string]string{"runtime/debug": "no stack"}}, want: []string{"imports -> testing -> runtime/debug)"}},
		"a tree": {
			rule: Rule{Unwanted: map[string]string{"encoding/...": "no codec"}},
			want: []string{"-> flag -> encoding)", "encoding/json: no codec (" + module + "test/imports -> encoding/json)"},
		},
		"not the tree": {rule: Rule{Unwanted: map[string]string{"encod/...": "no codec"}}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := c.rule.find(t, ".")
			if err != nil {
				t.Fatal(err)
			}
			for i, part := range c.want {
				if i >= len(found) || !strings.Contains(found[i], part) {
					t.Fatalf("found %q, want %q", found, c.want)
				}
			}
			if len(found) > len(c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

func TestFindsForeignModules(t *testing.T) {
	const intervals = "github.com/understudy-ha/understudy/test/e2e/intervals"
	found, err := Rule{}.find(t, intervals)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || !strings.HasPrefix(found[0], "golang.org/x/sys/unix: nothing but the standard library") {
		t.Errorf("found %q", found)
	}
	found, err = Rule{Others: []string{"golang.org/x/sys/..."}}.find(t, intervals)
	if err != nil || len(found) > 0 {
		t.Errorf("found %q, %v", found, err)
	}
	// net/http has copies of x/net inside, and cgo.
	found, err = Rule{}.find(t, "net/http")
	if err != nil || len(found) > 0 {
		t.Errorf("found %q, %v", found, err)
	}
	if _, err := (Rule{}).find(t, "./missing"); err == nil {
		t.Error("a missing package passes")
	}
}
