package fence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// Runner runs a command that belongs to no term, see guard.RunApart.
type Runner func(ctx context.Context, a guard.Aux) guard.Event

// grace is what a command may need, beyond its timeout, to be killed.
const grace = 5 * time.Second

// Command is the method that runs a command of this machine: exit code 0 means
// that it is done. Its arguments may hold {host}, {node} and {term}; the same
// and more is in its environment, as FENCE_HOST and so on.
func Command(argv, env []string, run Runner) func(context.Context, ha.FenceTarget, string) (string, error) {
	return func(ctx context.Context, old ha.FenceTarget, host string) (string, error) {
		term := strconv.FormatUint(uint64(old.Term), 10)
		fill := strings.NewReplacer("{host}", host, "{node}", string(old.Node), "{term}", term)
		args := make([]string, len(argv))
		for i, a := range argv {
			args[i] = fill.Replace(a)
		}
		return execute(ctx, args, append(slices.Clip(env),
			"FENCE_HOST="+host, "FENCE_NODE="+string(old.Node), "FENCE_TERM="+term,
			"FENCE_PLANE="+string(old.Plane), "FENCE_BY="+string(old.By)), run)
	}
}

// SSH is the method that runs a command on the machine itself, by ssh(1), as a
// user ("": that of ssh) with a private key ("": those of ssh). It never asks for
// anything, and knows a host whose key it was told.
func SSH(user, keyFile string, command, env []string, run Runner) func(context.Context, ha.FenceTarget, string) (string, error) {
	return func(ctx context.Context, _ ha.FenceTarget, host string) (string, error) {
		if strings.HasPrefix(host, "-") {
			return "", fmt.Errorf("%q is no host", host)
		}
		args := []string{"ssh", "-oBatchMode=yes", "-oConnectTimeout=10", "-oStrictHostKeyChecking=yes"}
		if keyFile != "" {
			args = append(args, "-oIdentitiesOnly=yes", "-i", keyFile)
		}
		if user != "" {
			args = append(args, "-l", user)
		}
		return execute(ctx, append(append(args, host, "--"), command...), env, run)
	}
}

// execute runs a command to its end, or to ctx's.
func execute(ctx context.Context, argv, env []string, run Runner) (string, error) {
	limit := time.Hour // ctx ends sooner
	if at, ok := ctx.Deadline(); ok {
		limit = time.Until(at) + grace
	}
	e := run(ctx, guard.Aux{Argv: argv, Env: env, Timeout: limit})
	said := oneLine(e.Output)
	switch {
	case e.Kind != guard.AuxEnded:
		return "", errors.New(e.Why)
	case e.TimedOut || ctx.Err() != nil:
		return "", fmt.Errorf("%s was killed: %s", argv[0], said)
	case e.Exit != 0 && e.Why != "":
		return "", errors.New(e.Why)
	case e.Exit != 0:
		return "", fmt.Errorf("%s ended with exit code %d: %s", argv[0], e.Exit, said)
	case said == "":
		said = argv[0] + " says so"
	}
	return said, nil
}
