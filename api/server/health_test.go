package server

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// with returns the status changed.
func with(s *ha.Status, change func(*ha.Status)) *ha.Status {
	change(s)
	return s
}

// situations are nodes in every state a probe can meet.
var situations = map[string]func() *ha.Status{
	"master":    mastering,
	"promoting": func() *ha.Status { return holding(lease.StateStandby, false) },
	"promoting-hot": func() *ha.Status {
		return holding(lease.StateHotStandby, false)
	},
	"restarting": func() *ha.Status {
		return with(holding(lease.StateInitializing, false), func(s *ha.Status) { s.Service.Phase = "restarting" })
	},
	"draining": func() *ha.Status {
		return with(holding(lease.StateStandby, false), func(s *ha.Status) { s.Reign.Ending, s.Service.Phase = true, "ready" })
	},
	"given-up": func() *ha.Status {
		return with(mastering(), func(s *ha.Status) { s.Reign.Leading, s.Reign.Ending, s.Service.Phase = false, true, "stopping" })
	},
	"lapsed": func() *ha.Status {
		return with(mastering(), func(s *ha.Status) { s.Reign.T0 = start.Add(-26700 * time.Millisecond) })
	},
	"standby":     func() *ha.Status { return status(lease.StateStandby) },
	"hot-standby": func() *ha.Status { return status(lease.StateHotStandby) },
	"hot-backup":  func() *ha.Status { return status(lease.StateHotBackup) },
	"maintenance": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.Electable, s.Why = false, "MAINTENANCE" })
	},
	"paused": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.Paused = true })
	},
	"no-master": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.HolderOK = false })
	},
	"no-store": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.Store.Error = "timed out" })
	},
	"old-store": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.Store.LastRead = start.Add(-time.Minute) })
	},
	"never-wrote": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) {
			own := s.Nodes[self]
			own.SeenAt, s.Store.LastWrite = lease.Instant{}, lease.Instant{}
			s.Nodes[self] = own
		})
	},
	"slow-writer": func() *ha.Status { // a standby that writes its record every ten seconds, and nothing else
		return with(status(lease.StateStandby), func(s *ha.Status) {
			own := peer(self, lease.StateStandby, 9*time.Second)
			own.IntervalMs, s.Store.LastWrite = 10000, lease.Instant{}
			s.Nodes[self] = own
		})
	},
	"master-not-writing": func() *ha.Status {
		return with(mastering(), func(s *ha.Status) {
			s.Store.LastWrite = start.Add(-4 * time.Second) // its record is younger, and keeps no lease
		})
	},
	"own-silent": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) {
			s.Nodes[self] = peer(self, lease.StateStandby, time.Minute)
		})
	},
	"no-others": func() *ha.Status {
		return with(mastering(), func(s *ha.Status) { delete(s.Nodes, other); delete(s.Nodes, third) })
	},
	"initializing": func() *ha.Status { return status(lease.StateInitializing) },
	"failed":       func() *ha.Status { return status(lease.StateFailed) },
	"terminated":   func() *ha.Status { return status(lease.StateTerminated) },
	"stopping": func() *ha.Status {
		return with(status(lease.StateStandby), func(s *ha.Status) { s.Stopping = true })
	},
	"stuck": func() *ha.Status {
		return with(status(lease.StateHotStandby), func(s *ha.Status) { s.LoopAt = start.Add(-6 * time.Second) })
	},
	"unborn": func() *ha.Status { return &ha.Status{Node: self, Standing: lease.StateInitializing} },
	"library": func() *ha.Status {
		return with(mastering(), func(s *ha.Status) { s.Service.Phase = "none" })
	},
}

