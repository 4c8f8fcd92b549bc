package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// demoPatience bounds waits for what takes about a second.
const demoPatience = 20 * time.Second

func readDemoFile(t *testing.T, dir string) demoFile {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "counter.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f demoFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func openDemoFiles(t *testing.T, dir string, term uint64) (*demoCounter, error) {
	t.Helper()
	store, err := demoFilesIn(dir)(term)
	if err != nil {
		t.Fatal(err)
	}
	return openDemoCounter(t.Context(), store, "nodea001", term)
}

func openDemo(t *testing.T, dir string, term uint64) *demoCounter {
	t.Helper()
	c, err := openDemoFiles(t, dir, term)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// keepDemo runs the keeper; the function it returns ends it and gives its error.
func keepDemo(t *testing.T, c *demoCounter) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	ended, result := false, error(nil)
	end = func() error {
		cancel()
		if !ended {
			ended, result = true, <-done
		}
		return result
	}
	t.Cleanup(func() { _ = end() })
	return end
}

func askDemo(t *testing.T, method, url string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestDemoCounterGoesOnInTheNextTerm(t *testing.T) {
	dir := t.TempDir()
	first := openDemo(t, dir, 3)
	if got := readDemoFile(t, dir); got != (demoFile{Term: 3}) {
		t.Errorf("new file = %+v", got)
	}
	end := keepDemo(t, first)
	srv := httptest.NewServer(first.handler())
	defer srv.Close()

	for range 20 {
		status, header, body := askDemo(t, http.MethodPost, srv.URL+"/counter")
		if status != http.StatusOK || header.Get("X-HA-Term") != "3" {
			t.Fatalf("POST = %d, %v, %s", status, header, body)
		}
	}
	// Each POST was answered 200, so at least 20 are on the disk already.
	if got := readDemoFile(t, dir); got.Counter < 20 {
		t.Errorf("after 20 confirmed posts the file says %+v", got)
	}
	last := first.add() // nobody waits for this one, it is saved at the end
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if got := readDemoFile(t, dir); got.Counter < last {
		t.Errorf("ended with %d, the file says %+v", last, got)
	}
	kept := readDemoFile(t, dir)
	if v := first.view(); v.Counter != kept.Counter || v.Saved != kept.Counter || v.Error != "" {
		t.Errorf("ended with %+v, the file says %+v", v, kept)
	}

	second := openDemo(t, dir, 4)
	if v := second.view(); v.Counter != kept.Counter || v.Saved != kept.Counter || v.Term != 4 {
		t.Errorf("the next term begins with %+v, want %d", v, kept.Counter)
	}
	if got := readDemoFile(t, dir); got.Term != 4 {
		t.Errorf("the file does not carry the new term before serving: %+v", got)
	}
}

func TestDemoCounterCountsByItself(t *testing.T) {
	dir := t.TempDir()
	c := openDemo(t, dir, 1)
	keepDemo(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), demoPatience)
	defer cancel()
	if err := c.awaitSaved(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if got := readDemoFile(t, dir); got.Counter < 2 {
		t.Errorf("file = %+v", got)
	}
}

func TestDemoCounterYieldsToAHigherTerm(t *testing.T) {
	dir := t.TempDir()
	old := openDemo(t, dir, 5)
	end := keepDemo(t, old)
	openDemo(t, dir, 6)
	newer := demoFile{Term: 6, Counter: 100}
	if err := os.WriteFile(filepath.Join(dir, "counter.json"), []byte(`{"term":6,"counter":100}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), demoPatience)
	defer cancel()
	if err := old.awaitSaved(ctx, 1<<60); !errors.Is(err, errSuperseded) {
		t.Errorf("waiting for a save = %v, want %v", err, errSuperseded)
	}
	if err := end(); !errors.Is(err, errSuperseded) {
		t.Errorf("the old service ended with %v, want %v", err, errSuperseded)
	}
	if got := readDemoFile(t, dir); got != newer {
		t.Errorf("the old service changed the file to %+v", got)
	}
	if _, err := openDemoFiles(t, dir, 5); !errors.Is(err, errSuperseded) {
		t.Errorf("an old term starts: %v", err)
	}
}

func TestDemoCounterDropsLeftoversOfOlderTermsOnly(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{demoTmpPrefix + "4", demoTmpPrefix + "9", demoTmpPrefix + "x", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openDemo(t, dir, 5)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), demoTmpPrefix+"9 "+demoTmpPrefix+"x counter.json notes"; got != want {
		t.Errorf("left: %s, want: %s", got, want)
	}
}

func TestDemoCounterOutlastsATroubledStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := openDemo(t, dir, 1)
	keepDemo(t, c)
	srv := httptest.NewServer(c.handler())
	defer srv.Close()

	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	status, _, body := askDemo(t, http.MethodPost, srv.URL+"/counter")
	var v demoView
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatal(err)
	}
	if status != http.StatusAccepted || v.Error == "" || v.Saved >= v.Counter {
		t.Errorf("POST without a store = %d, %+v", status, v)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), demoPatience)
	defer cancel()
	for c.awaitSaved(ctx, v.Counter) != nil {
		if ctx.Err() != nil {
			t.Fatalf("not saved after the store came back: %+v", c.view())
		}
	}
	if got := readDemoFile(t, dir); got.Counter < v.Counter {
		t.Errorf("file = %+v, want at least %d", got, v.Counter)
	}
}

func TestDemoCounterRefusesWhatIsNotItsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "counter.json")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openDemoFiles(t, dir, 1)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("error = %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is now %q", b)
	}
}

func TestDemoServiceCommand(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HA_NODE", "nodea001")
	t.Setenv("HA_TERM", "12")
	r, w := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), demoPatience)
	done := make(chan error, 1)
	cmd := newDemoServiceCommand()
	cmd.SetOut(w)
	cmd.SetArgs([]string{"--listen", "127.0.0.1:0", "--dir", dir})
	go func() {
		done <- cmd.ExecuteContext(ctx)
		_ = w.Close()
	}()
	ended := false
	end := func() error {
		cancel()
		if ended {
			return nil
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { _ = end() })

	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var node, url string
	var term uint64
	if _, err := fmt.Sscanf(line, "demo-service: node %s serves term %d on %s", &node, &term, &url); err != nil {
		t.Fatalf("printed %q: %v", line, err)
	}
	url = strings.TrimSuffix(url, ",")
	if node != "nodea001" || term != 12 {
		t.Errorf("printed %q", line)
	}
	status, header, body := askDemo(t, http.MethodGet, url+"/")
	if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/html") || !strings.Contains(body, `fetch("counter"`) {
		t.Errorf("GET / = %d, %v", status, header)
	}
	status, _, body = askDemo(t, http.MethodGet, url+"/counter")
	if status != http.StatusOK || !strings.Contains(body, `"node":"nodea001"`) || !strings.Contains(body, `"term":12`) {
		t.Errorf("GET /counter = %d, %s", status, body)
	}
	if status, _, _ = askDemo(t, http.MethodGet, url+"/other"); status != http.StatusNotFound {
		t.Errorf("GET /other = %d", status)
	}
	if err := end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if got := readDemoFile(t, dir); got.Term != 12 {
		t.Errorf("file = %+v", got)
	}
}

func TestDemoServiceNeedsATerm(t *testing.T) {
	t.Setenv("HA_TERM", "")
	err := runDemoService(t.Context(), io.Discard, "127.0.0.1:0", demoFilesIn(t.TempDir()))
	if err == nil || !strings.Contains(err.Error(), "HA_TERM") || !strings.Contains(err.Error(), "service.command") {
		t.Errorf("error = %v", err)
	}
}

// Without a directory the number is in the plane's persisted state, where the
// next term finds it, and a lost answer is made up for.
func TestDemoCounterInThePersistedState(t *testing.T) {
	at := memory.New()
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: 10 * time.Second, WriteID: ha.NewWriteID()}
	if err := at.Open().Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DEMO_NODE", startNode(t, at, lease.StateMaster))
	open := func(term uint64) *demoCounter {
		store, err := openDemoState(term)
		if err != nil {
			t.Fatal(err)
		}
		c, err := openDemoCounter(t.Context(), store, "nodea001", term)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := open(3)
	end := keepDemo(t, first)
	srv := httptest.NewServer(first.handler())
	defer srv.Close()
	for range 5 {
		if status, _, body := askDemo(t, http.MethodPost, srv.URL+"/counter"); status != http.StatusOK {
			t.Fatalf("POST = %d, %s", status, body)
		}
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	last := first.view().Counter
	second := open(4)
	if got := second.view().Counter; got != last || last < 5 {
		t.Errorf("the next term begins with %d, want %d", got, last)
	}
	second.store.(*demoState).version = 1 // as if the answer to its last write had been lost
	if err := second.store.save(last + 7); err != nil {
		t.Error(err)
	}
	third := open(5)
	if got := third.view().Counter; got != last+7 {
		t.Errorf("it goes on with %d, want %d", got, last+7)
	}
	old, err := openDemoState(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDemoCounter(t.Context(), old, "nodea001", 3); !errors.Is(err, errSuperseded) {
		t.Errorf("an old term begins: %v", err)
	}
}
