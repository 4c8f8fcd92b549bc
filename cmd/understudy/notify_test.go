package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// TestWatchdogIsFedByTheLoop: READY once the loop runs, WATCHDOG as long as it
// turns and no longer, and again once the node is ending, when it has none.
func TestWatchdogIsFedByTheLoop(t *testing.T) {
	var sent []string
	now := lease.At(time.Hour)
	s := &ha.Status{Node: "n2222222", Standing: lease.StateStandby}
	n := &notifier{
		send:     func(state string) { sent = append(sent, state) },
		watchdog: 20 * time.Second, status: func() *ha.Status { return s }, now: func() lease.Instant { return now },
	}
	// pass lets time go by, with or without the loop, and counts what is sent.
	pass := func(d time.Duration, loop bool) (fed int) {
		sent = nil
		for range d / notifyEvery {
			now = now.Add(notifyEvery)
			if loop {
				next := *s
				next.LoopAt = now
				s = &next
			}
			n.look()
		}
		for _, w := range sent {
			if w == "WATCHDOG=1" {
				fed++
			}
		}
		return fed
	}
	if pass(time.Minute, false); len(sent) > 0 {
		t.Errorf("%q is sent before the loop runs", sent)
	}
	if fed := pass(40*time.Second, true); fed < 7 || fed > 9 {
		t.Errorf("fed %d times in two intervals, want four times in each", fed)
	}
	if len(sent) < 2 || sent[0] != "READY=1" || slices.Index(sent[1:], "READY=1") >= 0 || !slices.Contains(sent, "STATUS=STANDBY") {
		t.Errorf("%q is sent at the start", sent)
	}
	if fed := pass(5*time.Second, false); fed > 1 {
		t.Errorf("fed %d times in the quarter in which the loop stopped", fed)
	}
	if fed := pass(time.Minute, false); fed > 0 {
		t.Errorf("fed %d times although the loop stands still", fed)
	}
	if fed := pass(20*time.Second, true); fed < 3 {
		t.Errorf("fed %d times although the loop turns again", fed)
	}
	n.over.Store(true)
	if fed := pass(20*time.Second, false); fed < 3 || strings.Count(strings.Join(sent, "\n"), "STOPPING=1") != 1 {
		t.Errorf("%q is sent at the end", sent)
	}
}
