package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/pkg/transfer"
)

// moved is what copy-state and import say with -o json.
type moved struct {
	To        string `json:"to"`
	PlaneID   string `json:"planeId"`
	Term      uint64 `json:"term"`
	NewPlane  bool   `json:"newPlane"`
	Keys      int    `json:"keys"`
	Artifacts int    `json:"artifacts"`
	Digest    string `json:"digest"`
}

func newCopyStateCommand(g *globals) *cobra.Command {
	var from, to, fromFiles, toFiles string
	var replace bool
	cmd := &cobra.Command{
		Use:   "copy-state --from LOCATION --to LOCATION",
		Short: "Copy what a plane persists, keys and artifacts, to another place and kind of store",
		Long: `Copy what a plane persists, keys and artifacts, to another place, on whatever
kind of store: a path, file://, s3:// or hdfs://. The source is only read; its
nodes may go on, and what they change meanwhile is not copied. Everything is
read back and compared before the copy counts, in one instant; until then the
destination is as it was.

The destination is an empty location, in which a plane is made, or one whose
nodes are all stopped: it holds their register meanwhile, and refuses if any of
them shows a sign of life. Its terms go on above the source's, so that fencing
tokens never go back. Nodes that are to move take the new persistenceDir, and
'understudy forget-plane PLANE', because the plane is another one.`,
		Example: "  understudy copy-state --from /mnt/understudy --to s3://planes/prod?region=eu-west-1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return usagef("copy-state wants --from and --to; see understudy copy-state --help")
			}
			src, files, err := g.openPlane(cmd, from, fromFiles)
			if err != nil {
				return err
			}
			defer func() { _ = src.Close(); _ = files.Close() }() // they were only read
			c, err := transfer.Read(cmd.Context(), src.Store, files, readLimit)
			if err != nil {
				return err
			}
			for _, d := range c.Damages {
				cmd.PrintErrf("understudy: warning: damaged and done without: %s\n", d)
			}
			m, err := g.deposit(cmd, c, destination{to, toFiles, replace, src.loc.String()})
			if err != nil {
				return err
			}
			return g.print(cmd, m, m.draw)
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the `location` to copy")
	f.StringVar(&to, "to", "", "the `location` to copy to")
	f.StringVar(&fromFiles, "artifacts-from", "", "the `location` of the source's artifacts, if not in --from")
	f.StringVar(&toFiles, "artifacts-to", "", "the `location` for the destination's artifacts, if not in --to")
	f.BoolVar(&replace, "replace", false, "drop the keys and artifacts that the destination holds already")
	return cmd
}

func (m moved) draw(s *screen) {
	s.printf("%d keys and %d artifacts are in %s, verified: sha256 %s\n", m.Keys, m.Artifacts, m.To, m.Digest)
	if m.NewPlane {
		s.printf("plane %s was made there, at term %d; nodes of another plane need 'understudy forget-plane PLANE' to move\n", m.PlaneID, m.Term)
		return
	}
	s.printf("plane %s goes on above term %d; start its nodes\n", m.PlaneID, m.Term)
}

// destination is where content goes.
type destination struct {
	location, files string
	replace         bool
	source          string // which it must not be; empty: any
}

// deposit puts content into a location whose register it holds meanwhile.
func (g *globals) deposit(cmd *cobra.Command, c *transfer.Content, to destination) (m moved, err error) {
	ctx := cmd.Context()
	dst, files, err := g.openPlane(cmd, to.location, to.files)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, dst.Close(), files.Close()) }()
	if dst.loc.String() == to.source {
		return m, usagef("%s--from and --to are the same location", of(cmd))
	}
	for _, s := range []persistence.Store{dst.Store, files} {
		if err := fit(ctx, s); err != nil {
			return m, err
		}
	}
	t, err := dst.timing()
	if err != nil {
		return m, err
	}
	bar := newProgress(cmd.ErrOrStderr())
	d := ha.Disaster{
		Actor: operatorName(), Lease: t.Timeout, Operation: readLimit, Clock: clock.Now, Answers: answers,
		Watching: func(done, total time.Duration) {
			bar.at("watching for signs of life", int(done/time.Millisecond), int(total/time.Millisecond))
		},
	}
	held, err := d.Hold(ctx, dst.Store, c.Term)
	bar.end()
	if err != nil {
		return m, err
	}
	head, err := writeHeld(cmd, held, c, dst, files, to.replace)
	if err != nil {
		why := "nothing was changed: " + err.Error()
		if rerr := held.Release(context.WithoutCancel(ctx), held.Old, why); rerr != nil {
			err = fmt.Errorf("%w (and the register stays held until a lease is over: %w)", err, rerr)
		}
		return m, err
	}
	if err := held.Release(context.WithoutCancel(ctx), head, of(cmd)+"done"); err != nil {
		return m, err
	}
	v := held.Value
	return moved{
		To: dst.loc.String(), PlaneID: string(v.Plane), Term: uint64(v.Term), NewPlane: held.Made,
		Keys: c.Keys(), Artifacts: len(c.Artifacts), Digest: c.Digest(),
	}, nil
}

// fit refuses a location that can not be written to.
func fit(ctx context.Context, s persistence.Store) error {
	c, ok := s.(persistence.Checker)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return c.Check(ctx)
}

// writeHeld writes and verifies while the register is renewed.
func writeHeld(cmd *cobra.Command, held *ha.Held, c *transfer.Content, dst *openPlace, files persistence.Store, replace bool) (lease.Head, error) {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		if err := held.Keep(ctx); err != nil {
			cancel(err)
		}
	}()
	defer func() { cancel(nil); <-kept }()
	if held.Old.Rand != "" && !replace {
		have, err := transfer.Read(ctx, dst.Store, files, readLimit)
		if err != nil {
			return lease.Head{}, err
		}
		if n := have.Keys() + len(have.Artifacts); n > 0 {
			return lease.Head{}, exitf(exitUnsafe, "%s holds %d keys and artifacts already; --replace drops them", dst.loc, n)
		}
	}
	bar := newTransfer(cmd.ErrOrStderr(), "copying", 1)
	defer bar.end()
	head, err := transfer.Target{
		Store: dst.Store, Files: files, Plane: held.Value.Plane, Term: held.Value.Term, Old: held.Old,
		Limit: readLimit, Now: time.Now, Told: bar.at,
	}.Write(ctx, c)
	if cause := context.Cause(ctx); err != nil && cause != nil && cmd.Context().Err() == nil {
		err = cause // the register was lost
	}
	return head, err
}
