package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// startNode runs a node with a persisted state, and its REST, until the test
// ends, and returns its address.
func startNode(t *testing.T, at *memory.Location, want lease.State) string {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	uri := "http://" + srv.Listener.Addr().String() + "/"
	n, err := ha.New(at.Open(), ha.Options{
		Node: ha.NewNodeID(), URI: uri, Timing: timing, HotStandby: true, Clock: clock.Now, Persist: &ha.Persist{},
		OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = server.New(n, server.Options{Gate: func() *server.Gate { return &server.Gate{Disabled: true} }, State: n.Persisted()})
	srv.Start()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); srv.CloseClientConnections(); srv.Close(); wait.Wait() })
	for end := time.Now().Add(30 * time.Second); n.State() != want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a node is %s after 30 s, want %s", n.State(), want)
		}
	}
	return uri
}

// understudy runs one command line.
func understudy(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := execute(t.Context(), args, &out, &errs); code != want {
		t.Errorf("understudy %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, &out, &errs)
	}
	return out.String(), errs.String()
}

func TestStateCommands(t *testing.T) {
	at := memory.New()
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: 10 * time.Second, WriteID: ha.NewWriteID()}
	if err := at.Open().Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
	master := startNode(t, at, lease.StateMaster)
	standby := startNode(t, at, lease.StateHotStandby)
	t.Setenv("UNDERSTUDY_ENDPOINT", master)

	if out, _ := understudy(t, 0, "state", "put", "jobs/1", "first", "--if-absent"); out != "jobs/1: version 1\n" {
		t.Errorf("%q", out)
	}
	if out, _ := understudy(t, 0, "state", "get", "jobs/1"); out != "first" {
		t.Errorf("%q", out)
	}
	if out, _ := understudy(t, 0, "state", "get", "jobs/1", "-o", "json"); !strings.Contains(out, `"version": 1`) || !strings.Contains(out, `"master": true`) {
		t.Errorf("%s", out)
	}
	if _, errs := understudy(t, 3, "state", "put", "jobs/1", "x", "--if-absent"); !strings.Contains(errs, "must not be there, but it has version 1") {
		t.Errorf("%s", errs)
	}
	understudy(t, 2, "state", "put", "jobs/1", "x", "--if-absent", "--if-exists")
	understudy(t, 2, "state", "put", "jobs//1", "x")
	understudy(t, 2, "state", "put")
	understudy(t, 1, "state", "get", "jobs/2")
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A standby that is asked names the master, to whom the write goes.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var out, errs bytes.Buffer // it has to hear of the master first
		if execute(t.Context(), []string{"state", "put", "jobs/2", "--file", file, "--endpoint", standby}, &out, &errs) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a standby does not name the master: %s", &errs)
		}
	}
	if out, _ := understudy(t, 0, "state", "list", "jobs/"); !strings.Contains(out, "jobs/1") || !strings.Contains(out, "jobs/2") || !strings.Contains(out, "11") {
		t.Errorf("%s", out)
	}
	understudy(t, 3, "state", "delete", "jobs/1", "--if-version", "7")
	understudy(t, 0, "state", "delete", "jobs/1", "--if-version", "1")
	understudy(t, 0, "state", "delete", "jobs/1")
	understudy(t, 1, "state", "get", "jobs/1")

	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		var errs bytes.Buffer
		if code := execute(ctx, []string{"state", "watch", "jobs/", "--since", "1"}, w, &errs); code != 0 {
			t.Errorf("watch: %d %s", code, &errs)
		}
	})
	buf := make([]byte, 200)
	n, err := r.Read(buf)
	if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, "2 jobs/2 = from a file\n") {
		t.Errorf("%q %v", got, err)
	}
	cancel()
	wait.Wait()
	_, _ = r.Close(), w.Close()
}

// Dump and fsck look into the persisted state, with every daemon down.
func TestStoreCommandsKnowTheState(t *testing.T) {
	dir := t.TempDir()
	understudy(t, 0, "init", "--location", dir)
	store, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := ha.New(store, ha.Options{
		Node: ha.NewNodeID(), Timing: timing, Clock: clock.Now, Persist: &ha.Persist{SnapshotSegments: 4, Retention: time.Hour},
		OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
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
	for n.State() != lease.StateMaster && t.Context().Err() == nil {
		time.Sleep(2 * time.Millisecond)
	}
	for i := range 20 {
		if _, err := n.Persisted().Put(ctx, "k", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wait.Wait()
	if out, _ := understudy(t, 0, "store", "fsck", dir); !strings.Contains(out, "1 keys, 2 bytes, up to transaction 2") {
		t.Errorf("%s", out)
	}
	out, _ := understudy(t, 0, "store", "dump", dir)
	if !strings.Contains(out, "log/0000000000") || !strings.Contains(out, "snapshot/0000000000") || !strings.Contains(out, "1 keys") {
		t.Errorf("%s", out)
	}
	snaps, err := filepath.Glob(filepath.Join(dir, "state/snapshot/*"))
	if err != nil || len(snaps) < 2 {
		t.Fatal(snaps, err)
	}
	broken := snaps[len(snaps)-1]
	if err := os.Truncate(broken, 30); err != nil {
		t.Fatal(err)
	}
	if out, _ := understudy(t, 1, "store", "fsck", dir); !strings.Contains(out, filepath.Base(broken)) || !strings.Contains(out, "ends too early") {
		t.Errorf("%s", out)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
