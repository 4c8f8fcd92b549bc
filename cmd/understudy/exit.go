package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// The exit codes, which scripts rely on.
const (
	exitOK           = 0
	exitFailed       = 1 // failed, or the answer is "no"
	exitUsage        = 2 // usage or bad configuration
	exitPrecondition = 3
	exitUnreachable  = 4 // daemon or store
	exitDenied       = 5
	exitTimeout      = 6 // timed out, still going
	exitUnsafe       = 7 // unsafe without --force
)

// exitError ends the process with a code. Without an error it says nothing
// further: the command has said all.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitf is an exitError with a message.
func exitf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

func usagef(format string, args ...any) error { return exitf(exitUsage, format, args...) }

// silently ends with a code after the command has said why.
func silently(code int) error { return &exitError{code: code} }

// runError marks what a command's RunE returned, as opposed to what cobra
// finds wrong with a command line, which is always a matter of usage.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

func markRunErrors(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return runError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markRunErrors(sub)
	}
}

// exitCode maps an error to the exit code it stands for.
func exitCode(err error) int {
	var (
		exit    *exitError
		conf    *config.Error
		timing  *election.TimingError
		nobody  *client.UnreachableError
		refused *client.StatusError
		unmet   *ha.PreconditionError
		run     runError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &conf), errors.As(err, &timing):
		return exitUsage
	case errors.As(err, &nobody):
		return exitUnreachable
	case errors.As(err, &refused):
		return statusExit(refused.Code)
	case errors.As(err, &unmet):
		return exitPrecondition
	case errors.Is(err, persistence.Unknown), errors.Is(err, persistence.Throttled):
		return exitUnreachable
	case errors.Is(err, persistence.Absent), errors.Is(err, persistence.Denied), errors.Is(err, persistence.ReadOnly),
		errors.Is(err, persistence.Full), errors.Is(err, persistence.Unsupported):
		return exitUsage // what an operator has to put right
	case errors.Is(err, persistence.Conflict):
		return exitPrecondition
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case !errors.As(err, &run):
		return exitUsage
	default:
		return exitFailed
	}
}

func statusExit(status int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusBadRequest:
		return exitUsage
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitPrecondition
	case http.StatusGatewayTimeout:
		return exitTimeout
	default:
		return exitFailed
	}
}

// report prints what went wrong, one line per problem, with the remedy where
// the command line has one to offer, and returns the exit code.
func report(w io.Writer, err error) int {
	code := exitCode(err)
	var exit *exitError
	if err == nil || (errors.As(err, &exit) && exit.err == nil) {
		return code
	}
	var conf *config.Error
	if errors.As(err, &conf) {
		for _, p := range conf.Problems {
			fmt.Fprintf(w, "understudy: %s\n", oneLine(p.String()))
		}
		return code
	}
	text := oneLine(err.Error())
	var (
		nobody  *client.UnreachableError
		refused *client.StatusError
	)
	if errors.As(err, &nobody) {
		text += ". " + reachRemedy(nobody)
	}
	if errors.As(err, &refused) && refused.Code == http.StatusUnauthorized {
		text = fmt.Sprintf("%s wants a user and a password, or other ones: give --user and --password-file (or UNDERSTUDY_USER and UNDERSTUDY_PASSWORD); --config finds those of a node of this host", refused.Endpoint)
	}
	fmt.Fprintf(w, "understudy: %s\n", text)
	return code
}

func reachRemedy(e *client.UnreachableError) string {
	for _, a := range e.Attempts {
		var cert *tls.CertificateVerificationError
		if errors.As(a.Err, &cert) {
			return "Trust its certificate with --cacert FILE (tls.crt in that node's dataDir), or any with --insecure"
		}
	}
	return "Is the daemon running there? Start it with 'understudy server', or name another node with --endpoint"
}

// oneLine keeps messages of libraries from spreading over several lines.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
