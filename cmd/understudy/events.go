package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	v1 "github.com/understudy-ha/understudy/api/v1"
)

func newEventsCommand(g *globals) *cobra.Command {
	var followOn bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened on the plane, and with -f what happens next",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				take := func(e v1.Event) error { return g.writeEvent(cmd, e) }
				if !followOn {
					return c.Events(cmd.Context(), take)
				}
				ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
				defer stop()
				return followEvents(ctx, cmd, c, take)
			})
		},
	}
	cmd.Flags().BoolVarP(&followOn, "follow", "f", false, "go on until interrupted; when the node ends, ask another")
	return cmd
}

// followEvents goes on when the node that answers ends, with the next one. The
// numbers of events are of one run of one node, so there it begins with what
// comes.
func followEvents(ctx context.Context, cmd *cobra.Command, c *client.Client, take func(v1.Event) error) error {
	for kept := true; ; kept = false {
		err := c.FollowEvents(ctx, kept, take)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted: that is how a watch ends
		case err != nil && !transient(err) && !errors.Is(err, client.ErrCutOff):
			return err
		case err != nil:
			report(cmd.ErrOrStderr(), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (g *globals) writeEvent(cmd *cobra.Command, e v1.Event) error {
	out := cmd.OutOrStdout()
	switch g.output {
	case formatJSON:
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", b)
		return err
	case formatYAML:
		b, err := asYAML(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "---\n%s", b)
		return err
	case formatTable:
	}
	_, err := fmt.Fprintf(out, "%s  %-9s %s\n", e.At.Local().Format("2006-01-02 15:04:05.000"), e.Type, printable(eventWords(e)))
	return err
}

// eventWords is an event in one line.
func eventWords(e v1.Event) string {
	parts := []string{deref(e.Node), fmt.Sprintf("term %d", e.Term)}
	switch {
	case e.From != nil && e.To != nil:
		parts = append(parts, *e.From+" -> "+*e.To)
	case e.To != nil:
		parts = append(parts, *e.To)
	}
	for _, p := range []*string{e.Code, e.Detail} {
		if p != nil {
			parts = append(parts, *p)
		}
	}
	return strings.Join(parts, "  ")
}
