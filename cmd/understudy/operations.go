package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// operationFlags are those of commands that ask for an operation.
type operationFlags struct {
	to, at, reason, ttl, holdOff string
	dryRun, wait, force          bool
	timeout                      time.Duration
}

func (f *operationFlags) addTo(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.reason, "reason", "", "one `line` for history and logs")
	fl.BoolVar(&f.dryRun, "dry-run", false, "only say whether it would be done, and every reason why not")
	fl.BoolVar(&f.wait, "wait", true, "wait until it has ended")
	fl.DurationVar(&f.timeout, "timeout", 2*time.Minute, "of waiting; it goes on, exit code 6")
}

// targetTo adds the flags of those that have a target, or something to override;
// the words describe them, empty: none.
func (f *operationFlags) targetTo(cmd *cobra.Command, to, force string) {
	if to != "" {
		cmd.Flags().StringVar(&f.to, "to", "", to)
	}
	if force != "" {
		cmd.Flags().BoolVar(&f.force, "force", false, force)
	}
}

func newSwitchoverCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Hand the mastership over, now or at a given time",
		Long: `Hand the mastership over to the node named, or to the best candidate. The master
drains and stops its service, and the target claims at once. If it does not
within ha.takeoverTimeout, others may, the old master included; that is told as
a rollback, with exit code 1.

Any node takes the request, also one that reaches the others through the store
alone. It is kept there: neither the end of that node nor of the master loses it.`,
		Example: `  understudy switchover --to n3abcdef --reason "new kernel"
  understudy switchover --at 03:30 --reason "nightly"
  understudy switchover --dry-run`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.operate(cmd, &f, "switchover", "") },
	}
	f.addTo(cmd)
	f.targetTo(cmd, "the `node` that is to be master (default: the best candidate)", "although something speaks against the target")
	cmd.Flags().StringVar(&f.at, "at", "", "not before this `time`: 2030-01-02T15:04:05Z, 15:04 or +10m")
	cmd.AddCommand(newSwitchoverCancelCommand(g))
	return cmd
}

func newSwitchoverCancelCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel",
		Short: "Cancel the switchover that is planned",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				op, err := c.Planned(cmd.Context())
				if err == nil {
					err = c.CancelPlanned(cmd.Context())
				}
				if err != nil {
					return err
				}
				return g.print(cmd, op, func(s *screen) { s.printf("cancelled %s %s\n", op.Kind, op.ID) })
			})
		},
	}
}

func newFailoverCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "Make another node master when the master is bad, or gone",
		Long: `Ask a master that is there to step down; where there is none, the node named
claims first once the lease has ended. --force skips what speaks against the
target (its health, maintenance, the preSwitchover hook), never the lease: two
masters it can not make.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.operate(cmd, &f, "failover", "") },
	}
	f.addTo(cmd)
	f.targetTo(cmd, "the `node` that is to be master", "although something speaks against the target; never before the lease has ended")
	return cmd
}

func newStepDownCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "step-down",
		Short: "Have the master leave, and keep it from coming back for a while",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return g.operate(cmd, &f, "step-down", "") },
	}
	f.addTo(cmd)
	f.targetTo(cmd, "", "although nobody could take over")
	cmd.Flags().StringVar(&f.holdOff, "hold-off", "", "the old master is not electable for so `long` (default 60s)")
	return cmd
}

func newPromoteCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "promote [NODE]",
		Short: "Hand the mastership to a node: the one that is asked, unless another is named",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _, err := g.which(cmd.Context(), args)
			if err != nil {
				return err
			}
			f.to = id
			return g.operate(cmd, &f, "switchover", "")
		},
	}
	f.addTo(cmd)
	f.targetTo(cmd, "", "although something speaks against it")
	return cmd
}

func newDemoteCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "demote [NODE]",
		Short: "Have a node leave the mastership, if it has it",
		Long: `As step-down, but only if the node is the master: the one that is asked, unless
another is named. Exit code 3 if it is not.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, p, err := g.which(cmd.Context(), args)
			if err != nil {
				return err
			}
			if deref(p.LeaderID) != id {
				return exitf(exitPrecondition, "%s is not master; understudy states says who is", id)
			}
			return g.operate(cmd, &f, "step-down", "")
		},
	}
	f.addTo(cmd)
	f.targetTo(cmd, "", "although nobody could take over")
	return cmd
}

