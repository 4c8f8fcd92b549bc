package s3_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/bench"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/metered"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Dollars per request, and seconds of the month they are reckoned for.
const (
	perWrite = 0.005 / 1000 // PUT, POST, LIST
	perRead  = 0.0004 / 1000
	month    = 30 * 24 * time.Hour
)

// dollars is what the operations of one node come to in a month, when counted
// for as long as given. On S3 each is one request.
func dollars(counted map[string]uint64, over time.Duration) float64 {
	var sum float64
	for op, n := range counted {
		switch metered.Op(op) {
		case metered.Read, metered.Get:
			sum += float64(n) * perRead
		case metered.CAS, metered.Init, metered.Put, metered.List, metered.Empty:
			sum += float64(n) * perWrite
		case metered.Delete: // free
		}
	}
	return sum * month.Seconds() / over.Seconds()
}

// charging is a store that is polled and looked at as a bucket is.
type charging struct{ persistence.Store }

func (c charging) Limits() persistence.Limits {
	l := c.Store.Limits()
	l.PollDivisor = 1
	return l
}

// bill runs three nodes at rest and returns what the master and a standby cost
// per month.
func bill(t *testing.T, preset string, every time.Duration) (master, standby float64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		timing, err := election.Derive(election.TimingRequest{Preset: preset, StandbyHeartbeat: every, PollDivisor: 1})
		must(t, err)
		zero, at := time.Now(), memory.New()
		v := lease.Value{Plane: ha.NewPlaneID(), Lease: timing.Timeout, WriteID: ha.NewWriteID()}
		must(t, at.Open().Init(t.Context(), v.Encode()))
		var nodes []*ha.Node
		var stores []*metered.Store
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for range 3 {
			s := metered.Wrap(charging{at.Open()})
			n, err := ha.New(s, ha.Options{
				Node: ha.NewNodeID(), Timing: timing, Clock: func() lease.Instant { return lease.At(time.Since(zero) + time.Hour) },
				OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
			})
			must(t, err)
			nodes, stores = append(nodes, n), append(stores, s)
			go func() { ended <- n.Run(ctx) }()
		}
		time.Sleep(5 * time.Minute) // the plane comes to rest
		before := []map[string]uint64{stores[0].Counts(), stores[1].Counts(), stores[2].Counts()}
		const watched = 30 * time.Minute
		time.Sleep(watched)
		masters := 0
		for i, s := range stores {
			n := s.Counts()
			for op := range n {
				n[op] -= before[i][op]
			}
			if nodes[i].State() == lease.StateMaster {
				masters++
				master = dollars(n, watched)
			} else {
				standby += dollars(n, watched) / 2
			}
		}
		if masters != 1 {
			t.Errorf("%d masters", masters)
		}
		cancel()
		for range nodes {
			must(t, <-ended)
		}
	})
	return master, standby
}

// reckoned is what the model of store bench --cost says of the same plane.
func reckoned(t *testing.T, preset string, every time.Duration) float64 {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: preset, StandbyHeartbeat: every, PollDivisor: 1})
	must(t, err)
	s := ha.SpendingOf(every)
	return bench.Cost(bench.Plane{
		Nodes: 3, Heartbeat: timing.Heartbeat, StandbyHeartbeat: every, Poll: timing.Poll,
		Glance: s.Glance, Record: s.Record, ListNodes: s.ListNodes, ListRequests: s.ListRequests, LookForClone: s.LookForClone,
	}, bench.S3Prices()).PerNode
}

// The table of docs/s3.md is what nodes really send, within 3 %.
func TestCostTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/s3.md")
	must(t, err)
	rows := regexp.MustCompile(`(?m)^\| (default|wan) \| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) < 3 {
		t.Fatalf("%d rows in the cost table", len(rows))
	}
	for _, row := range rows {
		every, err := time.ParseDuration(row[2])
		must(t, err)
		master, standby := bill(t, row[1], every)
		if b := reckoned(t, row[1], every); math.Abs(b-(master+2*standby)/3) > 0.05*b {
			t.Errorf("%s, %s: store bench --cost reckons $%.2f per node, measured $%.2f", row[1], row[2], b, (master+2*standby)/3)
		}
		for i, want := range []float64{master, standby, (master + 2*standby) / 3} {
			told, err := strconv.ParseFloat(row[3+i], 64)
			must(t, err)
			if math.Abs(told-want) > 0.03*want {
				t.Errorf("%s, %s: column %d says $%.2f, measured $%.2f", row[1], row[2], 3+i, told, want)
			}
		}
	}

	// One PUT and one GET per second; and three nodes of which the standbys
	// write every tenth second and the master reads nothing.
	second := month.Seconds()
	every := second * (perWrite + perRead)
	seldom := second * (perWrite + 2*(perWrite/10+perRead)) / 3
	for _, d := range []float64{every, seldom} {
		if figure := fmt.Sprintf("$%.2f", d); !strings.Contains(string(page), figure) {
			t.Errorf("docs/s3.md does not say %s", figure)
		}
	}
}
