package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/doctor"
)

func newDoctorCommand(g *globals) *cobra.Command {
	var (
		flags configFlags
		quick bool
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything this machine's node depends on, and say what to do",
		Long: `Check everything this machine's node depends on: clocks, rights and limits, the
data directory, port and certificate, the service, the store and the plane.
Each line is ok, warn or fail, says what it means and, after an arrow, what to
do. It works before the first start and beside the live node, which it does not
disturb: on the store it uses a scratch place of its own and removes it.

Run it as the user that runs the node: what it says about rights is true for
the user that asks. What hangs costs one line and some seconds, not the rest.

Exit codes: 0 nothing failed (there may be warnings), 1 something failed,
2 bad configuration, 4 the store does not answer and nothing else failed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			e, err := newExam(&flags, g.configPath(), quick)
			if err != nil {
				return err
			}
			defer e.close()
			watcher, wipe := g.doctorWatcher(cmd)
			report := doctor.Run(ctx, e.checks(), watcher)
			if ctx.Err() != nil {
				return exitf(exitFailed, "doctor: interrupted")
			}
			if err := g.print(cmd, report, func(s *screen) {
				s.printf("%s\n%s\n%d failed, %d to look at, %d ok\n", wipe, report.Verdict, report.Fails, report.Warnings, len(report.Findings)-report.Fails-report.Warnings)
			}); err != nil {
				return err
			}
			return e.exit(report)
		},
	}
	flags.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&quick, "quick", false, "leave out the race that shows whether the store keeps its promises")
	return cmd
}

// doctorWatcher prints lines as they come, unless they are wanted as JSON or
// YAML. On a terminal it says what is being looked at; wipe takes that away.
func (g *globals) doctorWatcher(cmd *cobra.Command) (w doctor.Watcher, wipe string) {
	if g.output != formatTable {
		return w, ""
	}
	s := newScreen(cmd.OutOrStdout())
	width := 0
	if f, ok := cmd.OutOrStdout().(*os.File); ok && isTerminal(f) && os.Getenv("TERM") != "dumb" {
		width, _, _ = term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor is small
		wipe = "\r\x1b[K"
		w.Begin = func(name string) { s.printf("%s...   looking at %s", wipe, name) }
	}
	w.Line = func(f persistence.Finding) {
		s.printf("%s", wipe)
		s.finding(f, width)
	}
	return w, wipe
}

// finding writes one line, and the remedy on another. width is the terminal's,
// 0 for none.
func (s *screen) finding(f persistence.Finding, width int) {
	const nameWidth, indent = 20, 28
	grade := fmt.Sprintf("%-4s", f.Status)
	if s.colour {
		sgr := map[persistence.Grade]string{persistence.GradeOK: "32", persistence.GradeWarn: "1;33", persistence.GradeFail: "1;31"}[f.Status]
		grade = "\x1b[" + sgr + "m" + grade + "\x1b[0m"
	}
	s.printf("%s  %-*s  %s\n", grade, nameWidth, f.Name, folded(printable(f.Detail), indent, width))
	if f.Remedy != "" {
		s.printf("%*s-> %s\n", indent, "", folded(printable(f.Remedy), indent+3, width))
	}
}

// folded breaks text between words so that it fits beside an indent.
func folded(text string, indent, width int) string {
	room := width - indent
	if room < 20 {
		return text
	}
	var b strings.Builder
	used := 0
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case used+1+n > room:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			used = 0
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += n
	}
	return b.String()
}

// exit is how the command ends after its report.
func (e *exam) exit(r doctor.Report) error {
	switch {
	case e.invalid != nil:
		return silently(exitUsage)
	case r.OK:
		return nil
	case e.reach() == doctor.Unreachable && r.Fails == 1:
		return silently(exitUnreachable)
	default:
		return silently(exitFailed)
	}
}

// newExam reads the configuration. One that is wrong is part of what doctor
// has to say, so it goes on with what can be told of it.
func newExam(flags *configFlags, file string, quick bool) (*exam, error) {
	e := &exam{file: file, quick: quick}
	src, warn, err := flags.sources(file)
	if err == nil {
		var more config.Warnings
		e.cfg, more, err = config.Read(src)
		warn = append(warn, more...)
	}
	if err == nil {
		var more config.Warnings
		more, err = e.cfg.Validate()
		warn = append(warn, more...)
	}
	e.warnings = warn
	if err != nil && !errors.As(err, &e.invalid) {
		return nil, err
	}
	return e, nil
}

// configuration makes lines of what is wrong with the configuration.
func (e *exam) configuration(context.Context) []persistence.Finding {
	const name = "configuration"
	var lines []persistence.Finding
	if e.invalid != nil {
		for _, p := range e.invalid.Problems { // each says what would be right
			lines = append(lines, persistence.Finding{Name: name, Status: persistence.GradeFail, Detail: oneLine(p.String())})
		}
	}
	for _, w := range e.warnings {
		lines = append(lines, persistence.Finding{Name: name, Status: persistence.GradeWarn, Detail: oneLine(w)})
	}
	if len(lines) == 0 {
		file := e.file
		if file == "" {
			file = "no file, all from environment and flags"
		}
		lines = append(lines, persistence.Finding{Name: name, Status: persistence.GradeOK, Detail: file})
	}
	return lines
}
