package election

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

func seconds(s float64) time.Duration { return time.Duration(s * 1e9).Round(time.Microsecond) }

// The table of the protocol's section "Durations", verbatim.
func TestTimingTable(t *testing.T) {
	for _, c := range []struct {
		name                            string
		request                         TimingRequest
		T, h, o, S, m, D, kill, E, gate float64
	}{
		{"fast", TimingRequest{Preset: "fast"}, 5, .5, .5, 2, .5, 2.45, 3.45, 4.45, 5.30},
		{"T=10s", TimingRequest{Timeout: 10 * second}, 10, 1, 1, 4, 1, 4.9, 6.9, 8.9, 10.6},
		{"T=15s", TimingRequest{Timeout: 15 * second}, 15, 1, 1.5, 6, 1.5, 7.35, 11.35, 13.35, 15.65},
		{"default", TimingRequest{}, 30, 1, 3, 10, 3, 16.7, 24.7, 26.7, 30.8},
		{"wan", TimingRequest{Preset: "wan"}, 60, 2, 6, 20, 3, 36.4, 52.4, 56.4, 61.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Derive(c.request)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range []struct {
				what string
				got  time.Duration
				want float64
			}{
				{"T", got.Timeout, c.T},
				{"h", got.Heartbeat, c.h},
				{"o", got.Operation, c.o},
				{"S", got.Stop, c.S},
				{"m", got.Margin(), c.m},
				{"D", got.StopAfter(), c.D},
				{"KILL", got.KillAfter(), c.kill},
				{"E", got.End(), c.E},
				{"claim", got.ClaimAfter(got.Timeout), c.gate},
			} {
				if x.got != seconds(x.want) {
					t.Errorf("%s is %v, the table says %v", x.what, x.got, seconds(x.want))
				}
			}
			if got.Poll != got.Heartbeat/5 || got.StandbyHeartbeat != got.Heartbeat || got.Takeover != min(10*second, got.Timeout) {
				t.Errorf("derived: %+v", got)
			}
		})
	}
}

func TestTimingDerived(t *testing.T) {
	for _, c := range []struct {
		name    string
		request TimingRequest
		what    func(Timing) time.Duration
		want    time.Duration
	}{
		{"two polls per heartbeat on hdfs", TimingRequest{PollDivisor: 2}, func(t Timing) time.Duration { return t.Poll }, 500 * time.Millisecond},
		{"one on s3", TimingRequest{PollDivisor: 1}, func(t Timing) time.Duration { return t.Poll }, second},
		{"a store that takes one write in two seconds", TimingRequest{MinBeat: 2 * second}, func(t Timing) time.Duration { return t.Heartbeat }, 2 * second},
		{"o leaves room for h", TimingRequest{MinBeat: 5 * second}, func(t Timing) time.Duration { return t.Operation }, second},
		{"a key that is set replaces its own value", TimingRequest{Preset: "wan", Stop: 5 * second}, func(t Timing) time.Duration { return t.Stop }, 5 * second},
		{"and no other", TimingRequest{Preset: "wan", Stop: 5 * second}, func(t Timing) time.Duration { return t.Operation }, 6 * second},
		{"the longer lease is waited out, ours", TimingRequest{}, func(t Timing) time.Duration { return t.ClaimAfter(5 * second) }, seconds(30.8)},
		{"the longer lease is waited out, the other's", TimingRequest{}, func(t Timing) time.Duration { return t.ClaimAfter(60 * second) }, seconds(61.1)},
		{"a short observer guard", TimingRequest{Preset: "fast"}, Timing.ObserverGuard, 250 * time.Millisecond},
		{"the gap by heartbeats", TimingRequest{Preset: "fast"}, Timing.ReadGap, 1500 * time.Millisecond},
		{"the gap by operations", TimingRequest{}, Timing.ReadGap, 7 * second},
		{"own proof", TimingRequest{}, Timing.ProofWatch, 8 * second},
		{"the guard's answer", TimingRequest{}, Timing.AckLimit, 2 * second},
		{"KILL with S just below 4 s", TimingRequest{Stop: 3900 * time.Millisecond}, Timing.KillAfter, seconds(26.7 - 1.95)},
		{"KILL with S of 4 s", TimingRequest{Stop: 4 * second}, Timing.KillAfter, seconds(24.7)},
		{"KILL with S of 15 s", TimingRequest{Stop: 15 * second}, Timing.KillAfter, seconds(23.7)},
		{"the smallest margin", TimingRequest{Timeout: 3 * second, Stop: second, Heartbeat: 200 * time.Millisecond, Operation: 200 * time.Millisecond}, Timing.Margin, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Derive(c.request)
			if err != nil {
				t.Fatal(err)
			}
			if d := c.what(got); d != c.want {
				t.Errorf("got %v, want %v", d, c.want)
			}
		})
	}
}

