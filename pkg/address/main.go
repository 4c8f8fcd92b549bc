package address

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"syscall"
	"time"
)

// Command is the first argument of a process that is to call Main.
const Command = "floating-address"

// What Main can be asked to do.
const (
	OpAdd      = "add"
	OpAnnounce = "announce"
)

// Exit codes of Main.
const (
	ExitDone     = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitConflict = 3 // somebody else has the address
)

// Argv is the command that does op with the address, for a run of the guard.
// lifetime is what the kernel is told of an address that is added.
func (f Floating) Argv(op string, lifetime time.Duration) []string {
	return []string{"/proc/self/exe", Command, op, f.Prefix.String(), f.Interface, lifetime.String()}
}

// Main does what Argv asked for, says on out what went wrong, and returns the
// exit code. SIGTERM ends it between two steps.
func Main(args []string, out io.Writer) int {
	if len(args) != 4 {
		fmt.Fprintf(out, "%s is started by the guard\n", Command)
		return ExitUsage
	}
	prefix, err := netip.ParsePrefix(args[1])
	lifetime, lerr := time.ParseDuration(args[3])
	if err = errors.Join(err, lerr); err != nil {
		fmt.Fprintln(out, err)
		return ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := Floating{Prefix: prefix, Interface: args[2]}
	switch args[0] {
	case OpAdd:
		err = f.Add(ctx, lifetime)
	case OpAnnounce:
		err = f.Announce(ctx)
	default:
		err = fmt.Errorf("unknown operation %q", args[0])
	}
	var conflict *ConflictError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &conflict):
		fmt.Fprintln(out, err)
		return ExitConflict
	}
	fmt.Fprintln(out, err)
	return ExitFailed
}
