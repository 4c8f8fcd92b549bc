package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	v1 "github.com/understudy-ha/understudy/api/v1"
)

// statusReport is what `status -o json` says.
type statusReport struct {
	Endpoint         string     `json:"endpoint"`
	NodeID           string     `json:"nodeId"`
	State            v1.State   `json:"state"`
	Up               bool       `json:"up"`
	Healthy          bool       `json:"healthy"`
	ShuttingDown     bool       `json:"shuttingDown"`
	LeaseRemainingMs int64      `json:"leaseRemainingMs"`
	Detail           string     `json:"detail"` // of why, in a sentence
	Warnings         []string   `json:"warnings"`
	Metrics          v1.Metrics `json:"metrics"`
	// Plane last: it is the longest.
	Plane v1.PlaneStates `json:"plane"`
	Why   []string       `json:"why,omitempty"` // sentences, with --why
}

func newStatusCommand(g *globals) *cobra.Command {
	var (
		watch watchFlags
		why   bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node and its plane on one screen",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return watch.run(cmd, func(ctx context.Context) error {
				r, err := fetchStatus(ctx, c)
				if err != nil {
					return err
				}
				if why {
					r.Why = r.sentences()
				}
				return g.print(cmd, r, r.draw)
			})
		},
	}
	cmd.Flags().BoolVar(&why, "why", false, "say in sentences who would take over next, and what prevents whom")
	watch.addTo(cmd)
	return cmd
}

func fetchStatus(ctx context.Context, c *client.Client) (statusReport, error) {
	up, err := c.UpExtended(ctx)
	if err != nil {
		return statusReport{}, err
	}
	m, err := c.Metrics(ctx)
	if err != nil {
		return statusReport{}, err
	}
	h, err := c.Health(ctx, "/master")
	if err != nil {
		return statusReport{}, err
	}
	detail := ""
	if rep, err := c.HealthReport(ctx); err == nil && rep.NodeID == up.HA.OwnID {
		detail = deref(rep.Detail)
	}
	return statusReport{
		Detail:   detail,
		Endpoint: h.Endpoint, NodeID: up.HA.OwnID, State: m.State,
		Up: up.Up, Healthy: up.Healthy, ShuttingDown: up.ShuttingDown,
		LeaseRemainingMs: h.LeaseRemaining.Milliseconds(), Warnings: append([]string{}, h.Warnings...),
		Metrics: m, Plane: up.HA,
	}, nil
}

func (r statusReport) draw(s *screen) {
	own := r.Plane.Nodes[r.NodeID]
	rows := [][]cell{
		{{text: "node"}, {text: r.NodeID}, stateCell(r.State), {text: r.condition()}},
		plainCells("plane", deref(r.Plane.PlaneID), fmt.Sprintf("term %d", r.Plane.Term), r.mastership()),
		plainCells("store", r.Metrics.Persist.Kind, fmt.Sprintf("%d ms", r.Metrics.Persist.LatencyMs), r.storeWords()),
		plainCells("timing", "T "+words(r.Metrics.HighAvailability.HeartbeatTimeout), "poll "+words(r.Metrics.HighAvailability.PollPeriod), "up "+r.Metrics.Uptime),
	}
	s.table(rows)
	if own.Why != nil && *own.Why != "" {
		s.printf("why     %s\n", printable(*own.Why))
	}
	if r.Detail != "" {
		s.printf("        %s\n", printable(r.Detail))
	}
	if n := own.ServiceFailures; n > 0 {
		s.printf("service %d failures on this node; see understudy service status\n", n)
	}
	for _, w := range r.Warnings {
		s.printf("warning %s\n", printable(w))
	}
	s.printf("\n")
	drawNodes(s, r.Plane)
	if len(r.Why) > 0 {
		s.printf("\n")
	}
	for _, sentence := range r.Why {
		s.printf("%s\n", printable(sentence))
	}
}

func (r statusReport) condition() string {
	var parts []string
	switch {
	case r.ShuttingDown:
		parts = append(parts, "shutting down")
	case !r.Up:
		parts = append(parts, "not up yet")
	case r.Healthy:
		parts = append(parts, "healthy")
	default:
		parts = append(parts, "not healthy")
	}
	if r.LeaseRemainingMs > 0 {
		parts = append(parts, "lease "+words(r.LeaseRemainingMs))
	}
	return strings.Join(parts, ", ")
}

func (r statusReport) mastership() string {
	p := r.Plane
	paused := ""
	if p.Paused {
		paused = ", paused: no automatic moves"
	}
	switch {
	case p.MasterID != nil:
		return "master " + *p.MasterID + " " + deref(p.Nodes[*p.MasterID].NodeURI) + paused
	case p.LeaderID != nil:
		return "no master: " + *p.LeaderID + " holds the term, its service is not ready" + paused
	default:
		return "no master" + paused
	}
}