// Each inequality on both sides of equality, which is legal; the refusal names
// the key to change, both numbers and the nearest legal value.
func TestTimingInequalities(t *testing.T) {
	const tick = time.Nanosecond
	legal := TimingRequest{Timeout: 10 * second, Heartbeat: second, Operation: second, Stop: second}
	with := func(change func(*TimingRequest)) TimingRequest {
		r := legal
		change(&r)
		return r
	}
	for _, c := range []struct {
		name      string
		ok, wrong TimingRequest
		key       string
		says      []string
	}{
		{
			"D >= h + 2o", // D = 9.9 - 1 - S; h + 2o = 3
			with(func(r *TimingRequest) { r.Stop = seconds(5.9) }),
			with(func(r *TimingRequest) { r.Stop = seconds(5.9) + tick }),
			"service.stopTimeout",
			[]string{"D >= h + 2o", "2.999999999s", "h + 2o = 3s", "T=10s", "service.stopTimeout 5.9s"},
		},
		{
			"T >= 5(h + o)",
			legal,
			with(func(r *TimingRequest) { r.Operation = second + tick }),
			"ha.heartbeatTimeout",
			[]string{"T >= 5(h + o)", "T=10s", "10.000000005s", "store.operationTimeout 1s"},
		},
		{
			"T >= 3s",
			TimingRequest{Timeout: 3 * second, Operation: 250 * time.Millisecond, Heartbeat: 300 * time.Millisecond},
			TimingRequest{Timeout: 3*second - time.Millisecond, Operation: 250 * time.Millisecond, Heartbeat: 300 * time.Millisecond},
			"ha.heartbeatTimeout",
			[]string{"2.999s", "3s"},
		},
		{
			"whole milliseconds",
			with(func(r *TimingRequest) { r.Timeout += time.Millisecond }),
			with(func(r *TimingRequest) { r.Timeout += time.Microsecond }),
			"ha.heartbeatTimeout",
			[]string{"10.000001s", "whole milliseconds"},
		},
		{
			"o >= 200ms",
			with(func(r *TimingRequest) { r.Operation = 200 * time.Millisecond }),
			with(func(r *TimingRequest) { r.Operation = 200*time.Millisecond - tick }),
			"store.operationTimeout",
			[]string{"199.999999ms", "200ms"},
		},
		{
			"S >= 1s",
			with(func(r *TimingRequest) { r.Stop = second }),
			with(func(r *TimingRequest) { r.Stop = second - tick }),
			"service.stopTimeout",
			[]string{"999.999999ms", "1s"},
		},
		{
			"h >= MinBeat",
			with(func(r *TimingRequest) { r.MinBeat = second }),
			with(func(r *TimingRequest) { r.MinBeat = second + tick }),
			"ha.heartbeatInterval",
			[]string{"1s", "1.000000001s"},
		},
		{
			"a standby's heartbeat is no shorter",
			with(func(r *TimingRequest) { r.StandbyHeartbeat = second }),
			with(func(r *TimingRequest) { r.StandbyHeartbeat = second - tick }),
			"ha.standbyHeartbeatInterval",
			[]string{"999.999999ms", "1s"},
		},
		{
			"nor longer than others believe",
			with(func(r *TimingRequest) { r.StandbyHeartbeat = 60 * second }),
			with(func(r *TimingRequest) { r.StandbyHeartbeat = 60*second + tick }),
			"ha.standbyHeartbeatInterval",
			[]string{"1m0.000000001s", "1m0s"},
		},
		{
			"unless heartbeats are rarer still", // derived from them
			TimingRequest{Timeout: 600 * second, Heartbeat: 90 * second, Takeover: 90 * second},
			TimingRequest{Timeout: 600 * second, Heartbeat: 90 * second, Takeover: 90 * second, StandbyHeartbeat: 90*second + tick},
			"ha.standbyHeartbeatInterval",
			[]string{"1m30.000000001s", "1m30s"},
		},
		{
			"poll <= h",
			with(func(r *TimingRequest) { r.Poll = second }),
			with(func(r *TimingRequest) { r.Poll = second + tick }),
			"ha.pollInterval",
			[]string{"1.000000001s", "1s"},
		},
		{
			"takeover >= h",
			with(func(r *TimingRequest) { r.Takeover = second }),
			with(func(r *TimingRequest) { r.Takeover = second - tick }),
			"ha.takeoverTimeout",
			[]string{"999.999999ms", "1s"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Derive(c.ok); err != nil {
				t.Errorf("equality is legal: %v", err)
			}
			_, err := Derive(c.wrong)
			var te *TimingError
			if !errors.As(err, &te) {
				t.Fatalf("got %v, want a TimingError", err)
			}
			if te.Key != c.key {
				t.Errorf("blames %s, want %s", te.Key, c.key)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
	if _, err := Derive(TimingRequest{Preset: "slow"}); err == nil || !strings.Contains(err.Error(), "default, fast or wan") {
		t.Errorf("an unknown preset: %v", err)
	}
}

// The value a refusal proposes is legal.
func TestTimingProposals(t *testing.T) {
	r := TimingRequest{Timeout: 10 * second, Heartbeat: second, Operation: second, Stop: 7 * second}
	_, err := Derive(r)
	if err == nil || !strings.Contains(err.Error(), "ha.heartbeatTimeout 11.236s") {
		t.Fatalf("got %v", err)
	}
	r.Timeout = 11236 * time.Millisecond
	if _, err := Derive(r); err != nil {
		t.Errorf("the proposed timeout is refused: %v", err)
	}
	r.Timeout -= time.Millisecond
	if _, err := Derive(r); err == nil {
		t.Error("a shorter timeout than the one proposed is legal")
	}
}

// Whatever Derive accepts keeps the order on which safety rests: a master stops
// before it kills, kills before its right ends, and its right ends before
// anybody may claim, however the two clocks err.
func TestTimingOrder(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, lo, hi int) time.Duration {
			if rapid.Bool().Draw(t, name+" derived") {
				return 0
			}
			return time.Duration(rapid.IntRange(lo, hi).Draw(t, name)) * time.Millisecond
		}
		got, err := Derive(TimingRequest{
			Timeout: ms("T", 3000, 120_000), Heartbeat: ms("h", 100, 5000), Operation: ms("o", 200, 8000), Stop: ms("S", 1000, 40_000),
		})
		if err != nil {
			return
		}
		accepted++
		L := got.Timeout
		switch {
		case got.StopAfter() < got.Heartbeat+2*got.Operation:
			t.Fatalf("D %v leaves no room for a retry: %+v", got.StopAfter(), got)
		case got.StopAfter() >= got.KillAfter() || got.KillAfter() >= got.End():
			t.Fatalf("stop %v, kill %v, end %v: %+v", got.StopAfter(), got.KillAfter(), got.End(), got)
		case got.End()+got.Margin() > L-L/100:
			t.Fatalf("E %v is too late: %+v", got.End(), got)
		case got.ClaimAfter(L) < L+L/100+got.ObserverGuard():
			t.Fatalf("claims after %v: %+v", got.ClaimAfter(L), got)
		}
	})
	if accepted == 0 {
		t.Error("nothing was accepted")
	}
}
