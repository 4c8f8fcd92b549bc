package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take on a machine that has much to do.
const patience = 2 * time.Minute

// script notes each run of a job.
const script = `echo "$1" >> "$2"; echo "job $1 ran"`

// process is a scheduler that can be killed and started again.
type process struct {
	t    *testing.T
	args []string
	url  string
	cmd  *exec.Cmd
	log  string
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.CommandContext(context.WithoutCancel(p.t.Context()), p.args[0], p.args[1:]...) //nolint:gosec // what was just built
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives a test that is killed
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
}

// ask returns the status, 0 if there is no answer.
func (p *process) ask(ctx context.Context, method, path, body string) (int, string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func startThree(t *testing.T) (all []*process, dir string) {
	t.Helper()
	dir = t.TempDir()
	binary := filepath.Join(dir, "scheduler")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil { //nolint:gosec // this package
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "shared"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(dir, fmt.Sprint("node", i))
		p := &process{t: t, url: "http://" + addr, log: data + ".log", args: []string{
			binary, "--store", filepath.Join(dir, "shared"), "--data", data, "--listen", addr,
		}}
		p.start()
		t.Cleanup(func() {
			p.kill()
			if b, err := os.ReadFile(p.log); t.Failed() && err == nil {
				t.Logf("%s:\n%s", p.url, b[max(0, len(b)-4000):])
			}
		})
		all = append(all, p)
	}
	return all, dir
}

// within waits for an outcome, however long it takes within reason.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// master waits for the one that says it is.
func master(t *testing.T, all []*process) (m *process) {
	t.Helper()
	within(t, "a master", func() bool {
		i := slices.IndexFunc(all, func(p *process) bool {
			_, s := p.ask(t.Context(), http.MethodGet, "/state", "")
			return s == "MASTER\n"
		})
		if i >= 0 {
			m = all[i]
		}
		return i >= 0
	})
	return m
}

// jobsOf lists the jobs of a plane as its master has them.
func jobsOf(t *testing.T, all []*process) []job {
	t.Helper()
	var jobs []job
	within(t, "the jobs", func() bool {
		code, body := master(t, all).ask(t.Context(), http.MethodGet, "/jobs", "")
		return code == http.StatusOK && json.Unmarshal([]byte(body), &jobs) == nil
	})
	return jobs
}

// customer submits jobs, one after the other, and keeps what was acknowledged.
type customer struct {
	mu    sync.Mutex
	acked []uint64
}

func (c *customer) ids() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.acked)
}

func (c *customer) submit(ctx context.Context, all []*process, argument string) {
	for i := 0; ctx.Err() == nil; i++ {
		code, body := all[i%len(all)].ask(ctx, http.MethodPost, "/jobs?artifact=note.sh", argument)
		var j job
		if code == http.StatusCreated && json.Unmarshal([]byte(body), &j) == nil {
			c.mu.Lock()
			c.acked = append(c.acked, j.ID)
			c.mu.Unlock()
			i-- // it is master: stay with it
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// runs counts how often each job ran.
func runs(t *testing.T, file string) map[uint64]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	n := map[uint64]int{}
	for line := range bytes.Lines(b) {
		id, err := strconv.ParseUint(strings.TrimSpace(string(line)), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		n[id]++
	}
	return n
}

// TestKilledMasters does what README.md shows, again and again: the master is
// killed while jobs are submitted and run. No id is given twice, no job that was
// acknowledged is lost, and none is run again whose end was known.
// SCHEDULER_KILLS says how often.
func TestKilledMasters(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("SCHEDULER_KILLS"))
	if err != nil {
		kills = 2
	}
	all, dir := startThree(t)
	within(t, "the script is pushed", func() bool {
		code, _ := master(t, all).ask(t.Context(), http.MethodPut, "/artifacts/note.sh", script)
		return code == http.StatusOK
	})
	noted, c := filepath.Join(dir, "runs"), &customer{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); c.submit(ctx, all, noted) }()
	known := map[uint64]int{} // how often a job had run when its end was known
	for range kills {
		before := len(c.ids())
		within(t, "jobs are taken and done", func() bool {
			jobs := jobsOf(t, all)
			return len(c.ids()) >= before+5 && slices.ContainsFunc(jobs, func(j job) bool { return j.Done && known[j.ID] == 0 })
		})
		jobs, ran := jobsOf(t, all), runs(t, noted)
		for _, j := range jobs {
			if j.Done && known[j.ID] == 0 {
				known[j.ID] = ran[j.ID]
			}
		}
		m := master(t, all)
		m.kill()
		m.start()
	}
	before := len(c.ids())
	within(t, "jobs are taken after the last kill", func() bool { return len(c.ids()) > before })
	cancel()
	<-ended
	judge(t, all, c.ids(), known, noted)
}

func judge(t *testing.T, all []*process, acked []uint64, known map[uint64]int, noted string) {
	t.Helper()
	var jobs []job
	within(t, "every job is done", func() bool {
		jobs = jobsOf(t, all)
		return !slices.ContainsFunc(jobs, func(j job) bool { return !j.Done })
	})
	there, terms := map[uint64]bool{}, map[uint64]bool{}
	for i, j := range jobs {
		there[j.ID], terms[j.Term] = true, true
		if j.ID != uint64(i)+1 || j.Output != fmt.Sprintf("job %d ran\n", j.ID) {
			t.Errorf("job %d is %+v", i+1, j)
		}
	}
	for i, id := range acked {
		if !there[id] {
			t.Errorf("job %d was acknowledged and is lost", id)
		}
		if i > 0 && id <= acked[i-1] {
			t.Errorf("the ids %d and %d were given in this order", acked[i-1], id)
		}
	}
	ran := runs(t, noted)
	for _, j := range jobs {
		if ran[j.ID] == 0 {
			t.Errorf("job %d never ran", j.ID)
		}
	}
	for id, n := range known {
		if ran[id] != n {
			t.Errorf("job %d was done and had run %d times; now %d", id, n, ran[id])
		}
	}
	if len(terms) < 2 {
		t.Errorf("all jobs were run in one term: nothing was survived")
	}
	t.Logf("%d jobs acknowledged, %d run, in %d terms", len(acked), len(jobs), len(terms))
}
