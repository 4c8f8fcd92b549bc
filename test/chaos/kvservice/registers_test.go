package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, dir string, term uint64) *registers {
	t.Helper()
	r, err := openRegisters(dir, term)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func set(t *testing.T, r *registers, key, value string) entry {
	t.Helper()
	e, err := r.set(key, value)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRegistersOutliveTheService(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 1)
	if e, err := r.get("a"); err != nil || e != (entry{}) {
		t.Errorf("a new key holds %+v, %v", e, err)
	}
	set(t, r, "a", "x")
	if e := set(t, r, "a", "y"); e != (entry{1, 2, "y"}) {
		t.Errorf("written: %+v", e)
	}
	set(t, r, "b", "other")
	r = open(t, dir, 2)
	if e, err := r.get("a"); err != nil || e != (entry{1, 2, "y"}) {
		t.Errorf("after a take-over a holds %+v, %v", e, err)
	}
	if e := set(t, r, "a", "z"); e != (entry{2, 3, "z"}) {
		t.Errorf("written: %+v", e)
	}
}

// TestSupersededWritesNothing: once a successor has begun, a former service
// that goes on acknowledges nothing and changes nothing.
func TestSupersededWritesNothing(t *testing.T) {
	dir := t.TempDir()
	former := open(t, dir, 1)
	set(t, former, "a", "x")
	now := open(t, dir, 2)
	if _, err := former.set("a", "late"); !errors.Is(err, errSuperseded) {
		t.Errorf("a write of the former service: %v", err)
	}
	if _, err := openRegisters(dir, 1); !errors.Is(err, errSuperseded) {
		t.Errorf("a start in an old term: %v", err)
	}
	if e, err := open(t, dir, 3).get("a"); err != nil || e.Value != "x" {
		t.Errorf("a holds %+v, %v", e, err)
	}
	// And this is what no check of its own keeps it from.
	set(t, open(t, dir, 4), "a", "new")
	if e, err := now.get("a"); err != nil || e.Value != "x" {
		t.Errorf("a former service answers %+v, %v: from memory it was said to be", e, err)
	}
}

// TestLateRenameFindsNothing: one call of a former service that was on its way
// when its successor began has no effect.
func TestLateRenameFindsNothing(t *testing.T) {
	dir := t.TempDir()
	former := open(t, dir, 1)
	set(t, former, "a", "x")
	tmp, err := former.prepare(keyPrefix+"a", entry{1, 2, "late"})
	if err != nil {
		t.Fatal(err)
	}
	now := open(t, dir, 2)
	set(t, now, "a", "new")
	if err := os.Rename(tmp, filepath.Join(dir, keyPrefix+"a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the late rename: %v, want that there is no such file", err)
	}
	if e, err := open(t, dir, 3).get("a"); err != nil || e.Value != "new" {
		t.Errorf("a holds %+v, %v", e, err)
	}
}

// TestUndecidedIsSettledByReading: after a write whose end was not seen the
// key says nothing until it was read back.
func TestUndecidedIsSettledByReading(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 1)
	set(t, r, "a", "x")
	tmp, err := r.prepare(keyPrefix+"a", entry{1, 2, "y"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, keyPrefix+"a")); err != nil {
		t.Fatal(err)
	}
	r.register("a").undecided = true
	if e, err := r.get("a"); err != nil || e.Value != "y" {
		t.Errorf("a holds %+v, %v; in the file there is y", e, err)
	}
	// With the store away there is no answer.
	r.register("a").undecided = true
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.get("a"); !errors.Is(err, errNotWritten) {
		t.Errorf("an undecided key answers %v", err)
	}
	if _, err := r.set("a", "z"); !errors.Is(err, errNotWritten) {
		t.Errorf("an undecided key is written: %v", err)
	}
}