func newPauseCommand(g *globals) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Switch automatic moves off, plane-wide: nobody takes over until resume",
		Long: `Nobody takes over, also not from a master that dies, until resume or the end of
--ttl. Operators may still move the mastership. A paused master that loses the
store stops its service all the same.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.operate(cmd, &f, "pause", "") },
	}
	f.addTo(cmd)
	cmd.Flags().StringVar(&f.ttl, "ttl", "", "it ends by itself after this `time` (default: never)")
	return cmd
}

// newPlainCommand is one of those that only say something to the plane.
func newPlainCommand(g *globals, kind, short string) *cobra.Command {
	var f operationFlags
	cmd := &cobra.Command{
		Use: kind, Short: short, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.operate(cmd, &f, kind, "") },
	}
	f.addTo(cmd)
	return cmd
}

func newResumeCommand(g *globals) *cobra.Command {
	return newPlainCommand(g, "resume", "Switch automatic moves on again")
}

func newAckCommand(g *globals) *cobra.Command {
	return newPlainCommand(g, "ack", "Let the plane move by itself again after it moved too often")
}

func newMaintenanceCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "maintenance",
		Short: "Keep a node from being master, or let it be again",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	var f operationFlags
	on := &cobra.Command{
		Use:   "on [NODE]",
		Short: "Keep a node from being master; a master hands over first",
		Long: `The node is the one that is asked, unless another is named. It stands until
"maintenance off" or the end of --ttl, over restarts too.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _, err := g.which(cmd.Context(), args)
			if err != nil {
				return err
			}
			return g.operate(cmd, &f, "maintenance", id)
		},
	}
	f.addTo(on)
	f.targetTo(on, "", "although it is master and nobody could take over")
	on.Flags().StringVar(&f.ttl, "ttl", "", "it ends by itself after this `time` (default: never)")
	off := &cobra.Command{
		Use:   "off [NODE]",
		Short: "Let a node be master again",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _, err := g.which(cmd.Context(), args)
			if err != nil {
				return err
			}
			return g.withClient(func(c *client.Client) error { return c.EndMaintenance(cmd.Context(), id) })
		},
	}
	cmd.AddCommand(on, off)
	return cmd
}

// withClient gives f a client.
func (g *globals) withClient(f func(*client.Client) error) error {
	c, err := g.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// which is the node that an argument names, or the one that answers.
func (g *globals) which(ctx context.Context, args []string) (id string, p v1.PlaneStates, err error) {
	err = g.withClient(func(c *client.Client) error {
		if p, err = c.States(ctx); err != nil {
			return err
		}
		id = p.OwnID
		if len(args) > 0 {
			id = args[0]
		}
		return nil
	})
	return id, p, err
}

// operate asks for an operation, and shows how it goes until it has ended.
func (g *globals) operate(cmd *cobra.Command, f *operationFlags, kind, node string) error {
	at, err := parseAt(f.at, time.Now())
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"--ttl": f.ttl, "--hold-off": f.holdOff} {
		if _, err := time.ParseDuration(cmp.Or(text, "1s")); err != nil {
			return usagef("%s: %q is not a duration; write e.g. 30s or 10m", name, text)
		}
	}
	now := false // the command waits by itself, to show how it goes
	r := v1.OperationRequest{
		To: f.to, At: at, Reason: f.reason, DryRun: f.dryRun, Wait: &now, HoldOff: f.holdOff, TTL: f.ttl, Force: f.force,
	}
	return g.withClient(func(c *client.Client) error {
		op, err := c.Operate(cmd.Context(), kind, node, r)
		if err != nil {
			return err
		}
		if f.wait && at == nil && !f.dryRun {
			if op, err = follow(cmd.Context(), c, op, f.timeout, cmd.ErrOrStderr()); err != nil {
				return err
			}
		}
		if err := g.print(cmd, op, func(s *screen) { drawOperation(s, op) }); err != nil {
			return err
		}
		return operationExit(op)
	})
}

