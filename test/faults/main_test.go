// Package faults_test lets a shared directory fail in every way that a test
// file system can play, at each thing a node does with it, and keeps the table
// of what comes of it in docs/safety.md true.
//
//	go test ./test/faults                   a few faults, in each place
//	FAULTS=all go test ./test/faults        every fault, and a minute's hang (make faults)
//	FAULTS=update go test ./test/faults     the same, and writes the table anew
//
// The nodes are real processes, each with a mount of its own on the plane's
// directory. A run holds that what happens is what the table says; how long it
// took is for people to read and is not held. It needs root and /dev/fuse.
package faults_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// planesAtOnce wait for leases to run out, most of the time.
const planesAtOnce = "4"

func TestMain(m *testing.M) {
	if os.Getenv(putVariable) != "" {
		put(os.Getenv(putVariable))
		return
	}
	if err := flag.Set("test.parallel", planesAtOnce); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(harness.Main(m))
}

// everything reports whether the full selection is asked for.
func everything() bool { return os.Getenv("FAULTS") == "all" || updating() }

func updating() bool { return os.Getenv("FAULTS") == "update" }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
