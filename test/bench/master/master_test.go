package master

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/faultfs"
)

// What is promised of /master, beside a bare net/http handler over TLS.
const (
	leastRate  = 0.7 // of its requests per second
	longestP99 = 1.5 // times its 99th percentile
)

const (
	rounds      = 9
	roundLength = 2 * time.Second
	settle      = 30 * time.Second
	bareAddress = "BENCH_BARE" // in the environment: be the bare server, with a certificate in this directory
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(bareAddress); dir != "" {
		if err := bare(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(harness.Main(m))
}

// bare serves one constant answer until its standard input ends.
func bare(dir string) error {
	cert, _, err := server.LoadOrCreateCertificate(dir, []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ln, err := server.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{
		TLSConfig: server.TLSConfig(cert), ReadHeaderTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "MASTER\n") }),
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test closes it or dies
		_ = srv.Close()
	}()
	fmt.Println(ln.Addr())
	if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startBare runs the bare server as a process of its own and returns its
// address.
func startBare(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), bareAddress+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("the bare server: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// compare asks both in turns and holds the medians of the rounds' ratios
// against what is promised.
func compare(t *testing.T, what, node, plain string, times int, codes ...int) {
	t.Helper()
	var rate, tail []float64
	for i := range times {
		var got [2]result
		for j := range got {
			addr, path := node, "/master"
			if (i+j)%2 == 1 { // each is first in every other round
				addr, path = plain, "/"
			}
			r, err := load(t.Context(), addr, path, roundLength)
			if err != nil {
				t.Fatal(err)
			}
			got[(i+j)%2] = r
		}
		master, other := got[0], got[1]
		for code := range master.codes {
			if !slices.Contains(codes, code) {
				t.Errorf("%s: answers %v, want %v only", what, master.codes, codes)
			}
		}
		rate = append(rate, master.perSecond()/other.perSecond())
		tail = append(tail, float64(master.p99)/float64(other.p99))
		t.Logf("%s: /master %v; bare %v", what, master, other)
	}
	r, p := median(rate), median(tail)
	harness.Note(t, fmt.Sprintf("%s: /master has %.2f of a bare handler's requests per second (at least %.1f), its p99 is %.2f of the other's (at most %.1f); medians of %d rounds of %v, %d connections",
		what, r, leastRate, p, longestP99, times, roundLength, connections))
	if r < leastRate {
		t.Errorf("%s: %.2f of the requests per second of a bare handler, want at least %.1f", what, r, leastRate)
	}
	if p > longestP99 {
		t.Errorf("%s: the 99th percentile is %.2f of a bare handler's, want at most %.1f", what, p, longestP99)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// TestMasterUnderLoad: a node's /master under load, on a healthy store and on
// one that hangs.
func TestMasterUnderLoad(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("to mount a file system that hangs this has to run as root")
	}
	// T = 60 s: the master stays one for 36 s of the hang, and what is asked
	// of it meanwhile is still a master's answer.
	p := harness.NewPlane(t, harness.Options{Nodes: 1, FaultFS: true, Settings: harness.Preset("wan")})
	n := p.StartAndWait(settle)
	u, err := url.Parse(n.URL("/"))
	if err != nil {
		t.Fatal(err)
	}
	plain := startBare(t)
	compare(t, "healthy", u.Host, plain, rounds, http.StatusOK)
	fault := n.Fault.Inject(faultfs.Rule{Hang: true})
	defer fault.Remove()
	compare(t, "while the store hangs", u.Host, plain, rounds*2/3, http.StatusOK, http.StatusServiceUnavailable)
	if fault.Fired() == 0 {
		t.Error("the store never hung")
	}
}
