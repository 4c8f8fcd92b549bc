package faults_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// column is something that a node does with the store.
type column int

const (
	renew column = iota
	claim
	release
	read
	record
	segment
	columns
)

var columnNames = [columns]string{"renewal", "claim", "release", "read", "node record", "segment write"}

// The operations of the file system that a fault strikes when it is about
// names, about contents, or about listings.
type kind int

const (
	anywhere kind = iota // whatever the column rests on
	names                // renames only
	listings             // listings only
)

// fault is one way to fail. Its rule says how; where is up to the column.
type fault struct {
	name   string
	rule   faultfs.Rule
	kind   kind
	always bool // part of the short selection too
}

// Timing of the planes: T = 5s, o = 500 ms. See election.Derive.
var faults = []fault{
	{name: "hangs, and lets go of a killed process", rule: faultfs.Rule{Hang: true}},
	{name: "hangs, deaf to SIGKILL", rule: faultfs.Rule{Hang: true, Deaf: true}, always: true},
	{name: "EIO", rule: faultfs.Rule{Errno: syscall.EIO}, always: true},
	{name: "ENOSPC (full)", rule: faultfs.Rule{Errno: syscall.ENOSPC}},
	{name: "EDQUOT (over quota)", rule: faultfs.Rule{Errno: syscall.EDQUOT}},
	{name: "EROFS (read-only)", rule: faultfs.Rule{Errno: syscall.EROFS}},
	{name: "ESTALE (replaced on the server)", rule: faultfs.Rule{Errno: syscall.ESTALE}},
	{name: "slow: 200 ms for each operation", rule: faultfs.Rule{Delay: 200 * time.Millisecond}},
	{name: "slow: 1 s for each operation", rule: faultfs.Rule{Delay: time.Second}},
	{name: "reply lost: done, then EIO", rule: faultfs.Rule{After: true, Errno: syscall.EIO}, kind: names, always: true},
	{name: "lands late: EIO, done 300 ms later", rule: faultfs.Rule{Late: 300 * time.Millisecond, Errno: syscall.EIO}, kind: names},
	{name: "stale listings", rule: faultfs.Rule{Stale: true}, kind: listings},
}

// at is the rule that strikes a column, if the fault can.
func (f fault) at(c column) (rule faultfs.Rule, ok bool) {
	r := f.rule
	switch c {
	case renew, claim, release:
		// The register's values are names; ".h-." is one that is held, ".r-."
		// one that is released.
		r.Op, r.Path = faultfs.Rename, [...]string{renew: ".h-.", claim: "lease/", release: ".r-."}[c]
		if f.kind == listings {
			r.Op, r.Path = faultfs.Readdir, "lease"
			return r, c == claim // only that one is read back (R8)
		}
	case read:
		r.Op, r.Path = faultfs.Opendir, "lease"
		if f.kind == listings {
			r.Op = faultfs.Readdir
		}
		return r, f.kind != names
	case record, segment:
		// Faults that leave the operation undone strike the whole path;
		// those of a rename, the one that gives an object its name.
		r.Op, r.Path = faultfs.Any, [...]string{record: "nodes/", segment: "state/log/"}[c]
		if f.kind == names {
			r.Op = faultfs.Rename
		}
		return r, f.kind != listings
	case columns:
	}
	return r, true
}

// cell is what came of a fault in one place.
type cell struct {
	outcome string        // one of a few phrases
	took    time.Duration // until the outcome showed
	state   string        // what the struck node said of itself, by REST; empty: it had ended
}

func (c cell) String() string {
	s := c.outcome
	if c.took >= 50*time.Millisecond {
		s += ", " + c.took.Round(100*time.Millisecond).String()
	}
	if c.state != "" {
		s += "; `" + c.state + "`"
	}
	return s
}

// class is what must be the same each time.
func (c cell) class() string { return c.outcome + "; " + c.state }

// TestTable plays the faults and compares what comes of them with the table in
// docs/safety.md.
func TestTable(t *testing.T) {
	need.Root(t, "mount file systems")
	t.Parallel()
	rows := make([]*[columns]cell, len(faults)) // nil: was not played
	t.Run("fault", func(t *testing.T) {
		for i, f := range faults {
			if !f.always && !everything() {
				continue
			}
			t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
				t.Parallel()
				row := play(t, f)
				rows[i] = &row
			})
		}
	})
	if t.Failed() {
		return
	}
	if updating() {
		must(t, writeTable(rows))
		return
	}
	documented, err := readTable()
	must(t, err)
	for i, f := range faults {
		if rows[i] == nil {
			continue
		}
		for c := range columns {
			if want, got := documented[f.name][c], rows[i][c].class(); got != want {
				t.Errorf("%s, %s: the table says %q, and it was %q; FAULTS=update writes the table anew", f.name, columnNames[c], want, got)
			}
		}
	}
}
