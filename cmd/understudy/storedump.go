package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// readLimit bounds each operation of the commands that read a location: a
// person waits, and a slow store is still to be read.
const readLimit = 15 * time.Second

func newStoreDumpCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "dump LOCATION",
		Short: "Show what is in a location: register, nodes, history, requests and what does not belong there",
		Long: `Show what is in a location, straight from the store and without a daemon. It
changes nothing. Ages come from the time of day that each writer's machine had;
whether a node is alive is judged by the nodes themselves, not by these.`,
		Args: storeArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := g.openArg(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = p.Close() }()
			c, err := ha.ReadContents(cmd.Context(), p.Store, readLimit)
			if err != nil {
				return err
			}
			d := dumpOf(p.Limits().URL, c, time.Now())
			if d.State, err = dumpStateOf(cmd.Context(), p.Store, c, time.Now()); err != nil {
				return err
			}
			return g.print(cmd, d, func(s *screen) { d.draw(s) })
		},
	}
}

// dump is what `store dump -o json` says.
type dump struct {
	URL      string       `json:"url"`
	Register dumpRegister `json:"register"`
	Nodes    []dumped     `json:"nodes"`
	View     *dumped      `json:"view"`
	History  []dumped     `json:"history"` // newest first
	Requests []dumped     `json:"requests"`
	// Operations are what masters wrote of requests, one entry per term.
	Operations []dumped               `json:"operations"`
	State      *dumpedState           `json:"state"` // null: nothing was ever persisted
	Data       map[string]dumpedTotal `json:"data"`
	Scratch    []dumpedScratch        `json:"scratch"`
	Foreign    []string               `json:"foreign"`
}

// dumped is one object: what it says, or why it can not be read.
type dumped struct {
	Key   string `json:"key"`
	AgeMs *int64 `json:"ageMs,omitempty"`
	Value any    `json:"value,omitempty"`
	Error string `json:"error,omitempty"`
}

type dumpedTotal struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

type dumpedScratch struct {
	Name  string `json:"name"`
	AgeMs *int64 `json:"ageMs,omitempty"`
}

// dumpRegister is the register, decoded as far as it can be.
type dumpRegister struct {
	Value       string   `json:"value,omitempty"`
	Error       string   `json:"error,omitempty"`
	Parts       []string `json:"parts,omitempty"` // in the place of one value
	Plane       string   `json:"plane,omitempty"`
	Term        uint64   `json:"term"`
	Seq         uint64   `json:"seq"`
	State       string   `json:"state,omitempty"` // held or released
	Paused      bool     `json:"paused"`
	LeaseMs     int64    `json:"leaseMs"`
	Holder      string   `json:"holder,omitempty"`
	To          string   `json:"to,omitempty"`
	Incarnation string   `json:"incarnation,omitempty"`
	WriteID     string   `json:"writeId,omitempty"`
	HeadSeq     uint64   `json:"headSeq"`
	HeadRand    string   `json:"headRand,omitempty"`
}

func dumpOf(url string, c *ha.Contents, now time.Time) dump {
	d := dump{
		URL: url, Register: dumpRegisterOf(c.Register), Data: map[string]dumpedTotal{},
		Nodes: []dumped{}, History: []dumped{}, Requests: []dumped{}, Operations: []dumped{}, Scratch: []dumpedScratch{},
		Foreign: append([]string{}, c.Foreign...),
	}
	for _, n := range c.Nodes {
		x := dumpedOf(n)
		if n.Err == nil {
			x.AgeMs = ageOf(time.UnixMilli(n.Value.WallMs), now)
		}
		d.Nodes = append(d.Nodes, x)
	}
	for _, h := range slices.Backward(c.History) {
		d.History = append(d.History, dumpedOf(h))
	}
	for _, r := range c.Requests {
		d.Requests = append(d.Requests, dumpedOf(r))
	}
	for _, p := range c.Progress {
		d.Operations = append(d.Operations, dumpedOf(p))
	}
	if c.View != nil {
		x := dumpedOf(*c.View)
		d.View = &x
	}
	for prefix, t := range c.Data {
		d.Data[prefix] = dumpedTotal(t)
	}
	for _, e := range c.Scratch {
		d.Scratch = append(d.Scratch, dumpedScratch{e.Name, ageOf(e.Modified, now)})
	}
	return d
}

func dumpedOf[T any](s ha.Stored[T]) dumped {
	if s.Err != nil {
		return dumped{Key: s.Key, Error: s.Err.Error()}
	}
	return dumped{Key: s.Key, Value: s.Value}
}

// ageOf compares two wall clocks, of two machines as a rule.
func ageOf(at, now time.Time) *int64 {
	if at.IsZero() {
		return nil
	}
	ms := max(now.Sub(at), 0).Milliseconds()
	return &ms
}

