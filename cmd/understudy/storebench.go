package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence/bench"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// benchFlags are the flags of `store bench`.
type benchFlags struct {
	count  int
	nodes  int
	cost   bool
	prices bench.Prices
}

// benched is what `store bench -o json` says.
type benched struct {
	*bench.Report
	Recommended *recommendation `json:"recommended,omitempty"`
	Advice      string          `json:"advice,omitempty"`
	Cost        *costed         `json:"cost,omitempty"`
}

// costed is the bill with what it was reckoned from.
type costed struct {
	Location string       `json:"location"`
	Plane    bench.Plane  `json:"plane"`
	Prices   bench.Prices `json:"pricesPerThousand"`
	bench.Bill
}

func newStoreBenchCommand(g *globals) *cobra.Command {
	f := benchFlags{prices: bench.S3Prices()}
	cmd := &cobra.Command{
		Use:   "bench LOCATION",
		Short: "Measure how fast a location is, and say which timings it carries; or what it costs",
		Long: `Measure how long a location takes for each thing that a plane asks of it, in a
scratch area that is removed afterwards, and say which timings it carries: an
operation may be given up after ha's operation timeout, which should be four
times what 99 of 100 operations take. It is safe beside a live plane, and loads
the store like a few nodes more.

With --cost it asks the store nothing and reckons what the plane costs a month
at a store that charges for each request, with the intervals configured here
and the prices of Amazon S3 Standard unless given. Storage and traffic are not
in it; they are small.`,
		Example: `  understudy store bench /mnt/understudy
  understudy store bench s3://bucket/plane --cost --nodes 5 --config understudy.yaml`,
		Args: storeArg,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, g, args[0]) },
	}
	fl := cmd.Flags()
	fl.IntVar(&f.count, "count", 200, "how `often` each thing is done, for ten seconds at most")
	fl.IntVar(&f.nodes, "nodes", 3, "how many `nodes` the plane has")
	fl.BoolVar(&f.cost, "cost", false, "reckon the monthly bill instead of measuring")
	fl.Float64Var(&f.prices.Put, "put-price", f.prices.Put, "`dollars` per thousand PUT requests")
	fl.Float64Var(&f.prices.Get, "get-price", f.prices.Get, "`dollars` per thousand GET requests")
	fl.Float64Var(&f.prices.List, "list-price", f.prices.List, "`dollars` per thousand LIST requests")
	return cmd
}

func (f *benchFlags) run(cmd *cobra.Command, g *globals, arg string) error {
	switch {
	case f.count < 3 || f.count > 100000:
		return usagef("--count %d: must be 3 to 100000", f.count)
	case f.nodes < 1 || f.nodes > 1000:
		return usagef("--nodes %d: must be 1 to 1000", f.nodes)
	case min(f.prices.Put, f.prices.Get, f.prices.List) < 0:
		return usagef("a price is below 0")
	}
	p, err := g.openArg(cmd, arg)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	var b benched
	if f.cost {
		t, err := p.timing()
		if err != nil {
			return err
		}
		b.Cost = f.bill(p.loc, t)
	} else if err := f.measure(cmd, p, &b); err != nil {
		return err
	}
	return g.print(cmd, b, b.draw)
}

func (f *benchFlags) measure(cmd *cobra.Command, p *openPlace, b *benched) error {
	bar := newProgress(cmd.ErrOrStderr())
	r, err := bench.Run(cmd.Context(), p.Store, bench.Options{Count: f.count, Nodes: f.nodes, Progress: bar.at})
	bar.end()
	if err != nil {
		return err
	}
	b.Report = &r
	rec := recommend(r.Of(bench.Renew), r.Of(bench.Read), p.Limits())
	b.Recommended, b.Advice = &rec, rec.advice()
	return nil
}

// bill reckons what a plane with these timings asks of a store that charges.
func (f *benchFlags) bill(loc config.Location, t election.Timing) *costed {
	s := ha.SpendingOf(t.StandbyHeartbeat)
	plane := bench.Plane{
		Nodes: f.nodes, Heartbeat: t.Heartbeat, StandbyHeartbeat: t.StandbyHeartbeat, Poll: t.Poll,
		Glance: s.Glance, Record: s.Record, ListNodes: s.ListNodes, ListRequests: s.ListRequests, LookForClone: s.LookForClone,
	}
	return &costed{Location: loc.String(), Plane: plane, Prices: f.prices, Bill: bench.Cost(plane, f.prices)}
}

func (b benched) draw(s *screen) {
	if b.Cost != nil {
		b.Cost.draw(s)
		return
	}
	rows := [][]cell{plainCells("", "P50", "P99", "MAX", "TIMES")}
	for _, p := range b.Primitives {
		rows = append(rows, plainCells(p.Name, short(p.P50), short(p.P99), short(p.Max), strconv.Itoa(p.Count)))
	}
	s.table(rows)
	s.printf("\none master renews %.0f times a second, one renewal after the other\n", b.RenewalsPerSecond)
	if b.Throttled > 0 {
		s.printf("%d requests were refused as too many: raise ha.heartbeatInterval, or the store's limit\n", b.Throttled)
	}
	s.printf("%s: %s\n", printable(b.URL), b.Advice)
}

func (c costed) draw(s *screen) {
	rows := [][]cell{plainCells("WHO", "DOES", "REQUEST", "A MONTH", "DOLLARS")}
	for _, l := range c.Lines {
		rows = append(rows, plainCells(l.Who, l.What, l.Request, fmt.Sprintf("%.0f", l.PerMonth), fmt.Sprintf("%.2f", l.Dollars)))
	}
	s.table(rows)
	s.printf("\n%s: $%.2f a month for %d nodes, $%.2f each, of which heartbeats and looks at the register $%.2f\n",
		c.Location, c.Total, c.Plane.Nodes, c.PerNode, c.Heartbeats)
	s.printf("reckoned with a heartbeat every %s, a standby's record every %s, a look at the register every %s, prices of $%g/$%g/$%g per thousand PUT/GET/LIST\n",
		c.Plane.Heartbeat, c.Plane.StandbyHeartbeat, c.Plane.Poll, c.Prices.Put, c.Prices.Get, c.Prices.List)
	if c.Plane.Nodes > 1 && c.Plane.StandbyHeartbeat < 10*time.Second {
		s.printf("ha.standbyHeartbeatInterval: 10s makes it cheaper: a standby costs $%.2f now\n", c.Standby)
	}
}

// short rounds a latency to what a reader takes in.
func short(d time.Duration) string {
	switch {
	case d > time.Second:
		d = d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		d = d.Round(100 * time.Microsecond)
	default:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}