// The answers, Y for 200 and a dot for 503; the last two columns are the state
// shown and the code of /v1/server/ha/health.
const healthTable = `
situation     master leader standby hot-standby hot-backup read-only service livez readyz startupz store electable | state        health
master        Y      Y      .       .           .          Y         Y       Y     Y      Y        Y     Y         | MASTER       200
library       Y      Y      .       .           .          Y         Y       Y     Y      Y        Y     Y         | MASTER       200
no-others     Y      Y      .       .           .          Y         Y       Y     Y      Y        Y     .         | MASTER       200
promoting     .      Y      .       .           .          .         .       Y     .      Y        Y     Y         | STANDBY      202
promoting-hot .      Y      .       Y           .          Y         .       Y     .      Y        Y     Y         | HOT_STANDBY  202
restarting    .      Y      .       .           .          .         .       Y     .      .        Y     Y         | INITIALIZING 501
draining      .      Y      .       .           .          .         Y       Y     .      Y        Y     Y         | STANDBY      503
given-up      .      .      .       .           .          .         .       Y     .      Y        Y     Y         | STANDBY      503
lapsed        .      .      .       .           .          .         Y       Y     .      Y        Y     Y         | FAILED       503
standby       .      .      Y       .           .          .         .       Y     Y      Y        Y     Y         | STANDBY      429
hot-standby   .      .      Y       Y           .          Y         .       Y     Y      Y        Y     Y         | HOT_STANDBY  473
hot-backup    .      .      .       .           Y          Y         .       Y     .      Y        Y     Y         | HOT_BACKUP   472
maintenance   .      .      .       .           .          .         .       Y     .      Y        Y     Y         | STANDBY      475
paused        .      .      Y       .           .          .         .       Y     Y      Y        Y     Y         | STANDBY      475
no-master     .      .      Y       .           .          .         .       Y     Y      Y        Y     Y         | STANDBY      474
no-store      .      .      Y       .           .          .         .       Y     Y      Y        .     Y         | STANDBY      474
old-store     .      .      Y       .           .          .         .       Y     Y      Y        .     Y         | STANDBY      474
never-wrote   .      .      .       .           .          .         .       Y     .      Y        .     Y         | STANDBY      474
slow-writer   .      .      Y       .           .          .         .       Y     Y      Y        Y     Y         | STANDBY      429
master-not-writing Y Y      .       .           .          Y         Y       Y     Y      Y        .     Y         | MASTER       200
own-silent    .      .      .       .           .          .         .       Y     .      Y        Y     Y         | STANDBY      429
initializing  .      .      .       .           .          .         .       Y     .      .        Y     Y         | INITIALIZING 501
failed        .      .      .       .           .          .         .       Y     .      Y        Y     Y         | FAILED       503
terminated    .      .      .       .           .          .         .       Y     .      Y        Y     Y         | TERMINATED   503
stopping      .      .      .       .           .          .         .       Y     .      Y        Y     Y         | STANDBY      503
stuck         .      .      .       .           .          .         .       .     .      Y        .     .         | HOT_STANDBY  503
unborn        .      .      .       .           .          .         .       .     .      .        .     .         | INITIALIZING 503
`

// Every situation × every path, alias and method, against the table.
func TestHealthPathsInEverySituation(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(healthTable), "\n")
	columns := strings.Fields(lines[0])
	bar := slices.Index(columns, "|")
	aliases := map[string][]string{
		"master": {"master", "primary", "read-write"}, "standby": {"standby", "replica"}, "electable": {"electable", "quorum"},
	}
	seen := map[string]bool{}
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		name := cells[0]
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			g := newRig(t, situations[name](), Options{})
			for i := 1; i < bar; i++ {
				want := http.StatusServiceUnavailable
				if cells[i] == "Y" {
					want = http.StatusOK
				}
				names := aliases[columns[i]]
				if names == nil {
					names = []string{columns[i]}
				}
				for _, n := range names {
					for _, path := range []string{"/" + n, "/v1/server/ha/" + n} {
						for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
							r := g.send(method, path, "")
							if r.code != want {
								t.Errorf("%s %s: %d, want %d", method, path, r.code, want)
							}
							checkHealthHeaders(t, method+" "+path, r, cells[bar+1])
							if body := cells[bar+1] + "\n"; method != http.MethodHead && r.body != body {
								t.Errorf("%s %s: body %q, want %q", method, path, r.body, body)
							} else if method == http.MethodHead && r.body != "" {
								t.Errorf("%s %s: HEAD has a body", method, path)
							}
						}
					}
				}
			}
			r := g.send(http.MethodGet, "/v1/server/ha/health", "")
			if strconv.Itoa(r.code) != cells[bar+2] {
				t.Errorf("/v1/server/ha/health: %d, want %s: %s", r.code, cells[bar+2], r.body)
			}
			checkHealthHeaders(t, "health", r, cells[bar+1])
		})
	}
	for name := range situations {
		if !seen[name] {
			t.Errorf("situation %s is in no row of the table", name)
		}
	}
}

func checkHealthHeaders(t *testing.T, what string, r reply, state string) {
	t.Helper()
	for _, name := range []string{v1.HeaderState, v1.HeaderTerm, v1.HeaderNode, v1.HeaderMaster, v1.HeaderLeaseRemaining} {
		if len(r.header.Values(name)) != 1 {
			t.Errorf("%s: header %s is there %d times", what, name, len(r.header.Values(name)))
		}
	}
	if got := r.header.Get(v1.HeaderState); got != state {
		t.Errorf("%s: %s is %q, want %q", what, v1.HeaderState, got, state)
	}
	if got := r.header.Get("Cache-Control"); got != "no-cache, no-store" {
		t.Errorf("%s: Cache-Control is %q", what, got)
	}
	if r.header.Get("Pragma") != "no-cache" || r.header.Get("Expires") != "0" {
		t.Errorf("%s: Pragma %q, Expires %q", what, r.header.Get("Pragma"), r.header.Get("Expires"))
	}
}

