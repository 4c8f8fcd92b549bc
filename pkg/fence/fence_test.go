package fence_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ec2"
	"github.com/understudy-ha/understudy/pkg/ec2/ec2test"
	"github.com/understudy-ha/understudy/pkg/fence"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The test binary plays the shim of the commands that methods run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guard.ShimCommand {
		os.Exit(guard.ShimMain())
	}
	os.Exit(m.Run())
}

const node = lease.NodeID("n63twgfn")

var old = ha.FenceTarget{Plane: "plane001", Node: node, Term: 7, By: "nother01"}

func act(ok bool, words string) func(context.Context, ha.FenceTarget, string) (string, error) {
	return func(context.Context, ha.FenceTarget, string) (string, error) {
		if !ok {
			return "", errors.New(words)
		}
		return words, nil
	}
}

func TestFirstSuccessWins(t *testing.T) {
	hosts := map[lease.NodeID]string{node: "machine1"}
	f := fence.New([]fence.Method{
		{Name: "a", Timeout: time.Second, Act: act(false, "no\nanswer")},
		{Name: "b", Timeout: time.Second, NeedsHost: true, Act: act(true, "never")},
		{Name: "c", Timeout: time.Second, NeedsHost: true, Hosts: hosts, Act: act(true, "it ended")},
		{Name: "d", Timeout: 2 * time.Second, Proves: true, Hosts: hosts, Act: act(true, "it is off")},
		{Name: "e", Timeout: time.Second, Proves: true, Act: act(true, "never")},
	})
	say := func(tries []ha.FenceTry) string {
		var b strings.Builder
		for _, x := range tries {
			b.WriteString(x.Method + ":" + x.Detail)
			if x.OK {
				b.WriteString(" ok")
			}
			if x.Off {
				b.WriteString(" off")
			}
			b.WriteString("; ")
		}
		return b.String()
	}
	if got := say(f.Fence(t.Context(), old, false)); got != "a:no answer; b:fencing.hosts names no machine for n63twgfn; c:it ended ok; " {
		t.Error(got)
	}
	if got := say(f.Fence(t.Context(), old, true)); got != "d:it is off ok off; " {
		t.Error(got)
	}
	if nodes, limit := f.Provable(); len(nodes) != 1 || nodes[0] != node || limit != 3*time.Second {
		t.Error(nodes, limit)
	}
}

func TestEachMethodHasItsTimeout(t *testing.T) {
	hang := func(ctx context.Context, _ ha.FenceTarget, _ string) (string, error) {
		<-ctx.Done()
		return "", errors.New("still waiting")
	}
	f := fence.New([]fence.Method{
		{Name: "hangs", Timeout: 50 * time.Millisecond, Act: hang},
		{Name: "next", Timeout: time.Second, Act: act(true, "done")},
	})
	tries := f.Fence(t.Context(), old, false)
	if len(tries) != 2 || tries[0].OK || !strings.HasPrefix(tries[0].Detail, "not done within 50ms: ") || !tries[1].OK {
		t.Errorf("%+v", tries)
	}
	// When nobody waits any more, nothing further is tried.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if tries := f.Fence(ctx, old, false); len(tries) != 1 {
		t.Errorf("%+v", tries)
	}
}

func TestCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	script := `echo "$FENCE_HOST $FENCE_NODE $FENCE_TERM $FENCE_BY $FENCE_PLANE $1 $2" >` + out + `; echo powered off`
	do := fence.Command([]string{"/bin/sh", "-c", script, "sh", "{host}", "{node}/{term}"}, []string{"PATH=/usr/bin:/bin"}, guard.RunApart)
	done, err := do(t.Context(), old, "machine1")
	if err != nil || done != "powered off" {
		t.Fatalf("%q, %v", done, err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "machine1 n63twgfn 7 nother01 plane001 machine1 n63twgfn/7\n" {
		t.Errorf("%q, %v", b, err)
	}
	fails := fence.Command([]string{"/bin/sh", "-c", "echo no such outlet >&2; exit 3"}, nil, guard.RunApart)
	if _, err := fails(t.Context(), old, "machine1"); err == nil || err.Error() != "/bin/sh ended with exit code 3: no such outlet" {
		t.Errorf("%v", err)
	}
	absent := fence.Command([]string{"/no/such/program"}, nil, guard.RunApart)
	if _, err := absent(t.Context(), old, "machine1"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	hangs := fence.Command([]string{"/bin/sh", "-c", "sleep 300"}, []string{"PATH=/usr/bin:/bin"}, guard.RunApart)
	if _, err := hangs(ctx, old, "machine1"); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestSSH(t *testing.T) {
	dir := t.TempDir()
	// A stand-in for ssh(1) that shows what it was asked.
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil { //nolint:gosec // it is to be executed
		t.Fatal(err)
	}
	env := []string{"PATH=" + dir + ":/usr/bin:/bin"}
	do := fence.SSH("root", "/etc/key", []string{"systemctl", "stop", "understudy"}, env, guard.RunApart)
	done, err := do(t.Context(), old, "machine1")
	want := "-oBatchMode=yes -oConnectTimeout=10 -oStrictHostKeyChecking=yes -oIdentitiesOnly=yes -i /etc/key -l root machine1 -- systemctl stop understudy"
	if err != nil || done != want {
		t.Errorf("%q, %v", done, err)
	}
	if _, err := do(t.Context(), old, "-oProxyCommand=x"); err == nil {
		t.Error("an option counts as a host")
	}
}

// former is the REST of a former master.
type former struct {
	leads, stuck, foreign atomic.Bool
	asked                 atomic.Int32
}

func (f *former) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := string(node)
	if f.foreign.Load() {
		id = "nother01"
	}
	w.Header().Set("X-HA-Node", id)
	w.Header().Set("X-HA-State", "FAILED")
	w.Header().Set("X-HA-Term", "7")
	w.Header().Set("X-HA-Lease-Remaining-Ms", "0")
	switch r.URL.Path {
	case "/leader":
		if !f.leads.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/v1/server/ha/health":
		why := "null"
		if f.stuck.Load() {
			why = `"FENCING_FAILED"`
		}
		_, _ = w.Write([]byte(`{"nodeId":"` + id + `","state":"FAILED","why":` + why + `}`))
	case "/v1/server/ha/state":
		if user, password, _ := r.BasicAuth(); (user != "op" || password != "secret") && len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f.asked.Add(1)
		f.leads.Store(false)
		_, _ = w.Write([]byte(`"MASTER"`))
	}
}

func TestStepDown(t *testing.T) {
	var f former
	s := httptest.NewTLSServer(&f)
	defer s.Close()
	dir := t.TempDir()
	ca, password := filepath.Join(dir, "ca"), filepath.Join(dir, "password")
	for path, text := range map[string]string{
		ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})), password: "secret\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := old
	at.URI = s.URL
	ask, asks := fence.StepDown(fence.Login{CAFile: ca}), fence.StepDown(fence.Login{User: "op", PasswordFile: password, CAFile: ca})

	if done, err := ask(t.Context(), at, ""); err != nil || done != "it leads no term any more" {
		t.Errorf("%q, %v", done, err)
	}
	f.leads.Store(true)
	if _, err := ask(t.Context(), at, ""); err == nil || !strings.Contains(err.Error(), "still leads") {
		t.Errorf("without a password: %v", err)
	}
	// hosts may name another address than the node's own record.
	if done, err := asks(t.Context(), old, s.URL); err != nil || done != "it has stepped down" || f.asked.Load() != 1 {
		t.Errorf("%q, %v, asked %d times", done, err, f.asked.Load())
	}
	f.stuck.Store(true)
	if _, err := asks(t.Context(), at, ""); err == nil || !strings.Contains(err.Error(), "FENCING_FAILED") {
		t.Errorf("with a service that does not end: %v", err)
	}
	f.stuck.Store(false)
	f.foreign.Store(true)
	if _, err := asks(t.Context(), at, ""); err == nil || !strings.Contains(err.Error(), `"nother01" answers there`) {
		t.Errorf("where another answers: %v", err)
	}
	if _, err := asks(t.Context(), old, ""); err == nil {
		t.Error("with no address")
	}
}

// Without a password a node asks as what it is; where it can not, it does not ask.
func TestStepDownAsANode(t *testing.T) {
	var f former
	s := httptest.NewUnstartedServer(&f)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	at := old
	at.URI = s.URL
	me := func(id lease.NodeID) *tls.Config {
		if id != node {
			return nil
		}
		return &tls.Config{InsecureSkipVerify: true, Certificates: s.TLS.Certificates}
	}
	f.leads.Store(true)
	if done, err := fence.StepDown(fence.Login{AsNode: me})(t.Context(), at, ""); err != nil || done != "it has stepped down" || f.asked.Load() != 1 {
		t.Errorf("%q, %v, asked %d times", done, err, f.asked.Load())
	}
	stranger := at
	stranger.Node = "nother01"
	if _, err := fence.StepDown(fence.Login{AsNode: me})(t.Context(), stranger, ""); err == nil || f.asked.Load() != 1 {
		t.Errorf("a node without a key: %v, asked %d times", err, f.asked.Load())
	}
}

func TestEC2Stop(t *testing.T) {
	const id = "i-0123456789abcdef0"
	s := ec2test.New(t)
	s.AddInstance(id, 2)
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	do := fence.EC2Stop(ec2.Options{Poll: 10 * time.Millisecond})
	if done, err := do(t.Context(), old, id); err != nil || done != "the instance "+id+" is stopped" {
		t.Errorf("%q, %v", done, err)
	}
	if len(s.Calls("DescribeInstances")) < 2 || len(s.Refused()) > 0 {
		t.Errorf("asked %v, not believed %v", s.Calls(""), s.Refused())
	}
}
