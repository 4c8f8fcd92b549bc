package faults_test

import (
	"testing"
	"time"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// TestNotExclusive: on a file system where both of two racing renames of one
// name succeed, no node ever becomes master, and each says why. Once it is
// repaired the nodes find out by themselves.
func TestNotExclusive(t *testing.T) {
	need.Root(t, "mount file systems")
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
	var faults []*faultfs.Fault
	for _, n := range p.Nodes {
		faults = append(faults, n.Fault.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "/lease/", Shared: 100 * time.Millisecond}))
	}
	before := p.Register()
	p.Start()
	for _, n := range p.Nodes {
		n.WaitStandby(settle)
		if !harness.Poll(settle, func() bool {
			s, err := n.States()
			own := s.Nodes[n.ID()]
			return err == nil && !own.Electable && own.Why != nil && *own.Why == election.ReasonUntrusted
		}) {
			t.Errorf("%s does not say %s", n.Name, election.ReasonUntrusted)
		}
	}
	if harness.Poll(4*time.Second, func() bool { return p.Register() != before || len(p.Record().Trees) > 0 }) {
		t.Error("a store on which two can win was claimed")
	}
	for i, n := range p.Nodes {
		if faults[i].Fired() == 0 {
			t.Errorf("on the mount of %s there was never a second winner: this shows nothing", n.Name)
		}
		if st := n.State(); st != v1.StateHotStandby {
			t.Errorf("%s is %s", n.Name, st)
		}
		faults[i].Remove()
	}
	p.WaitSettled(2 * settle)
}
