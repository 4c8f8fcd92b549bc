package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
)

// verifyFlags are the flags of `store verify`.
type verifyFlags struct {
	writers, rounds int
	peer, join      string
	wait            time.Duration
}

func newStoreVerifyCommand(g *globals) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify LOCATION",
		Short: "Find out whether a location keeps the promises that safety rests on",
		Long: `Find out whether a location keeps the promises that safety rests on, by trying:
a register is created, swapped and raced for by many writers at once, in a
scratch area that is removed afterwards. It is safe beside a live plane.

Writers on one machine share that machine's caches. With --peer two nodes race
each other: the command prints the line to run on the other one and waits for
it. They meet in the location itself; nothing else need connect them.

Exit codes: 0 safe, 1 not safe or not usable as it is, 2 wrong usage, 4 no
answer that decides it, 6 the other node did not come.`,
		Example: `  understudy store verify /mnt/understudy
  understudy store verify /mnt/understudy --peer node2
  understudy store verify /mnt/understudy --writers 32 --rounds 200 -o json`,
		Args: storeArg,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, g, args[0]) },
	}
	fl := cmd.Flags()
	fl.IntVar(&f.writers, "writers", 16, "how many `writers` race each other, on each node")
	fl.IntVar(&f.rounds, "rounds", 20, "how many `rounds` they race, of creating and of swapping")
	fl.StringVar(&f.peer, "peer", "", "race a second run on this `node` too; its name is for the messages only")
	fl.StringVar(&f.join, "join", "", "be that second run: the `token` that the first one printed")
	fl.DurationVar(&f.wait, "peer-timeout", 5*time.Minute, "how `long` to wait for the other node")
	cmd.MarkFlagsMutuallyExclusive("peer", "join")
	return cmd
}

func (f *verifyFlags) check() error {
	switch {
	case f.writers < 2 || f.writers > 256:
		return usagef("--writers %d: must be 2 to 256; one alone races nobody", f.writers)
	case f.rounds < 1 || f.rounds > 10000:
		return usagef("--rounds %d: must be 1 to 10000", f.rounds)
	case f.join != "" && !verify.ValidToken(f.join):
		return usagef("--join %q: is no token; run the line that the first node printed", f.join)
	}
	return nil
}

func (f *verifyFlags) run(cmd *cobra.Command, g *globals, arg string) error {
	if err := f.check(); err != nil {
		return err
	}
	p, err := g.openArg(cmd, arg)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	t, err := p.timing()
	if err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr())
	report, err := verify.Run(cmd.Context(), p.Store, verify.Options{
		Writers: f.writers, Rounds: f.rounds, Heartbeat: t.Heartbeat, OperationTimeout: t.Operation,
		Progress: bar.at, Peer: f.meeting(cmd.ErrOrStderr(), arg),
		Advise: func(w, r verify.Latency) string { return recommend(w, r, p.Limits()).remedy() },
	})
	bar.end()
	if errors.Is(err, verify.ErrNoMeeting) {
		return exitf(exitPrecondition, "%w", err)
	}
	if perr := g.print(cmd, report, func(s *screen) { drawVerify(s, report) }); perr != nil {
		return perr
	}
	return verifyExit(report, err)
}

// verifyExit is the exit code of a run that has said all.
func verifyExit(r verify.Report, err error) error {
	switch {
	case err == nil && r.OK:
		return nil
	case err == nil:
		return silently(exitFailed)
	case errors.Is(err, persistence.ReadOnly), errors.Is(err, persistence.Full), errors.Is(err, persistence.Denied):
		return silently(exitFailed) // the right location, in no state to be used
	case errors.Is(err, context.Canceled):
		return silently(exitFailed)
	default:
		return silently(exitCode(err))
	}
}

// meeting is the race with another node, if one is asked for. The first of the
// two says how to start the second.
func (f *verifyFlags) meeting(stderr io.Writer, arg string) *verify.Peer {
	if f.peer == "" && f.join == "" {
		return nil
	}
	p := &verify.Peer{Token: f.join, Lead: f.join == "", Wait: f.wait, Host: hostname(), Machine: bootID()}
	if p.Lead {
		p.Token = verify.NewToken()
		p.Ready = func() {
			fmt.Fprintf(stderr, "Run this on %s within %s (with the path that it has there):\n\n    understudy store verify %s --join %s\n\n",
				printable(f.peer), f.wait, shellQuote(arg), p.Token)
		}
	}
	return p
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return h
}

// bootID tells machines apart, also containers on different ones; empty when
// it can not be read.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// shellQuote makes a word that a shell takes as it is.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func drawVerify(s *screen, r verify.Report) {
	drawFindings(s, r.Checks)
	if len(r.Checks) > 0 {
		s.printf("\n")
	}
	s.printf("%s: %s\n", printable(r.URL), printable(oneLine(r.Verdict)))
}

// drawFindings writes one line per finding, and the remedy beneath it.
func drawFindings(s *screen, found []persistence.Finding) {
	colours := map[persistence.Grade]string{persistence.GradeOK: "32", persistence.GradeWarn: "33", persistence.GradeFail: "1;31"}
	rows := make([][]cell, 0, 2*len(found))
	for _, f := range found {
		rows = append(rows, []cell{{text: string(f.Status), sgr: colours[f.Status]}, {text: f.Name}, {text: oneLine(f.Detail)}})
		if f.Remedy != "" && f.Status != persistence.GradeOK {
			rows = append(rows, plainCells("", "", "-> "+oneLine(f.Remedy)))
		}
	}
	s.table(rows)
}
