package main

import (
	"cmp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/understudy-ha/understudy/api/v1"
)

func newHistoryCommand(g *globals) *cobra.Command {
	var (
		since uint64
		limit int
		store storeFlag
	)
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the reigns, newest first: who was master when, why, and how long the take-over took",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--limit %d is below 0", limit)
			}
			c, err := store.reader(cmd, g)
			if err != nil {
				return err
			}
			defer c.Close()
			h, err := c.History(cmd.Context(), since, limit)
			if err != nil {
				return err
			}
			return g.print(cmd, h, func(s *screen) { drawHistory(s, h) })
		},
	}
	store.addTo(cmd)
	cmd.Flags().Uint64Var(&since, "since", 0, "the lowest `term` to list")
	cmd.Flags().IntVar(&limit, "limit", 20, "the most `reigns` to list, 0: all")
	return cmd
}

func drawHistory(s *screen, h v1.History) {
	if len(h.Reigns) == 0 {
		s.printf("no reign yet\n")
		return
	}
	rows := [][]cell{plainCells("TERM", "NODE", "FROM", "LASTED", "WHY", "ENDED", "ACTOR", "DETECTED", "CLAIMED", "STARTED", "READY")}
	for _, r := range h.Reigns {
		lasted := "-"
		if r.To != nil {
			lasted = r.To.Sub(r.From).Round(time.Second).String()
		}
		p := r.PhasesMs
		rows = append(rows, plainCells(
			strconv.FormatUint(r.Term, 10), r.Node, r.From.Local().Format(time.DateTime), lasted, cmp.Or(r.Code, r.Reason),
			cmp.Or(r.EndCode, deref(r.EndReason)), deref(r.Actor), words(p.Detected), words(p.Claimed), words(p.Started), words(p.Ready)))
	}
	s.table(rows)
	for _, r := range h.Reigns {
		for _, f := range r.Fencing {
			s.printf("term %d: %s\n", r.Term, printable(fenceWords(f)))
		}
	}
}
