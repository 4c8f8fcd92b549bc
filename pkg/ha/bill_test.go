package ha_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/bench"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// TestBillIsTrue holds the bill that is reckoned against what a plane asks of
// a store in ten quiet minutes.
func TestBillIsTrue(t *testing.T) {
	const nodes, while = 3, 10 * time.Minute
	for _, every := range []time.Duration{time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			master, standbys := p.crowd(nodes, every, 3*time.Minute)
			asked := map[string]int{}
			for _, s := range spentIn(while, append([]*member{master}, standbys...)...) {
				asked["PUT"] += s.cas + s.put
				asked["GET"] += s.read + s.get
				asked["LIST"] += s.list
			}
			s := ha.SpendingOf(every)
			bill := bench.Cost(bench.Plane{
				Nodes: nodes, Heartbeat: p.timing.Heartbeat, StandbyHeartbeat: p.timing.StandbyHeartbeat, Poll: p.timing.Poll,
				Glance: s.Glance, Record: s.Record, ListNodes: s.ListNodes, ListRequests: s.ListRequests, LookForClone: s.LookForClone,
			}, bench.S3Prices())
			reckoned := map[string]float64{}
			for _, l := range bill.Lines {
				reckoned[l.Request] += l.PerMonth * while.Seconds() / bench.Month.Seconds()
			}
			for request, n := range asked {
				if r := reckoned[request]; float64(n) < 0.85*r || float64(n) > 1.15*r {
					t.Errorf("standby records every %v: %d %s were asked for, %.0f are on the bill", every, n, request, r)
				}
			}
			t.Logf("standby records every %v: asked %v, reckoned %v, $%.2f a node", every, asked, reckoned, bill.PerNode)
			p.check()
		})
	}
}
