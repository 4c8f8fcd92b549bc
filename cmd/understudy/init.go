package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// initTimeout bounds each of the operations of init: a person waits.
const initTimeout = 15 * time.Second

// made is what `init -o json` says.
type made struct {
	PlaneID  string `json:"planeId"`
	Location string `json:"location"`
}

func newInitCommand(g *globals) *cobra.Command {
	var location string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a plane in an empty location, free for the first node to claim",
		Long: `Make a plane in an empty location: its register, at term 0, released. The first
node to start may then claim it at once, without waiting out a lease. Nothing
is ever overwritten: a location that holds anything is refused.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loc, length, err := g.whereToInit(location)
			if err != nil {
				return err
			}
			plane, err := initPlane(cmd.Context(), cmd.ErrOrStderr(), loc, length)
			if err != nil {
				return err
			}
			return g.print(cmd, made{PlaneID: string(plane), Location: loc.String()}, func(s *screen) {
				s.printf("plane %s made in %s; start the nodes: understudy server\n", plane, loc)
			})
		},
	}
	cmd.Flags().StringVar(&location, "location", "", "`place` all nodes share: a path or file:///path (default: the configuration's persistenceDir)")
	return cmd
}

// whereToInit returns the location and the lease that the register's first
// line names; a released value's lease binds nobody.
func (g *globals) whereToInit(location string) (config.Location, time.Duration, error) {
	src := config.Sources{}
	if location == "" {
		flags := configFlags{}
		var err error
		if src, _, err = flags.sources(g.configPath()); err != nil {
			return config.Location{}, 0, err
		}
	}
	conf, _, err := config.Read(src)
	if err != nil {
		return config.Location{}, 0, err
	}
	if location != "" {
		conf.PersistenceDir = location
	}
	loc, err := conf.Location()
	if errors.Is(err, config.ErrNoLocation) {
		return loc, 0, usagef("no location: give --location, or --config with a persistenceDir")
	}
	if err != nil {
		return loc, 0, usagef("location %w", err)
	}
	if loc.Scheme == "" {
		return loc, 0, usagef("persistMode is DISABLED: there is no location to make a plane in")
	}
	t, err := election.Derive(conf.TimingRequest(0, loc.PollDivisor()))
	return loc, t.Timeout, err
}

// initPlane is the operator's birth of a plane (R0): the register at term 0,
// released, with a random plane id.
func initPlane(ctx context.Context, stderr io.Writer, loc config.Location, length time.Duration) (lease.PlaneID, error) {
	store, err := openStore(loc, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = store.Close() }()
	bounded := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, initTimeout)
		defer cancel()
		return f(ctx)
	}
	if c, ok := store.(persistence.Checker); ok {
		if err := bounded(c.Check); err != nil {
			return "", err
		}
	}
	if err := bounded(func(ctx context.Context) error { return refuseExisting(ctx, store, loc) }); err != nil {
		return "", err
	}
	value := lease.Value{
		Plane:   ha.NewPlaneID(),
		Lease:   length,
		WriteID: ha.NewWriteID(),
	}
	err = bounded(func(ctx context.Context) error { return store.Init(ctx, value.Encode()) })
	if err != nil {
		if err = settleInit(ctx, store, loc, value, err); err != nil {
			return "", err
		}
	}
	limits := store.Limits()
	for _, w := range limits.Warnings {
		fmt.Fprintf(stderr, "understudy: warning: %s\n", oneLine(w))
	}
	if limits.Local {
		fmt.Fprintf(stderr, "understudy: warning: %s is local to this machine (%s): no other machine sees it, so nodes elsewhere can not take over\n", loc, limits.LocalWhy)
	}
	return value.Plane, nil
}

// refuseExisting returns an error unless the location is wholly empty.
func refuseExisting(ctx context.Context, store persistence.Store, loc config.Location) error {
	snap, err := store.Read(ctx)
	switch {
	case err == nil:
		what := "a register that can not be read"
		if v, perr := lease.ParseValue(snap.Value); perr == nil {
			what = fmt.Sprintf("plane %s at term %d", v.Plane, v.Term)
		}
		return exitf(exitPrecondition, "%s holds %s already; start nodes on it, or give another location", loc, what)
	case errors.Is(err, persistence.Torn):
		return exitf(exitPrecondition, "%s holds a register that can not be read (%w); nothing was changed", loc, err)
	case !errors.Is(err, persistence.Absent):
		return err
	}
	empty, err := store.Empty(ctx)
	if err != nil {
		return err
	}
	if !empty {
		return exitf(exitPrecondition, "%s is not empty; a plane needs a directory of its own: give another location, or move away what is in it", loc)
	}
	return nil
}

// settleInit finds out what became of an Init that failed (R5): the line that
// is there tells who made it.
func settleInit(ctx context.Context, store persistence.Store, loc config.Location, mine lease.Value, initErr error) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	snap, err := store.Read(ctx)
	if err != nil {
		return fmt.Errorf("make the register in %s: %w", loc, initErr)
	}
	v, err := lease.ParseValue(snap.Value)
	if err == nil && v.Plane == mine.Plane {
		return nil // ours, perhaps claimed by a node since
	}
	if err == nil {
		return exitf(exitPrecondition, "%s: plane %s was made there at the same moment by somebody else; start nodes on it", loc, v.Plane)
	}
	return fmt.Errorf("make the register in %s: %w", loc, initErr)
}
