package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fakeState answers every change with err, or takes it.
type fakeState struct{ err error }

func (f *fakeState) Picture() (ha.Picture, error) {
	return ha.Picture{}, errors.Join(f.err, ha.ErrNotHot)
}
func (f *fakeState) Txn(context.Context, journal.Txn) (uint64, error) { return 7, f.err }
func (f *fakeState) Watch(string, uint64) (*ha.Watcher, error)        { return nil, f.err }

// What went wrong decides the status: nothing but 204 and 504 leaves room for
// doubt.
func TestStateRefusals(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		part string
	}{
		{nil, 204, ""},
		{ha.ErrUnknown, 504, "not known"},
		{fmt.Errorf("%w: %w", ha.ErrUnknown, context.DeadlineExceeded), 504, "not known"},
		{ha.ErrNotMaster, 403, notMasterMessage},
		{ha.ErrNoState, 412, "persistMode"},
		{ha.ErrBusy, 503, "later"},
		{ha.ErrClosed, 503, ""},
		{&journal.LimitError{What: "bytes of a value", Have: 9, Max: 8}, 413, "9, at most 8"},
		{&journal.LimitError{What: "bytes of the persisted state", Have: 9, Max: 8, Whole: true}, 507, "9, at most 8"},
		{fmt.Errorf("x: %w", journal.ErrBadKey), 400, "not a key"},
		{&journal.ConflictError{Condition: journal.Condition{Key: "a", Version: 3}, Have: 4}, 412, "must have version 3, but it has version 4"},
		{&ha.NotStoredError{Err: persistence.Full}, 507, "free space"},
		{&ha.NotStoredError{Err: persistence.ReadOnly}, 503, "was not made"},
	} {
		g := newRig(t, mastering(), Options{State: &fakeState{err: c.err}})
		r := g.ask(http.MethodDelete, "/v1/state/a/b", "")
		if r.code != c.code || !strings.Contains(r.body, c.part) {
			t.Errorf("%v: %d %s", c.err, r.code, r.body)
		}
		if c.code == 412 && !errors.Is(c.err, ha.ErrNoState) && r.header.Get("ETag") != `"4"` {
			t.Errorf("%v: ETag %s", c.err, r.header.Get("ETag"))
		}
	}
}

// stateRig is a server over real nodes that share a memory.
type stateRig struct {
	*rig
	state *ha.State
	store *faulty.Store
}

