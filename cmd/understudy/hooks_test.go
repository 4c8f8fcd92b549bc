package main

import (
	"testing"

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/hook"
)

// The configuration names the events there are, and knows which the guard runs.
func TestEveryEventHasItsHook(t *testing.T) {
	all := config.Default().Hooks.All()
	last := all[len(all)-1]
	if all = all[:len(all)-1]; last.Event != string(hook.GuardStop) || !last.Bound || !last.Alone {
		t.Errorf("the guard's own hook is %+v", last)
	}
	if len(all) != len(hook.Events()) {
		t.Fatalf("%d hooks for %d events", len(all), len(hook.Events()))
	}
	for i, e := range hook.Events() {
		if all[i].Event != string(e) || all[i].Bound != e.Bound() || all[i].Alone {
			t.Errorf("%+v stands for %s, bound %v", all[i], e, e.Bound())
		}
	}
}
