package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/api/server"
)

// nudgeLimit bounds the whole round: whoever was not reached in it finds the
// release with its next poll.
const nudgeLimit = 500 * time.Millisecond

// newNudger tells other nodes to read the register now. A nudge carries
// nothing and grants nothing, so whoever answers will do; but it proves to come
// from this node, for which others have a few nudges left when somebody floods
// them. me is nil for a node without TLS, whose nudges are like anybody's.
func newNudger(me *server.Peer) func(ctx context.Context, uris []string) {
	conf := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
	if me != nil {
		conf = me.Dial("")
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	return func(ctx context.Context, uris []string) {
		ctx, cancel := context.WithTimeout(ctx, nudgeLimit)
		defer cancel()
		var wg sync.WaitGroup
		for _, u := range uris {
			target, err := url.JoinPath(u, "v1/server/ha/nudge")
			if err != nil {
				continue
			}
			wg.Go(func() {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, http.NoBody)
				if err != nil {
					return
				}
				if resp, err := hc.Do(req); err == nil {
					resp.Body.Close() // nothing was read
				}
			})
		}
		wg.Wait()
	}
}
