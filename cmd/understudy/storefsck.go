package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fsckReport is what `store fsck -o json` says.
type fsckReport struct {
	URL     string                `json:"url"`
	Clean   bool                  `json:"clean"`
	Checks  []persistence.Finding `json:"checks"`
	Removed []string              `json:"removed"` // scratch areas
}

func newStoreFsckCommand(g *globals) *cobra.Command {
	var (
		remove    bool
		olderThan time.Duration
	)
	cmd := &cobra.Command{
		Use:   "fsck LOCATION",
		Short: "Read everything in a location and report what is wrong with it",
		Long: `Read everything in a location and report what is wrong with it: the register,
the nodes' records, the history, every segment and snapshot of the persisted
state, what was left behind and what does not belong
there. It repairs nothing. With --remove-scratch it removes scratch areas that
checks of the store have left behind, and nothing else.

Exit codes: 0 nothing found, 1 something to look at, 4 the store did not answer.`,
		Args: storeArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if olderThan < 0 {
				return usagef("--older-than %s is below 0", olderThan)
			}
			p, err := g.openArg(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = p.Close() }()
			c, err := ha.ReadContents(cmd.Context(), p.Store, readLimit)
			if err != nil {
				return err
			}
			r := fsckReport{URL: p.Limits().URL, Removed: []string{}}
			if remove {
				if err := r.removeScratch(cmd.Context(), p.Store, c, olderThan); err != nil {
					return err
				}
			}
			if err := r.check(cmd.Context(), p.Store, c); err != nil {
				return err
			}
			if err := g.print(cmd, r, r.draw); err != nil {
				return err
			}
			if !r.Clean {
				return silently(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&remove, "remove-scratch", false, "remove scratch areas that checks have left behind")
	cmd.Flags().DurationVar(&olderThan, "older-than", time.Hour, "how `old` a scratch area must be to be removed; a check may be under way in a younger one")
	return cmd
}

// removeScratch removes what checks left behind, and takes it out of c.
func (r *fsckReport) removeScratch(ctx context.Context, store persistence.Store, c *ha.Contents, olderThan time.Duration) error {
	var kept []persistence.Entry
	for _, e := range c.Scratch {
		if !strings.HasPrefix(e.Name, verify.ScratchPrefix) || time.Since(e.Modified) < olderThan {
			kept = append(kept, e)
			continue
		}
		sub, err := store.Sub(e.Name)
		if err != nil {
			return err
		}
		rctx, cancel := context.WithTimeout(ctx, 10*readLimit)
		err = sub.RemoveAll(rctx)
		cancel()
		if err != nil {
			return fmt.Errorf("remove %s: %w", e.Name, err)
		}
		r.Removed = append(r.Removed, e.Name)
	}
	c.Scratch = kept
	return nil
}

func (r *fsckReport) add(name string, g persistence.Grade, remedy, format string, args ...any) {
	r.Checks = append(r.Checks, persistence.Finding{Name: name, Status: g, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (r *fsckReport) check(ctx context.Context, store persistence.Store, c *ha.Contents) error {
	r.checkRegister(c)
	r.checkNodes(c)
	r.checkHistory(c)
	if err := r.checkState(ctx, store, c); err != nil {
		return err
	}
	r.checkRest(c, store.Limits().Warnings)
	r.Clean = !slices.ContainsFunc(r.Checks, func(f persistence.Finding) bool { return f.Status != persistence.GradeOK })
	return nil
}

const repairRemedy = "stop every node, then: understudy store repair LOCATION --min-term %d --plane PLANE"

func (r *fsckReport) checkRegister(c *ha.Contents) {
	const name = "register"
	x := c.Register
	switch {
	case x.Err == nil:
		v := x.Value
		who := map[bool]string{true: "held by ", false: "released by "}[v.Held] + string(v.Holder)
		if v.Holder == "" {
			who = map[bool]string{true: "held by nobody", false: "released, never claimed"}[v.Held]
		}
		r.add(name, persistence.GradeOK, "", "plane %s, term %d, sequence %d, %s", v.Plane, v.Term, v.Seq, who)
	case errors.Is(x.Err, persistence.Absent) && len(c.Nodes)+len(c.History) == 0:
		r.add(name, persistence.GradeFail, "check the location and that it is mounted; 'understudy init' makes a new plane in an empty one", "there is none, nor anything else of a plane")
	case errors.Is(x.Err, persistence.Absent):
		r.add(name, persistence.GradeFail, fmt.Sprintf(repairRemedy, c.HighestTerm()+1), "it is gone, and there is more of the plane here; nobody can be master")
	default:
		var parts []string
		for _, p := range x.Parts {
			parts = append(parts, fmt.Sprintf("%.200q", p))
		}
		there := ""
		if len(parts) > 0 {
			there = "; in its place: " + strings.Join(parts, ", ")
		}
		r.add(name, persistence.GradeFail, fmt.Sprintf(repairRemedy, c.HighestTerm()+1), "it can not be read, so nobody can be master: %s%s", x.Err, there)
	}
}

func (r *fsckReport) checkNodes(c *ha.Contents) {
	const name = "nodes"
	bad, ahead := 0, 0
	for _, n := range c.Nodes {
		switch {
		case n.Err != nil:
			bad++
			r.add(name, persistence.GradeWarn, "it counts for nothing; the node writes it anew, remove it if there is no such node", "%s can not be read: %s", n.Key, n.Err)
		case c.Register.Err == nil && n.Value.Term > c.Register.Value.Term:
			ahead++
			r.add(name, persistence.GradeFail, "the store has been rolled back, e.g. from a backup; the nodes go on at a higher term by themselves, look for other things that went back",
				"%s has seen term %d, the register is at term %d", n.Value.Node, n.Value.Term, c.Register.Value.Term)
		}
	}
	if bad+ahead == 0 {
		r.add(name, persistence.GradeOK, "", "%d records", len(c.Nodes))
	}
}

func (r *fsckReport) checkHistory(c *ha.Contents) {
	const name = "history"
	before := len(r.Checks)
	var newest, open lease.Term
	for _, h := range c.History {
		if h.Err != nil {
			r.add(name, persistence.GradeWarn, "it is for people only; remove it if it is in the way", "%s can not be read: %s", h.Key, h.Err)
			continue
		}
		newest = max(newest, h.Value.Term)
		if h.Value.To == nil {
			open = max(open, h.Value.Term)
		}
	}
	if reg := c.Register; reg.Err == nil && newest > reg.Value.Term {
		r.add(name, persistence.GradeFail, "the store has been rolled back, e.g. from a backup; the nodes go on at a higher term by themselves, look for other things that went back",
			"it tells of term %d, the register is at term %d", newest, reg.Value.Term)
	}
	if len(r.Checks) > before {
		return
	}
	words := fmt.Sprintf("%d reigns", len(c.History))
	if open > 0 {
		words += fmt.Sprintf(", that of term %d not ended", open)
	}
	r.add(name, persistence.GradeOK, "", "%s", words)
}

// checkRest looks at what is neither register, node nor history.
func (r *fsckReport) checkRest(c *ha.Contents, warnings []string) {
	for _, q := range c.Requests {
		if q.Err != nil {
			r.add("requests", persistence.GradeWarn, "the master drops it", "%s can not be read: %s", q.Key, q.Err)
		}
	}
	if c.View != nil && c.View.Err != nil {
		r.add("view", persistence.GradeWarn, "the master writes it anew", "it can not be read: %s", c.View.Err)
	}
	for _, e := range c.Scratch {
		switch old := time.Since(e.Modified).Round(time.Second); {
		case strings.HasPrefix(e.Name, ".repair-"):
			r.add("aside", persistence.GradeWarn, "remove it once it is of no more use", "%s: what a repair has found in the place of the register", e.Name)
		case strings.HasPrefix(e.Name, verify.ScratchPrefix) && old >= time.Hour:
			r.add("scratch", persistence.GradeWarn, "understudy store fsck LOCATION --remove-scratch", "%s: left behind by a check of the store %s ago", e.Name, old)
		case strings.HasPrefix(e.Name, ".tmp-"), strings.HasPrefix(e.Name, ".init-"), strings.HasPrefix(e.Name, ".check-"):
			if old >= time.Hour {
				r.add("scratch", persistence.GradeWarn, "remove it", "%s: a write that was cut off %s ago", e.Name, old)
			}
		}
	}
	for _, f := range c.Foreign {
		r.add("foreign", persistence.GradeWarn, "keep a plane's location to itself: move it away, unless a newer version wrote it", "%s is not of this version's making", f)
	}
	for _, w := range warnings {
		r.add("location", persistence.GradeWarn, "", "%s", w)
	}
}

func (r fsckReport) draw(s *screen) {
	drawFindings(s, r.Checks)
	for _, n := range r.Removed {
		s.printf("removed %s\n", printable(n))
	}
	verdict := "clean"
	if !r.Clean {
		n := 0
		for _, f := range r.Checks {
			if f.Status != persistence.GradeOK {
				n++
			}
		}
		verdict = fmt.Sprintf("%d to look at", n)
	}
	s.printf("\n%s: %s\n", printable(r.URL), verdict)
}
