// Command recorder is the managed service of the end-to-end tests. It does
// nothing but write down when it was alive, so that a test can tell from the
// services themselves, and from nothing else, whether two of them ever ran at
// the same time.
//
// Each process writes a file of its own into a directory of the local machine,
// in the form package intervals reads. Times are CLOCK_BOOTTIME, which all
// processes of one machine share. A line is in the page cache when its write
// returns, hence survives kill -9; nothing is synced, because the tests kill
// processes, not machines.
//
// What it can not see: the few milliseconds of a process before its first
// line and after its last beat.
//
// Environment:
//
//	REC_DIR          directory of the files (required; must exist)
//	HA_NODE, HA_TERM who runs it (required)
//	REC_IGNORE_TERM  1: go on after SIGTERM, to be killed
//	REC_STOP_DELAY   milliseconds it goes on beating after SIGTERM
//	REC_FORK         start that many children, each in a session of its own,
//	                 as a daemon would; they keep files of their own
//	REC_EXIT_AFTER   milliseconds after which it dies by itself
//	REC_EXIT_CODE    with which code; default 1
//
// Exit codes: 0 stopped as asked, 2 bad environment, 3 the record could not be
// written.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const (
	beatEvery = 5 * time.Millisecond

	exitUsage  = 2
	exitRecord = 3

	// envTree hands a child the name of the tree it belongs to, and marks it
	// as a child.
	envTree = "REC_TREE"
)

func main() {
	born := intervals.Now()
	code, err := run(born)
	if err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
	}
	os.Exit(code)
}

type options struct {
	dir, node, term string
	tree            string // empty in the first process of a tree
	ignoreTerm      bool
	stopDelay       time.Duration
	exitAfter       time.Duration // 0: never
	exitCode        int
	fork            int
}

func run(born intervals.Instant) (code int, err error) {
	// Before anything else, so that an early SIGTERM is not the default one.
	terms := make(chan os.Signal, 8)
	signal.Notify(terms, syscall.SIGTERM, syscall.SIGINT)

	o, err := fromEnvironment()
	if err != nil {
		return exitUsage, err
	}
	rec, err := intervals.Create(o.dir, o.node, o.term, o.tree, born)
	if err != nil {
		return exitRecord, err
	}
	if err := forkAll(o, rec.Tree); err != nil {
		return exitRecord, err
	}

	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var exit, stop <-chan time.Time
	if o.exitAfter > 0 {
		exit = time.After(o.exitAfter)
	}
	for {
		select {
		case <-tick.C:
			err = rec.Beat()
		case s := <-terms:
			err = rec.Signal(s.String())
			if o.ignoreTerm || stop != nil {
				break
			}
			stop = time.After(o.stopDelay)
		case <-stop:
			return 0, rec.Stop("asked")
		case <-exit:
			return o.exitCode, rec.Stop("exit-after")
		}
		if err != nil {
			return exitRecord, err
		}
	}
}

func fromEnvironment() (options, error) {
	o := options{
		dir:        os.Getenv("REC_DIR"),
		node:       os.Getenv("HA_NODE"),
		term:       os.Getenv("HA_TERM"),
		tree:       os.Getenv(envTree),
		ignoreTerm: os.Getenv("REC_IGNORE_TERM") == "1",
		exitCode:   1,
	}
	if o.dir == "" || o.node == "" || o.term == "" {
		return o, errors.New("REC_DIR, HA_NODE and HA_TERM must be set")
	}
	var stopDelay, exitAfter int
	for _, v := range []struct {
		name string
		into *int
	}{
		{"REC_STOP_DELAY", &stopDelay},
		{"REC_EXIT_AFTER", &exitAfter},
		{"REC_EXIT_CODE", &o.exitCode},
		{"REC_FORK", &o.fork},
	} {
		s := os.Getenv(v.name)
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return o, fmt.Errorf("%s=%q is not a number", v.name, s)
		}
		*v.into = n
	}
	o.stopDelay = time.Duration(stopDelay) * time.Millisecond
	o.exitAfter = time.Duration(exitAfter) * time.Millisecond
	if o.tree != "" {
		o.fork, o.exitAfter = 0, 0 // children neither fork nor die by themselves
	}
	return o, nil
}

// forkAll starts the children in sessions of their own. They are not waited
// for: whoever stops this service has to find them without our help.
func forkAll(o options, tree string) error {
	for range o.fork {
		// The link, not os.Executable's path: that one may not exist in the
		// mount namespace this process lives in.
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // outlives this process on purpose
		cmd.Env = append(os.Environ(), envTree+"="+tree)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start a child: %w", err)
		}
		go func() { _ = cmd.Wait() }() // leave no zombie
	}
	return nil
}
