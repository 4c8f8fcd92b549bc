package server

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// What HAProxy's agent-check is told.
const (
	agentUp    = "up ready\n" // MASTER by the truth rule; ready takes a drain back
	agentDrain = "drain\n"    // on a planned move: no new sessions, the service still runs
	agentDown  = "down\n"
)

const (
	agentWrite = time.Second // for a client that does not read
	agentPause = 100 * time.Millisecond
)

// ServeAgent answers each connection with one line for HAProxy's agent-check,
// judged at that moment, and closes it; until ctx ends. It returns when
// everything it started has ended. The listener is closed in any case.
func ServeAgent(ctx context.Context, ln net.Listener, n Node, logger *zap.Logger) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if conn != nil {
				conn.Close()
			}
			return
		case err != nil: // out of descriptors, most likely
			logger.Debug("agent", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(agentPause):
			}
		default:
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetWriteDeadline(time.Now().Add(agentWrite))
				_, _ = io.WriteString(conn, agentWord(n.Status(), n.Now())) // the client's loss
			})
		}
	}
}

func agentWord(s *ha.Status, now lease.Instant) string {
	switch {
	case s.Serving(now):
		return agentUp
	case s.Leading(now) && s.Reign.Ending:
		return agentDrain
	}
	return agentDown
}
