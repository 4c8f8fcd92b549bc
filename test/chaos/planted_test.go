package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/chaos/history"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// service is a kvservice without any Understudy.
type service struct {
	url string
	cmd *exec.Cmd
}

func startService(t *testing.T, data, records string, port int, term uint64, argv ...string) *service {
	t.Helper()
	s := &service{url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	if len(argv) == 0 {
		argv = []string{kvservice}
	}
	argv = append(argv, "-listen", strings.TrimPrefix(s.url, "http://"), "-dir", data)
	s.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), argv[0], argv[1:]...)
	s.cmd.Env = append(os.Environ(), "REC_DIR="+records, fmt.Sprintf("HA_TERM=%d", term), fmt.Sprintf("HA_NODE=node%d", term))
	s.cmd.Stderr = os.Stderr
	must(t, s.cmd.Start())
	t.Cleanup(s.kill)
	ready := func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/ready", http.NoBody)
		must(t, err)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	}
	if !harness.Poll(10*time.Second, ready) {
		t.Fatal("the service does not become ready")
	}
	return s
}

func (s *service) kill() {
	_ = s.cmd.Process.Kill() // gone, perhaps
	_ = s.cmd.Wait()
}

// freePorts are free now; nothing else is about to take one of loopback's.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for p := 31000 + os.Getpid()%1000; len(ports) < n; p++ {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		if unix.Bind(fd, &unix.SockaddrInet4{Port: p, Addr: [4]byte{127, 0, 0, 1}}) == nil {
			ports = append(ports, p)
		}
		must(t, unix.Close(fd))
	}
	return ports
}

// TestTwoServicesAtOnceAreCaught plants what Understudy is there to exclude: a
// service in term 2 begins while that of term 1 lives on, with clients at both,
// and neither looks at its token. Each judge must see it by itself.
func TestTwoServicesAtOnceAreCaught(t *testing.T) {
	data, records := t.TempDir(), t.TempDir()
	ports := freePorts(t, 2)
	first := startService(t, data, records, ports[0], 1, kvservice, "-unfenced")
	var (
		mu      sync.Mutex
		acked   int
		clients []*Client
		wg      sync.WaitGroup
	)
	ctx, cancel := context.WithCancel(t.Context())
	defer wg.Wait()
	defer cancel()
	for i := range 4 {
		at := new(atomic.Int64)
		at.Store(int64(i % 2))
		c := &Client{
			ID: i, at: i % 2, URLs: []string{first.url, fmt.Sprintf("http://127.0.0.1:%d", ports[1])}, Keys: []string{"a", "b"}, Master: at,
			Acked: func(int64) { mu.Lock(); acked++; mu.Unlock() },
		}
		clients = append(clients, c)
		wg.Go(func() { c.Run(ctx, 1) })
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return acked }
	reached := func(n int) func() bool { return func() bool { return count() >= n } }
	if !harness.Poll(10*time.Second, reached(20)) {
		t.Fatal("the clients get nowhere with one service")
	}
	startService(t, data, records, ports[1], 2, kvservice, "-unfenced")
	if !harness.Poll(10*time.Second, reached(count()+40)) {
		t.Fatal("the clients get nowhere with two services")
	}
	cancel()
	wg.Wait()
	var ops []history.Op
	for _, c := range clients {
		ops = append(ops, c.Ops...)
	}
	var unordered []string
	for _, key := range history.Keys(ops) {
		if v := history.Linearizable(ops, key, time.Minute); v != "" {
			unordered = append(unordered, v)
		}
	}
	for judge, says := range map[string][]string{
		"versions": history.Lost(ops), "terms": history.Terms(ops), "porcupine": unordered, "records": overlaps(t, records),
	} {
		if len(says) == 0 {
			t.Errorf("%s: nothing was seen of two services at once", judge)
		} else {
			t.Logf("%s: %d findings, such as %s", judge, len(says), says[0])
		}
	}
}

func overlaps(t *testing.T, records string) (out []string) {
	t.Helper()
	rec, err := intervals.Read(records)
	must(t, err)
	for _, o := range rec.Overlaps() {
		out = append(out, o.String())
	}
	return out
}

// TestStaleReadIsCaught plants a service that lives on and is only read from.
func TestStaleReadIsCaught(t *testing.T) {
	data, records := t.TempDir(), t.TempDir()
	ports := freePorts(t, 2)
	first := startService(t, data, records, ports[0], 1)
	c := &Client{URLs: []string{first.url, fmt.Sprintf("http://127.0.0.1:%d", ports[1])}}
	c.connect()
	var ops []history.Op
	do := func(at int, write bool, value string) {
		t.Helper()
		c.at = at
		o := history.Op{Key: "a", Write: write, Value: value}
		if c.Do(t.Context(), &o); o.Outcome != history.OK {
			t.Fatalf("%v", o)
		}
		ops = append(ops, o)
	}
	do(0, true, "old")
	startService(t, data, records, ports[1], 2)
	do(1, true, "new")
	do(1, false, "")
	if p := history.Judge(ops, time.Minute); len(p) > 0 {
		t.Fatalf("so far all is well, judged %q", p)
	}
	do(0, false, "")
	got := strings.Join(history.Judge(ops, time.Minute), "\n")
	for _, want := range []string{"not linearizable", "lost: the version fell", "the term fell"} {
		if !strings.Contains(got, want) {
			t.Errorf("judged %q, which lacks %q", got, want)
		}
	}
	if len(overlaps(t, records)) == 0 {
		t.Error("the records do not show two services")
	}
}