func (r statusReport) storeWords() string {
	p := r.Metrics.Persist
	text := p.URL
	if p.ReadAgeMs != nil {
		text += ", read " + words(*p.ReadAgeMs) + " ago"
	}
	if p.WriteAgeMs != nil {
		text += ", written " + words(*p.WriteAgeMs) + " ago"
	}
	if p.Error != nil && *p.Error != "" {
		text += ": " + oneLine(*p.Error)
	}
	return text
}

// words writes milliseconds as people read them.
func words(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return strconv.FormatInt(ms, 10) + "ms"
	case d < time.Minute:
		return strings.TrimSuffix(strconv.FormatFloat(float64(ms)/1000, 'f', 1, 64), ".0") + "s"
	default:
		return d.Round(time.Second).String()
	}
}

// sortedNodes puts the master first, then by id.
func sortedNodes(p v1.PlaneStates) []v1.Node {
	nodes := make([]v1.Node, 0, len(p.Nodes))
	for id, n := range p.Nodes {
		n.NodeID = cmp.Or(n.NodeID, id)
		nodes = append(nodes, n)
	}
	first := func(n v1.Node) int {
		if n.Status == v1.StateMaster {
			return 0
		}
		return 1
	}
	slices.SortFunc(nodes, func(a, b v1.Node) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a.NodeID, b.NodeID))
	})
	return nodes
}

func drawNodes(s *screen, p v1.PlaneStates) {
	rows := [][]cell{plainCells("NODE", "STATE", "PRIORITY", "ELECTABLE", "AGE", "STORE", "VERSION", "URI", "WHY")}
	for _, n := range sortedNodes(p) {
		id := n.NodeID
		if id == p.OwnID {
			id += "*"
		}
		row := []cell{{text: id}, stateCell(n.Status)}
		row = append(row, plainCells(number(n.Priority, ""), yesNo(n.Electable), age(n.AgeMs), number(n.StoreLatencyMs, " ms"), deref(n.Version), deref(n.NodeURI), deref(n.Why))...)
		rows = append(rows, row)
	}
	s.table(rows)
}

func number[T int | int64](p *T, unit string) string {
	if p == nil {
		return "-"
	}
	return strconv.FormatInt(int64(*p), 10) + unit
}

func age(p *int64) string {
	if p == nil {
		return "never"
	}
	return words(*p)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newStatesCommand(g *globals) *cobra.Command {
	var store storeFlag
	cmd := &cobra.Command{
		Use:     "states",
		Aliases: []string{"list", "nodes"},
		Short:   "List the nodes of the plane as one of them sees it (its own row has a *)",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := store.reader(cmd, g)
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.States(cmd.Context())
			if err != nil {
				return err
			}
			return g.print(cmd, p, func(s *screen) { drawNodes(s, p) })
		},
	}
	store.addTo(cmd)
	return cmd
}

// watchFlags are those of commands that can go on looking.
type watchFlags struct {
	on       bool
	interval time.Duration
	plain    bool // a log of changes, not a screen that is drawn anew
}

func (w *watchFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&w.on, "watch", "w", false, "keep looking until interrupted")
	cmd.Flags().DurationVar(&w.interval, "interval", time.Second, "how often with --watch")
}

// run calls look once, or again and again until SIGINT or SIGTERM, when it
// returns nil. While watching, an error is shown and the watch goes on: the
// moment nothing answers is the one people watch for.
func (w *watchFlags) run(cmd *cobra.Command, look func(context.Context) error) error {
	if !w.on {
		return look(cmd.Context())
	}
	if w.interval < 100*time.Millisecond {
		return usagef("--interval %s is below 100ms", w.interval)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := cmd.OutOrStdout()
	wipe := ""
	if isTerminal(out) && !w.plain {
		wipe = "\x1b[H\x1b[2J"
	}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(out, wipe); err != nil {
			return err
		}
		err := look(ctx)
		if ctx.Err() != nil {
			return nil // interrupted: that is how a watch ends
		}
		if err != nil {
			if !transient(err) {
				return err
			}
			report(cmd.ErrOrStderr(), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// transient reports whether looking again may help.
func transient(err error) bool {
	var (
		nobody  *client.UnreachableError
		refused *client.StatusError
		syntax  *json.SyntaxError
	)
	return errors.As(err, &nobody) || errors.As(err, &syntax) || (errors.As(err, &refused) && refused.Code >= 500)
}
