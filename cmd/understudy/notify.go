package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// notifyEvery is how often a node looks whether there is news for its service
// manager.
const notifyEvery = 100 * time.Millisecond

// notifier tells the service manager that started this process (systemd, by
// NOTIFY_SOCKET; see sd_notify(3)) how the node is. Without one it does nothing.
type notifier struct {
	send     func(state string)
	watchdog time.Duration // 0: none is wanted
	status   func() *ha.Status
	now      func() lease.Instant

	over atomic.Bool // the node has ended, the rest is being taken down

	ready, stopping bool
	said            string        // the latest STATUS
	fed             lease.Instant // when
}

func newNotifier(node *ha.Node, log *zap.Logger) *notifier {
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("WATCHDOG_USEC is not understood, so systemd's watchdog is not fed", zap.Error(err))
	}
	return &notifier{send: func(state string) { tellManager(log, state) }, watchdog: watchdog, status: node.Status, now: node.Now}
}

// tellManager sends one notification.
func tellManager(log *zap.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Debug("sd_notify", zap.String("state", state), zap.Error(err))
	}
}

// run tells until ctx ends, which is when everything else has.
func (n *notifier) run(ctx context.Context) {
	tick := time.NewTicker(notifyEvery)
	defer tick.Stop()
	for {
		n.look()
		select {
		case <-tick.C:
		case <-ctx.Done():
			n.look() // a short end is told, too
			return
		}
	}
}

// look says what is new. The watchdog is fed four times per interval, and only
// if the node's loop has turned since the last time; once the node is ending its
// loop is over, and the time that systemd allows for a stop is the limit.
func (n *notifier) look() {
	s, now := n.status(), n.now()
	if s.LoopAt.IsZero() {
		return // it does not run yet
	}
	if !n.ready {
		n.ready = true
		n.send(sd.SdNotifyReady)
	}
	if (s.Stopping || n.over.Load()) && !n.stopping {
		n.stopping = true
		n.send(sd.SdNotifyStopping)
	}
	if w := statusWords(s, now); w != n.said {
		n.said = w
		n.send("STATUS=" + w)
	}
	if n.watchdog == 0 || (!n.fed.IsZero() && now.Longest(n.fed) < n.watchdog/4) {
		return
	}
	if n.stopping || now.Longest(s.LoopAt) < n.watchdog/4 {
		n.fed = now
		n.send(sd.SdNotifyWatchdog)
	}
}

// statusWords is the line that "systemctl status" shows.
func statusWords(s *ha.Status, now lease.Instant) string {
	state := s.StateAt(now)
	switch {
	case state == lease.StateFailed && s.Detail != "":
		return fmt.Sprintf("%s: %s: %s", state, s.Why, s.Detail)
	case s.Holder == s.Node && s.HolderOK:
		return fmt.Sprintf("%s, term %d", state, s.Term)
	case s.Holder != "":
		return fmt.Sprintf("%s, term %d is held by %s", state, s.Term, s.Holder)
	}
	return string(state)
}

// tellReload does what a SIGHUP asks for, between the two words that systemd
// wants to hear: reloading, and ready again.
func tellReload(log *zap.Logger, reload func()) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every Linux has it
	tellManager(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, ts.Nano()/1000))
	reload()
	tellManager(log, sd.SdNotifyReady)
}