// TestRecordsOfOtherClocks: a service in a time namespace of its own records
// the machine's time, or no overlap could ever be seen, or one in every run.
func TestRecordsOfOtherClocks(t *testing.T) {
	needs(t)
	for _, offset := range []string{"86400", "-100"} {
		data, records := t.TempDir(), t.TempDir()
		before := intervals.Now()
		s := startService(t, data, records, freePorts(t, 1)[0], 1,
			"unshare", "--time", "--fork", "--kill-child=KILL", "--monotonic", offset, "--boottime", offset, kvservice)
		if !harness.Poll(10*time.Second, func() bool {
			rec, err := intervals.Read(records)
			must(t, err)
			return len(rec.Trees) == 1 && rec.Trees[0].Processes[0].Beats > 0
		}) {
			t.Fatal("no record")
		}
		s.kill()
		rec, err := intervals.Read(records)
		must(t, err)
		if tree := rec.Trees[0]; tree.Start < before || tree.Last > intervals.Now() {
			t.Errorf("offset %s s: alive %v..%v, want within %v..%v", offset, tree.Start, tree.Last, before, intervals.Now())
		}
	}
}

// TestStopsAsAsked: a service that is asked to end says so in its record.
func TestStopsAsAsked(t *testing.T) {
	data, records := t.TempDir(), t.TempDir()
	s := startService(t, data, records, freePorts(t, 1)[0], 1)
	must(t, s.cmd.Process.Signal(syscall.SIGTERM))
	must(t, s.cmd.Wait())
	rec, err := intervals.Read(records)
	must(t, err)
	if p := rec.Trees[0].Processes[0]; !p.Stopped || p.StopWhy != asked || len(p.Signals) != 1 {
		t.Errorf("the record does not end in a stop: %+v", p)
	}
}

// TestSupersededSaysSo: a service that finds itself replaced ends and says why,
// which a run counts as a violation: Understudy should have ended it before.
func TestSupersededSaysSo(t *testing.T) {
	data, records := t.TempDir(), t.TempDir()
	ports := freePorts(t, 2)
	first := startService(t, data, records, ports[0], 1)
	startService(t, data, records, ports[1], 2)
	c := &Client{URLs: []string{first.url}}
	c.connect()
	o := history.Op{Key: "a", Write: true, Value: "late"}
	if c.Do(t.Context(), &o); o.Outcome != history.Unknown {
		t.Errorf("a write to a service that was replaced: %v", o)
	}
	if err := first.cmd.Wait(); err == nil {
		t.Error("it ended with 0")
	}
	rec, err := intervals.Read(records)
	must(t, err)
	if got := Ends(rec); len(got) != 1 || !strings.Contains(got[0], "superseded") {
		t.Errorf("judged %q", got)
	}
}

// complaints keeps what would fail a test.
type complaints struct {
	testing.TB
	all []string
}

func (c *complaints) Error(args ...any) { c.all = append(c.all, fmt.Sprint(args...)) }
func (c *complaints) Errorf(format string, args ...any) {
	c.all = append(c.all, fmt.Sprintf(format, args...))
}

// TestWholeNodeFrozenIsCaught does to a real plane what no software on the node
// can survive: everything of the master is frozen, its guard included, and of
// what is thawed after its successor has begun the service comes first. The
// judges of a run see that. And they see what a fencing token is for: the old
// service's answers are stale, but its write is refused.
func TestWholeNodeFrozenIsCaught(t *testing.T) {
	needs(t)
	seen := &complaints{TB: t}
	t.Cleanup(func() {
		if len(seen.all) != 1 || !strings.Contains(seen.all[0], "two services alive at once") {
			t.Errorf("the harness says %q, want that two services were alive at once", seen.all)
		}
	})
	p, urls := newPlane(seen, &directory{})
	old := p.StartAndWait(settle)
	c := &Client{URLs: urls}
	c.connect()
	var ops []history.Op
	do := func(n *harness.Node, write bool, value string) history.Op {
		t.Helper()
		c.at = slices.Index(p.Nodes, n)
		o := history.Op{Key: "a", Write: write, Value: value}
		c.Do(t.Context(), &o)
		ops = append(ops, o)
		return o
	}
	if o := do(old, true, "old"); o.Outcome != history.OK {
		t.Fatal(o)
	}
	frozen := old.Processes()
	at := intervals.Now()
	for _, q := range frozen {
		must(t, unix.Kill(q.Pid, unix.SIGSTOP))
	}
	tree := p.WaitStart(at, settle)
	next := p.NodeOf(tree)
	if !harness.Poll(settle, func() bool { return do(next, true, "new").Outcome == history.OK }) {
		t.Fatal("the next service does not write")
	}
	thaw := func(service bool) {
		for _, q := range frozen {
			if (q.Role == harness.Service) != service {
				continue
			}
			// The guard, once awake, may be faster than we are.
			if err := unix.Kill(q.Pid, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Error(err)
			}
		}
	}
	thaw(true)
	stale := do(old, false, "")
	late := do(old, true, "late")
	thaw(false)
	if stale.Outcome != history.OK || stale.Value != "old" {
		t.Errorf("the thawed service answers %v, want what it remembers", stale)
	}
	if late.Outcome == history.OK {
		t.Errorf("the thawed service acknowledges a write: %v", late)
	}
	if got := strings.Join(history.Judge(ops, time.Minute), "\n"); !strings.Contains(got, "not linearizable") || !strings.Contains(got, "the term fell") {
		t.Errorf("the clients' history is judged %q", got)
	}
	if !harness.Poll(settle, func() bool { return old.Count(harness.Service) == 0 }) {
		t.Error("the old service lives on")
	}
	if o := do(next, false, ""); o.Value != "new" {
		t.Errorf("in the end the register holds %v", o)
	}
}