// newPlaneRigs starts a master and a hot standby.
func newPlaneRigs(t *testing.T) (master, standby *stateRig) {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	at := memory.New()
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: timing.Timeout, WriteID: ha.NewWriteID()}
	if err := at.Open().Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
	start := func(want lease.State) *stateRig {
		store := faulty.Wrap(at.Open())
		n, err := ha.New(store, ha.Options{
			Node: ha.NewNodeID(), Timing: timing, HotStandby: true, Clock: clock.Now, URI: "https://" + string(want) + ":8443/",
			Persist: &ha.Persist{}, OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		srv := httptest.NewServer(New(n, Options{Gate: gate(Gate{Users: fixedAuth{}}), State: n.Persisted()}))
		t.Cleanup(func() { cancel(); srv.CloseClientConnections(); srv.Close(); store.Clear(); wait.Wait() })
		until(t, string(want), func() bool { return n.State() == want })
		return &stateRig{&rig{t: t, url: srv.URL, http: srv.Client()}, n.Persisted(), store}
	}
	return start(lease.StateMaster), start(lease.StateHotStandby)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func (g *stateRig) put(key, value string, header ...string) reply {
	return g.ask(http.MethodPut, "/v1/state/"+key, value, append([]string{"Content-Type", "application/octet-stream"}, header...)...)
}

func TestStateByREST(t *testing.T) {
	m, s := newPlaneRigs(t)
	expect := func(r reply, code int, what string) reply {
		t.Helper()
		if r.code != code {
			t.Errorf("%s: %d %s, want %d", what, r.code, r.body, code)
		}
		return r
	}
	first := expect(m.put("job/1", "one"), 204, "put").header.Get("ETag")
	r := expect(m.ask(http.MethodGet, "/v1/state/job/1", ""), 200, "get")
	if r.body != "one" || r.header.Get("ETag") != first || r.header.Get(v1.HeaderState) != "MASTER" || r.header.Get(v1.HeaderStateSeq) != "1" {
		t.Errorf("%+v", r)
	}
	expect(m.ask(http.MethodGet, "/v1/state/job/1", "", "If-None-Match", first), 304, "not modified")
	expect(m.ask(http.MethodHead, "/v1/state/job/1", ""), 200, "head")
	expect(m.ask(http.MethodGet, "/v1/state/job", ""), 404, "absent")
	expect(m.put("job/1", "x", "If-None-Match", "*"), 412, "create what is there")
	second := expect(m.put("job/1", "two", "If-Match", first), 204, "compare and set").header.Get("ETag")
	if r := expect(m.put("job/1", "three", "If-Match", first), 412, "with an old version"); r.header.Get("ETag") != second {
		t.Errorf("ETag %s, want %s", r.header.Get("ETag"), second)
	}
	expect(m.put("none", "x", "If-Match", "*"), 412, "replace what is not there")
	expect(m.put("job/1", "x", "If-Match", "two"), 400, "no ETag")
	expect(m.put("job/2", strings.Repeat("x", journal.MaxValue)), 204, "at the limit")
	expect(m.put("job/2", strings.Repeat("x", journal.MaxValue+1)), 413, "above the limit")
	expect(m.put(strings.Repeat("k", journal.MaxKey+1), "x"), 413, "a long key")
	expect(m.put("watch", "x"), 400, "the watch path")
	expect(m.put(".own/x", "x"), 400, "a key of Understudy's own")
	expect(m.put("a%2F%2Fb", "x"), 400, "no key")
	expect(m.put("%C3%A4/b%20c", ""), 204, "any UTF-8")
	if r := expect(m.ask(http.MethodGet, "/v1/state?prefix=job/&limit=1", ""), 200, "list"); !strings.Contains(r.body, `"key":"job/1"`) || !strings.Contains(r.body, `"more":true`) {
		t.Error(r.body)
	}
	if r := expect(m.ask(http.MethodGet, "/v1/state?after=job/2", ""), 200, "list"); !strings.Contains(r.body, `"keys":[{"key":"ä/b c","version":`) || !strings.Contains(r.body, `"more":false`) {
		t.Error(r.body)
	}
	// The standby follows, says how far, and takes no writes.
	until(t, "the standby follows", func() bool { return s.ask(http.MethodGet, "/v1/state/job/1", "").body == "two" })
	if r := s.ask(http.MethodGet, "/v1/state/job/1", ""); r.header.Get(v1.HeaderState) != "HOT_STANDBY" || r.header.Get(v1.HeaderStateSeq) == "" {
		t.Errorf("%+v", r)
	}
	if r := expect(s.put("job/1", "x"), 403, "put on a standby"); !strings.Contains(r.body, notMasterMessage) {
		t.Error(r.body)
	}
	expect(m.ask(http.MethodDelete, "/v1/state/job/1", "", "If-Match", first), 412, "delete an old version")
	expect(m.ask(http.MethodDelete, "/v1/state/job/1", ""), 204, "delete")
	expect(m.ask(http.MethodGet, "/v1/state/job/1", ""), 404, "deleted")

	full := m.store.Inject(faulty.Fault{Op: faulty.Put, Match: journal.LogPrefix, Drop: true, Err: persistence.Full})
	expect(m.put("job/9", "x"), 507, "full")
	full.Remove()
	if full.Fired() == 0 {
		t.Error("the store was not full")
	}
	expect(m.put("job/9", "x"), 204, "after that")
}

func TestStateWatchByREST(t *testing.T) {
	m, _ := newPlaneRigs(t)
	for i := range 3 {
		m.put(fmt.Sprint("job/", i), fmt.Sprint(i))
	}
	m.put("other", "x")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.url+"/v1/state/watch?prefix=job/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", secret)
	req.Header.Set("Last-Event-ID", "1")
	resp, err := m.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	m.ask(http.MethodDelete, "/v1/state/job/0", "")
	var got []string
	in := bufio.NewScanner(resp.Body)
	for len(got) < 3 && in.Scan() {
		if data, ok := strings.CutPrefix(in.Text(), "data: "); ok {
			got = append(got, data)
		}
	}
	want := []string{
		`{"seq":2,"changes":[{"key":"job/1","value":"MQ=="}]}`,
		`{"seq":3,"changes":[{"key":"job/2","value":"Mg=="}]}`,
		`{"seq":5,"changes":[{"key":"job/0","deleted":true,"value":null}]}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || resp.Header.Get("Content-Type") != typeEvents {
		t.Errorf("%s\n%s, want\n%s", resp.Header.Get("Content-Type"), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
