package chaos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/test/chaos/history"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const (
	// answerWithin is how long a client waits for an answer.
	answerWithin = 2 * time.Second
	// thinkFor is the mean time between two operations of a client.
	thinkFor = 40 * time.Millisecond
	// lookAgain is how soon a client that found nobody tries again.
	lookAgain = 20 * time.Millisecond
)

// Client reads and writes registers, of the service or of the persisted state, one operation at a time, and writes down
// what it saw.
type Client struct {
	ID   int
	URLs []string // of each node's service
	Keys []string
	// Master is the node that says it is master, -1 for none; nil for a client
	// that tries the services in turn. Either stays with one that answers.
	Master *atomic.Int64
	Acked  func(call int64) // told of each acknowledged write
	// State are the nodes, for a client of the persisted state; nil for one of
	// the service.
	State []*harness.Node

	Ops []history.Op // once Run has returned

	rand *rand.Rand
	http *http.Client
	at   int
	n    int // of writes
}

// Run works until ctx ends, and then ends what is under way.
func (c *Client) Run(ctx context.Context, seed uint64) {
	c.rand = rand.New(rand.NewPCG(seed, uint64(c.ID)+100)) //nolint:gosec // reproducible on purpose
	c.connect()
	defer c.http.CloseIdleConnections()
	for ctx.Err() == nil {
		pause := time.Duration(c.rand.Int64N(int64(2 * thinkFor)))
		if !c.step(ctx) {
			pause = lookAgain
			c.elsewhere()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (c *Client) connect() {
	c.http = &http.Client{Timeout: answerWithin, Transport: &http.Transport{
		MaxIdleConnsPerHost: 1, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // self-signed, on loopback
	}}
}

// elsewhere chooses whom to ask next, after one did not answer.
func (c *Client) elsewhere() {
	if c.Master == nil {
		c.at = (c.at + 1) % max(len(c.URLs), len(c.State))
	} else if m := c.Master.Load(); m >= 0 {
		c.at = int(m)
	}
}

// step does one operation. It reports whether the service gave any answer.
func (c *Client) step(ctx context.Context) (answered bool) {
	o := history.Op{Client: c.ID, Key: c.Keys[c.rand.IntN(len(c.Keys))], Write: c.rand.IntN(2) == 0}
	if o.Write {
		c.n++
		o.Value = fmt.Sprintf("c%d-%d", c.ID, c.n)
	}
	c.Do(ctx, &o)
	if o.Term == 0 && o.Outcome == history.Failed {
		return false // nobody was there: nothing to write down
	}
	c.Ops = append(c.Ops, o)
	if o.Write && o.Outcome == history.OK {
		c.Acked(o.Call)
	}
	return o.Outcome == history.OK
}

// Do performs an operation and fills in what became of it. It is bounded by
// the client's own timeout, and not by the end of ctx: that would only make
// more unknown outcomes.
func (c *Client) Do(ctx context.Context, o *history.Op) {
	if c.State != nil {
		c.DoState(ctx, c.State[c.at], o)
		return
	}
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if o.Write {
		method, body = http.MethodPost, strings.NewReader(o.Value)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, c.URLs[c.at]+"/r/"+o.Key, body)
	if err != nil {
		panic(err) // our own URL
	}
	o.Call = int64(intervals.Now())
	res, err := c.http.Do(req)
	var answer struct {
		Term    uint64
		Version uint64
		Value   string
	}
	code := 0
	if err == nil {
		code = res.StatusCode
		o.Term, _ = strconv.ParseUint(res.Header.Get("X-Ha-Term"), 10, 64) // 0 if it is not the service's answer
		b, rerr := io.ReadAll(res.Body)
		res.Body.Close()
		if err = rerr; err == nil && code == http.StatusOK {
			err = json.Unmarshal(b, &answer)
		}
	}
	o.Return = int64(intervals.Now())
	switch {
	case err == nil && code == http.StatusOK:
		o.Outcome, o.Version = history.OK, answer.Version
		if !o.Write {
			o.Value = answer.Value
		} else if o.Value != answer.Value {
			panic(fmt.Sprintf("wrote %q, acknowledged was %q", o.Value, answer.Value))
		}
	case !o.Write, err == nil && code == http.StatusServiceUnavailable, errors.Is(err, syscall.ECONNREFUSED):
		o.Outcome = history.Failed
	default:
		o.Outcome = history.Unknown
	}
}
