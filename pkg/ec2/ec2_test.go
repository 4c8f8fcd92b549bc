package ec2_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ec2"
	"github.com/understudy-ha/understudy/pkg/ec2/ec2test"
)

const (
	here  = "i-0123456789abcdef0"
	there = "i-0fedcba9876543210"
	alloc = "eipalloc-0123456789abcdef0"
)

// open starts a server and a client with the right credentials.
func open(t *testing.T) (*ec2test.Server, *ec2.Client) {
	t.Helper()
	s := ec2test.New(t)
	s.AddInstance(here, 1)
	s.AddInstance(there, 3)
	s.AddAddress(alloc, "203.0.113.7")
	setEnv(t, s)
	return s, client(t)
}

func setEnv(t *testing.T, s *ec2test.Server) {
	t.Helper()
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

func client(t *testing.T) *ec2.Client {
	t.Helper()
	c, err := ec2.Open(t.Context(), ec2.Options{Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// believed fails the test if the server did not believe a call.
func believed(t *testing.T, s *ec2test.Server) {
	t.Helper()
	if r := s.Refused(); len(r) > 0 {
		t.Errorf("not believed: %v", r)
	}
}

func TestPowerOffWaitsUntilDescribedAsStopped(t *testing.T) {
	s, c := open(t)
	state, err := c.PowerOff(t.Context(), there)
	if err != nil || state != "stopped" {
		t.Fatalf("%q, %v", state, err)
	}
	stops, looks := s.Calls("StopInstances"), s.Calls("DescribeInstances")
	if len(stops) != 1 || stops[0].Form.Get("Force") != "true" || len(looks) != 3 {
		t.Errorf("%d stops %v, %d looks; want one by force and three", len(stops), stops, len(looks))
	}
	// Once more: it is off already.
	if state, err := c.PowerOff(t.Context(), there); err != nil || state != "stopped" {
		t.Errorf("%q, %v", state, err)
	}
	believed(t, s)
}

func TestPowerOffThatIsNotConfirmed(t *testing.T) {
	s, c := open(t)
	s.AddInstance("i-00000000000000001", 1_000_000)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if state, err := c.PowerOff(ctx, "i-00000000000000001"); err == nil {
		t.Errorf("it counts as %q", state)
	}
	if _, err := c.PowerOff(t.Context(), "i-00000000000000002"); err == nil || !strings.Contains(err.Error(), "InvalidInstanceID.NotFound") {
		t.Errorf("an instance that does not exist: %v", err)
	}
	s.Fail("StopInstances", 1, http.StatusForbidden, "UnauthorizedOperation")
	if _, err := c.PowerOff(t.Context(), here); err == nil || !strings.Contains(err.Error(), "permission") {
		t.Errorf("without the right to: %v", err)
	}
	if n := len(s.Calls("DescribeInstances")); n == 0 {
		t.Error("nothing was asked")
	}
	believed(t, s)
}

func TestTransientErrorsAreTriedAgainAFewTimes(t *testing.T) {
	s, c := open(t)
	s.Fail("DescribeInstances", 2, http.StatusServiceUnavailable, "Unavailable")
	if state, err := c.State(t.Context(), here); err != nil || state != "running" {
		t.Errorf("%q, %v", state, err)
	}
	s.Fail("DescribeInstances", 100, http.StatusServiceUnavailable, "Unavailable")
	before := len(s.Calls("DescribeInstances"))
	if _, err := c.State(t.Context(), here); err == nil {
		t.Error("a service that always fails")
	}
	if n := len(s.Calls("DescribeInstances")) - before; n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

// What is not signed with the right secret is not believed: the stand-in is
// worth asking.
func TestWrongSecret(t *testing.T) {
	s, _ := open(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	if _, err := client(t).State(t.Context(), here); err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || !strings.Contains(err.Error(), "check the credentials") {
		t.Errorf("%v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", ec2test.SecretKey)
	t.Setenv("AWS_REGION", "us-east-1")
	if _, err := client(t).State(t.Context(), here); err == nil {
		t.Error("signed for another region")
	}
	if r := s.Refused(); len(r) != 2 || len(s.Calls("")) != 0 {
		t.Errorf("refused: %v, believed: %v", r, s.Calls(""))
	}
}

// TestSelf asks a stand-in for the metadata service.
func TestSelf(t *testing.T) {
	meta := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			_, _ = w.Write([]byte("token"))
		case strings.HasSuffix(r.URL.Path, "/instance-identity/document"):
			_, _ = w.Write([]byte(`{"instanceId":"` + here + `","region":"eu-north-1"}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer meta.Close()
	setEnv(t, ec2test.New(t))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", meta.URL)
	t.Setenv("AWS_REGION", "")
	if id, err := client(t).Self(t.Context()); id != here || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}

// keeper runs an Elastic whose node becomes master and ceases to be so.
type keeper struct {
	serving atomic.Bool
	mu      sync.Mutex
	said    []error
}

func (k *keeper) start(t *testing.T, e ec2.Elastic) {
	t.Helper()
	e.Allocation, e.Serving = alloc, k.serving.Load
	e.Said = func(_ ec2.Association, err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.said = append(k.said, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); e.Keep(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (k *keeper) heard() []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]error(nil), k.said...)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestElasticFollowsTheMaster(t *testing.T) {
	s, c := open(t)
	s.Associate(alloc, there) // the master before was never heard of again
	var k keeper
	k.start(t, ec2.Elastic{Client: c, Target: ec2.Target{Instance: here}, Check: 100 * time.Millisecond, Release: true})
	time.Sleep(200 * time.Millisecond) // nothing is to happen
	if n := len(s.Calls("")); n != 0 {
		t.Errorf("%d calls of a node that is not master", n)
	}
	k.serving.Store(true)
	eventually(t, "it leads here", func() bool { return s.Address(alloc).Instance == here })
	eventually(t, "that is said", func() bool { h := k.heard(); return len(h) == 1 && h[0] == nil })
	calls := s.Calls("AssociateAddress")
	if len(calls) != 1 || calls[0].Form.Get("AllowReassociation") != "true" || calls[0].Form.Get("InstanceId") != here {
		t.Errorf("associated by %v", calls)
	}
	eventually(t, "it is checked", func() bool { return len(s.Calls("DescribeAddresses")) >= 3 })
	s.Associate(alloc, there) // somebody else's mistake
	eventually(t, "it leads here again", func() bool { return s.Address(alloc).Instance == here })
	k.serving.Store(false)
	eventually(t, "it leads to nothing", func() bool { return s.Address(alloc).Association == "" })
	believed(t, s)
}

// The next master has taken the address over before the last one lets go.
func TestElasticLeavesTheNextMasterAlone(t *testing.T) {
	s, c := open(t)
	var k keeper
	k.start(t, ec2.Elastic{Client: c, Target: ec2.Target{Instance: here}, Check: time.Hour, Release: true})
	k.serving.Store(true)
	eventually(t, "it leads here", func() bool { return s.Address(alloc).Instance == here })
	eventually(t, "that is said", func() bool { return len(k.heard()) == 1 })
	s.Associate(alloc, there)
	k.serving.Store(false)
	eventually(t, "it is let go of", func() bool { return len(s.Calls("DisassociateAddress")) == 1 })
	if a := s.Address(alloc); a.Instance != there {
		t.Errorf("it leads to %q", a.Instance)
	}
}

func TestElasticThatFails(t *testing.T) {
	s, c := open(t)
	s.Fail("AssociateAddress", 4, http.StatusForbidden, "UnauthorizedOperation")
	var k keeper
	k.start(t, ec2.Elastic{Client: c, Target: ec2.Target{Interface: "eni-1", PrivateIP: "10.0.0.9"}, Retry: 10 * time.Millisecond, MaxRetry: 40 * time.Millisecond})
	k.serving.Store(true)
	eventually(t, "it leads here", func() bool { return s.Address(alloc).Interface == "eni-1" && s.Address(alloc).PrivateIP == "10.0.0.9" })
	eventually(t, "both are said, once", func() bool {
		h := k.heard()
		return len(h) == 2 && h[0] != nil && h[1] == nil && strings.Contains(h[0].Error(), "UnauthorizedOperation")
	})
	if n := len(s.Calls("AssociateAddress")); n != 5 {
		t.Errorf("%d calls, want 5", n)
	}
}