// The very same snapshot turns from 200 to 503 when its lease ends: nothing
// else happens, as when the loop is stuck or the machine was suspended.
func TestTruthRulePerRequest(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	expect := func(code int, state, remaining string) {
		t.Helper()
		r := g.send(http.MethodGet, "/master", "")
		if r.code != code || r.header.Get(v1.HeaderState) != state || r.header.Get(v1.HeaderLeaseRemaining) != remaining {
			t.Fatalf("/master: %d %s, %s ms left; want %d %s %s", r.code, r.header.Get(v1.HeaderState),
				r.header.Get(v1.HeaderLeaseRemaining), code, state, remaining)
		}
	}
	expect(200, "MASTER", "26700")
	g.node.advance(26699 * time.Millisecond)
	expect(200, "MASTER", "1")
	g.node.advance(time.Millisecond) // E itself is too late (R4: t < E)
	expect(503, "FAILED", "0")

	if r := g.ask(http.MethodGet, "/v1/server/ha/state", ""); r.body != `"FAILED"` {
		t.Errorf("state after the lease ended: %s", r.body)
	}
	if r := g.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1"); r.code != http.StatusForbidden {
		t.Errorf("a write after the lease ended: %d, want 403", r.code)
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/states", ""); !strings.Contains(r.body, `"masterId":null,"leaderId":null`) {
		t.Errorf("states after the lease ended: %s", r.body)
	}
}

// Either clock may stop or be slowed; the one that says more counts.
func TestTruthRuleTakesTheLongerClock(t *testing.T) {
	for _, now := range []lease.Instant{
		{Boot: start.Boot + int64(27*time.Second), Raw: start.Raw},
		{Boot: start.Boot, Raw: start.Raw + int64(27*time.Second)},
	} {
		g := newRig(t, mastering(), Options{})
		g.node.now = now
		if r := g.send(http.MethodGet, "/master", ""); r.code != http.StatusServiceUnavailable {
			t.Errorf("at %+v: %d", now, r.code)
		}
	}
}

// A standby whose loop is stuck goes on showing no master for ever.
func TestStuckStandbyForgetsTheMaster(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	if got := g.send(http.MethodGet, "/standby", "").header.Get(v1.HeaderMaster); got != "https://nother02:8443/" {
		t.Fatalf("master is %q", got)
	}
	g.node.advance(6 * time.Second)
	if got := g.send(http.MethodGet, "/standby", "").header.Get(v1.HeaderMaster); got != "" {
		t.Errorf("master is %q although nothing was heard for 6 s", got)
	}
	r := g.ask(http.MethodGet, "/v1/server/ha/states", "")
	if !strings.Contains(r.body, `"masterId":null`) || strings.Contains(r.body, `"MASTER"`) {
		t.Errorf("states: %s", r.body)
	}
}

func TestHealthCodesCanBeReplaced(t *testing.T) {
	standby, failed := status(lease.StateStandby), status(lease.StateFailed)
	for _, c := range []struct {
		st    *ha.Status
		query string
		want  int
	}{
		{standby, "", 429},
		{standby, "?standbycode=200", 200},
		{standby, "?standbyok=true", 200},
		{standby, "?standbyok=false", 429},
		{standby, "?standbycode=503&mastercode=201", 503},
		{mastering(), "?mastercode=299", 299},
		{mastering(), "?standbycode=200", 200},
		{status(lease.StateHotStandby), "?standbyok=true", 473},
		{status(lease.StateHotStandby), "?hotstandbyok=true", 200},
		{failed, "?failedcode=200&failedok=true", 503}, // nobody may call this healthy
		{standby, "?standbycode=302", 400},
		{standby, "?standbycode=204", 400},
		{standby, "?standbycode=abc", 400},
		{standby, "?standbyok=perhaps", 400},
	} {
		g := newRig(t, c.st, Options{})
		if r := g.send(http.MethodGet, "/v1/server/ha/health"+c.query, ""); r.code != c.want {
			t.Errorf("%s%s: %d, want %d", c.st.Standing, c.query, r.code, c.want)
		}
	}
}

func TestWarningsAreCodesOnly(t *testing.T) {
	g := newRig(t, with(mastering(), func(s *ha.Status) {
		s.Warnings = []string{"HEARTBEAT_LATE: 9s since the last at /mnt/secret", "no code here", "TIMING_MISMATCH"}
	}), Options{})
	if got := g.send(http.MethodGet, "/master", "").header.Get(v1.HeaderWarning); got != "HEARTBEAT_LATE,TIMING_MISMATCH" {
		t.Errorf("%s: %q", v1.HeaderWarning, got)
	}
}

// Probes take a redirect for healthy, so no odd spelling of a path may lead to
// one.
func TestNoPathRedirects(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	for _, path := range []string{"/master/", "//master", "/./master", "/x/../master", "/v1//server/ha/master", "/", "/v1", "/MASTER"} {
		if r := g.send(http.MethodGet, path, ""); r.code != http.StatusNotFound {
			t.Errorf("%s: %d", path, r.code)
		}
	}
	if r := g.send(http.MethodPost, "/master", ""); r.code != http.StatusMethodNotAllowed || r.header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST /master: %d, Allow %q", r.code, r.header.Get("Allow"))
	}
}

// The names are on the wire as the documentation spells them.
func TestHeaderSpelling(t *testing.T) {
	h := http.Header{}
	haHeaders(h, picture{Status: mastering(), now: start})
	for _, name := range []string{"X-HA-State", "X-HA-Term", "X-HA-Node", "X-HA-Master", "X-HA-Lease-Remaining-Ms"} {
		if len(h[name]) != 1 {
			t.Errorf("%s is not there in this spelling: %v", name, h)
		}
	}
}