func dumpRegisterOf(r ha.Register) dumpRegister {
	d := dumpRegister{Value: string(r.Raw)}
	for _, p := range r.Parts {
		d.Parts = append(d.Parts, string(p))
	}
	if r.Err != nil {
		d.Error = r.Err.Error()
		return d
	}
	v := r.Value
	d.Plane, d.Term, d.Seq, d.Paused = string(v.Plane), uint64(v.Term), uint64(v.Seq), v.Paused
	d.State, d.LeaseMs = "released", v.Lease.Milliseconds()
	if v.Held {
		d.State = "held"
	}
	d.Holder, d.To, d.Incarnation, d.WriteID = string(v.Holder), string(v.To), string(v.Incarnation), string(v.WriteID)
	d.HeadSeq, d.HeadRand = v.Head.Seq, v.Head.Rand
	return d
}

func (d dump) draw(s *screen) {
	d.Register.draw(s)
	drawDumped(s, "nodes", d.Nodes, plainCells("NODE", "STATE", "TERM", "PRIORITY", "VERSION", "AGE", "HOST", "URI"), func(x dumped) []cell {
		r, _ := x.Value.(lease.NodeRecord)
		return plainCells(string(r.Node), string(r.State), strconv.FormatUint(uint64(r.Term), 10), strconv.Itoa(r.Priority),
			cmp.Or(r.Version, "-"), age(x.AgeMs), cmp.Or(r.Host, "-"), cmp.Or(r.URI, "-"))
	})
	drawDumped(s, "history", d.History, plainCells("TERM", "NODE", "FROM", "TO", "WHY", "ENDED", "ACTOR"), func(x dumped) []cell {
		r, _ := x.Value.(ha.ReignRecord)
		to := "-"
		if r.To != nil {
			to = r.To.Local().Format(time.DateTime)
		}
		return plainCells(strconv.FormatUint(uint64(r.Term), 10), cmp.Or(string(r.Node), "-"), r.From.Local().Format(time.DateTime), to,
			cmp.Or(r.Reason, "-"), cmp.Or(r.EndReason, "-"), cmp.Or(r.Actor, "-"))
	})
	drawDumped(s, "requests", d.Requests, plainCells("REQUEST", "OP", "TO", "TERM"), func(x dumped) []cell {
		r, _ := x.Value.(ha.Operation)
		return plainCells(strings.TrimPrefix(x.Key, "requests/"), string(r.Kind), cmp.Or(string(r.To), string(r.Node), "-"), strconv.FormatUint(uint64(r.Term), 10))
	})
	drawDumped(s, "operations", d.Operations, plainCells("OPERATION", "OP", "STATE", "TO", "ACTOR"), func(x dumped) []cell {
		r, _ := x.Value.(ha.Operation)
		return plainCells(strings.TrimPrefix(x.Key, "operations/"), string(r.Kind), string(r.State), cmp.Or(string(r.To), string(r.Node), "-"), cmp.Or(r.Actor, "-"))
	})
	if d.View != nil {
		v, _ := d.View.Value.(ha.View)
		s.printf("\nview: %d nodes, beat %d, written by run %s\n", len(v.Nodes), v.Beat, cmp.Or(string(v.Writer), "-"))
	}
	for _, prefix := range slices.Sorted(maps.Keys(d.Data)) {
		s.printf("\n%s: %d objects, %d bytes\n", strings.TrimSuffix(prefix, "/"), d.Data[prefix].Objects, d.Data[prefix].Bytes)
	}
	d.State.draw(s)
	for _, e := range d.Scratch {
		s.printf("\nscratch: %s, %s old\n", printable(e.Name), age(e.AgeMs))
	}
	for _, f := range d.Foreign {
		s.printf("\nforeign: %s\n", printable(f))
	}
}

func (r dumpRegister) draw(s *screen) {
	if r.Error != "" {
		s.printf("register  can not be read: %s\n", printable(oneLine(r.Error)))
		for _, p := range r.Parts {
			s.printf("          %s\n", printable(p))
		}
		return
	}
	held := "held by nobody"
	if r.Holder != "" {
		held = map[string]string{"held": "held by ", "released": "released by "}[r.State] + r.Holder
	} else if r.State == "released" {
		held = "released, by nobody yet"
	}
	if r.To != "" {
		held += ", meant for " + r.To
	}
	if r.Paused {
		held += ", paused: no automatic moves"
	}
	head := "nothing persisted"
	if r.HeadRand != "" {
		head = fmt.Sprintf("%d-%s", r.HeadSeq, r.HeadRand)
	}
	s.table([][]cell{
		plainCells("register", r.Value),
		plainCells("plane", r.Plane),
		plainCells("term", strconv.FormatUint(r.Term, 10), held),
		plainCells("sequence", strconv.FormatUint(r.Seq, 10), "lease "+words(r.LeaseMs)),
		plainCells("state", head),
	})
}

// drawDumped writes a table, what can not be read beneath it.
func drawDumped(s *screen, name string, xs []dumped, head []cell, row func(dumped) []cell) {
	if len(xs) == 0 {
		return
	}
	rows := [][]cell{head}
	for _, x := range xs {
		if x.Error == "" {
			rows = append(rows, row(x))
		}
	}
	s.printf("\n")
	if len(rows) > 1 {
		s.table(rows)
	}
	for _, x := range xs {
		if x.Error != "" {
			s.printf("%s: %s can not be read: %s\n", name, printable(x.Key), printable(oneLine(x.Error)))
		}
	}
}
