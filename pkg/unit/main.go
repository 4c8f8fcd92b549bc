package unit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Command is the hidden subcommand by which a process of this binary becomes one
// of the service's commands; see Main.
const Command = "unit"

// What Main can do.
const (
	OpRun   = "run"
	OpStop  = "stop"
	OpProbe = "probe"
	OpReady = "ready"
)

// Exit codes of the probe, as of OCF agents.
const (
	exitRuns    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitStopped = 7
)

// EnvironmentDir is where `unit run` writes NAME.env, the HA_ variables of the
// term, for EnvironmentFile= of the unit: the fencing token above all.
const EnvironmentDir = "/run/understudy"

// answerLimit bounds one question to systemd.
const answerLimit = 5 * time.Second

// Main is the process of one command: args are the operation, the unit's name,
// and of stop the time until SIGKILL. The result is the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) < 2 || (len(args) == 3) != (args[0] == OpStop) || len(args) > 3 {
		fmt.Fprintln(stderr, "unit: wants run NAME, stop NAME KILL-AFTER, probe NAME or ready NAME; it is run by guard and daemon only")
		return exitUsage
	}
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	name := args[1]
	code, err := exitUsage, fmt.Errorf("unknown operation %q", args[0])
	switch args[0] {
	case OpRun:
		code, err = run(ctx, name, stdout)
	case OpStop:
		var after time.Duration
		if after, err = time.ParseDuration(args[2]); err == nil {
			code, err = stop(ctx, name, after)
		}
	case OpProbe:
		code, err = probe(ctx, name, stdout)
	case OpReady:
		code, err = ready(ctx, name)
	}
	if err != nil {
		fmt.Fprintf(stderr, "unit %s: %v\n", args[0], err)
	}
	return code
}

// run starts the unit and returns when it is not active any more, or is told to
// end, which does not stop the unit: that is for stop.
func run(ctx context.Context, name string, stdout io.Writer) (int, error) {
	s, err := dial(ctx)
	if err != nil {
		return exitFailed, err
	}
	defer s.close()
	st, err := s.state(ctx, name)
	if err == nil {
		err = st.fit(name)
	}
	if err == nil {
		err = writeEnvironment(name)
	}
	if err == nil {
		_, err = s.conn.StartUnitContext(ctx, name, "fail", nil)
	}
	if err != nil {
		return exitFailed, err
	}
	fmt.Fprintf(stdout, "%s: started by systemd; its output: journalctl -u %s\n", name, name)
	for {
		select {
		case <-ctx.Done():
			return exitRuns, nil
		case <-time.After(look):
		}
		st, err := s.state(ctx, name)
		switch {
		case ctx.Err() != nil:
			return exitRuns, nil
		case err != nil: // systemd may be starting anew; the probe tells whether the unit lives
			return exitFailed, err
		case st.down():
			return st.exit(), nil
		}
	}
}

// exit is the exit code that stands for the end of a unit.
func (s state) exit() int {
	const exited, killed, dumped = 1, 2, 3 // si_code of waitid(2)
	switch {
	case s.result == "success" && s.active != "failed":
		return 0
	case s.code == exited && s.status != 0:
		return int(s.status)
	case s.code == killed, s.code == dumped:
		return 128 + int(s.status)
	}
	return exitFailed
}

// writeEnvironment keeps this process' HA_ variables for the unit.
func writeEnvironment(name string) error {
	var b strings.Builder
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "HA_") && !strings.ContainsAny(v, "\n\"\\") {
			fmt.Fprintf(&b, "%s=\"%s\"\n", k, v)
		}
	}
	path := filepath.Join(EnvironmentDir, name+".env")
	err := os.MkdirAll(EnvironmentDir, 0o755) //nolint:gosec // the service may be another user
	if err == nil {
		err = os.WriteFile(path+".tmp", []byte(b.String()), 0o644) //nolint:gosec // no secret
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("write what the unit is told of its term: %w", err)
	}
	return nil
}

// stop stops the unit and waits until nothing of it is alive. After the time
// given, and to what is left when systemd calls it inactive, it sends KILL.
func stop(ctx context.Context, name string, after time.Duration) (int, error) {
	s, err := dial(ctx)
	if err != nil {
		return exitFailed, err
	}
	defer s.close()
	if st, err := s.state(ctx, name); err == nil && !st.down() {
		// "replace": what was to be done to it before is over.
		if _, err := s.conn.StopUnitContext(ctx, name, "replace", nil); err != nil {
			return exitFailed, fmt.Errorf("stop %s: %w", name, err)
		}
	}
	began := time.Now()
	for {
		st, err := s.state(ctx, name)
		if err != nil {
			return exitFailed, err
		}
		gone, detail, err := s.gone(ctx, name)
		switch {
		case gone:
			return 0, nil
		case ctx.Err() != nil:
			return exitFailed, fmt.Errorf("%s is not stopped: %s", name, detail)
		case err != nil:
			return exitFailed, err
		case st.down() || time.Since(began) >= after:
			// No process to kill: it is gone, which is seen at the next look.
			_ = s.conn.KillUnitWithTarget(ctx, name, dbus.All, int32(unix.SIGKILL))
		}
		select {
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
}

// ready tells whether the unit has started: by systemd's word, which knows from
// Type= what that means.
func ready(ctx context.Context, name string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s, err := dial(ctx)
	if err != nil {
		return exitFailed, err
	}
	defer s.close()
	st, err := s.state(ctx, name)
	if err == nil && (st.active != "active" || st.job) {
		err = fmt.Errorf("%s is %s", name, st.active)
	}
	if err != nil {
		return exitFailed, err
	}
	return 0, nil
}

// probe asks twice: a request of another process that systemd had not read at
// the first question is known at the second.
func probe(ctx context.Context, name string, stdout io.Writer) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s, err := dial(ctx)
	if err != nil {
		return exitFailed, err
	}
	defer s.close()
	for range 2 {
		gone, detail, err := s.gone(ctx, name)
		switch {
		case err != nil:
			return exitFailed, err
		case ctx.Err() != nil:
			return exitFailed, errors.New("systemd does not answer in time")
		case !gone:
			fmt.Fprintln(stdout, name+": "+detail)
			return exitRuns, nil
		}
		time.Sleep(look)
	}
	return exitStopped, nil
}