// operationExit is what the end of an operation is to scripts.
func operationExit(op v1.Operation) error {
	switch ha.OperationState(op.State) {
	case ha.OpFailed:
		return silently(exitPrecondition)
	case ha.OpRolledBack, ha.OpCancelled:
		return silently(exitFailed)
	case ha.OpAccepted, ha.OpScheduled, ha.OpRunning, ha.OpDone, ha.OpDryRun:
	}
	return nil
}

// parseAt reads when a switchover is to be: a time, a time of the day, or a
// while from now. nil: at once.
func parseAt(text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if in, ok := strings.CutPrefix(text, "+"); ok {
		if d, err := time.ParseDuration(in); err == nil {
			at := now.Add(d)
			return &at, nil
		}
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return &at, nil
	}
	if clock, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = at.AddDate(0, 0, 1)
		}
		return &at, nil
	}
	return nil, usagef("--at %q: write 2030-01-02T15:04:05Z, 15:04 or +10m", text)
}

// pace is how often the end of an operation is asked for.
const pace = 200 * time.Millisecond

// follow waits for the end of an operation and shows on a terminal how it goes.
func follow(ctx context.Context, c *client.Client, op v1.Operation, limit time.Duration, w io.Writer) (v1.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	live := &liveLine{w: w, on: isTerminal(w), began: time.Now()}
	defer live.end()
	id := op.ID
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		live.show(op)
		if (&ha.Operation{Kind: ha.OperationKind(op.Kind), State: ha.OperationState(op.State)}).Settled() {
			return op, nil
		}
		select {
		case <-ctx.Done():
			return op, exitf(exitTimeout, "the %s still goes on after %s; see GET /v1/server/ha/operations/%s, or wait longer with --timeout", op.Kind, limit, id)
		case <-tick.C:
		}
		next, err := c.Operation(ctx, id)
		switch {
		case err == nil:
			op = next
		case ctx.Err() != nil: // said above
		case !transient(err) && !gone(err):
			return op, err
		}
	}
}

// gone reports whether the node that answered does not know the operation: one
// that was just started may not have read it yet.
func gone(err error) bool {
	var refused *client.StatusError
	return errors.As(err, &refused) && refused.Code == 404
}

// liveLine is one line of a terminal that tells how an operation goes.
type liveLine struct {
	w     io.Writer
	on    bool
	began time.Time
}

func (l *liveLine) show(op v1.Operation) {
	if l.on {
		_, _ = fmt.Fprintf(l.w, "\r\x1b[K%s %s: %s  %s", op.Kind, printable(deref(op.To)), op.State, time.Since(l.began).Round(100*time.Millisecond))
	}
}

func (l *liveLine) end() {
	if l.on {
		_, _ = io.WriteString(l.w, "\r\x1b[K")
	}
}

// drawOperation says in a few lines what has become of an operation.
func drawOperation(s *screen, op v1.Operation) {
	what := op.Kind
	if op.To != nil {
		what += " to " + *op.To
	}
	if op.Node != nil {
		what += " of " + *op.Node
	}
	switch ha.OperationState(op.State) {
	case ha.OpDryRun:
		s.printf("%s: would be done\n", printable(what))
		return
	case ha.OpScheduled, ha.OpAccepted:
		s.printf("%s: %s as %s\n", printable(what), op.State, op.ID)
		if op.At != nil {
			s.printf("not before %s; cancel it with understudy switchover cancel\n", op.At.Local().Format(time.DateTime))
		}
		return
	case ha.OpRunning:
		s.printf("%s: in force\n", printable(what))
		if op.Until != nil {
			s.printf("until %s\n", op.Until.Local().Format(time.DateTime))
		}
		return
	case ha.OpDone, ha.OpFailed, ha.OpRolledBack, ha.OpCancelled:
	}
	s.printf("%s: %s\n", printable(what), op.State)
	for _, r := range op.Reasons {
		s.printf("  %s\n", printable(r))
	}
	if p := op.PhasesMs; op.State == string(ha.OpDone) && op.Master != nil && p != (v1.OperationPhases{}) {
		s.printf("%s is master in term %d\n", *op.Master, op.Term)
		s.table([][]cell{
			plainCells("VETO", "DRAINED", "STOPPED", "RELEASED", "CLAIMED", "STARTED", "READY"),
			plainCells(words(p.Veto), words(p.Drained), words(p.Stopped), words(p.Released), words(p.Claimed), words(p.Started), words(p.Ready)),
		})
	}
}
