package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/s3/proxy"
	"github.com/understudy-ha/understudy/test/s3/server"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fast are the durations of the preset "fast" on S3.
func fast(t *testing.T) election.Timing {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: 1})
	must(t, err)
	return timing
}

func says(t *testing.T, n *harness.Node, words ...string) {
	t.Helper()
	if !harness.Poll(settle, func() bool { return lineWith(n.Log(), words...) != "" }) {
		t.Errorf("%s has no line with all of %q:\n%s", n.Name, words, n.Log())
		return
	}
	t.Logf("%s: %s", n.Name, lineWith(n.Log(), words...))
}

func failed(t *testing.T, n *harness.Node, reasons ...string) {
	t.Helper()
	var state v1.State
	var code string
	if !harness.Poll(settle, func() bool {
		state, code = n.State(), why(n)
		return state == v1.StateFailed && slices.Contains(reasons, code)
	}) {
		t.Errorf("%s shows %s because of %q, want FAILED because of one of %v", n.Name, state, code, reasons)
	}
}

// down asserts what a plane without its store does for a while: the service
// ends by D + S, nobody starts another.
func (c *cloud) down(t *testing.T, since intervals.Instant, d time.Duration) {
	t.Helper()
	timing := fast(t)
	time.Sleep(max(d-intervals.Now().Sub(since), 0))
	last, ok := c.Record().LastAliveBefore(intervals.Now())
	if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(since) > limit {
		t.Errorf("the service lived for %v without a store, want at most D + S = %v", last.Sub(since), limit)
	}
	if n := c.Record().StartsAfter(since); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	for _, n := range c.Nodes {
		if !n.Running() {
			t.Errorf("%s ended", n.Name)
		}
	}
}

// recovers asserts that the plane does so by itself.
func (c *cloud) recovers(t *testing.T, since intervals.Instant) {
	t.Helper()
	next := c.WaitStart(since, 2*settle)
	harness.Note(t, fmt.Sprintf("a service runs %v after the trouble is over", next.Start.Sub(since).Round(time.Millisecond)))
	c.WaitSettled(settle)
}

// stays asserts that a plane goes on under its master for a while.
func (c *cloud) stays(t *testing.T, master *harness.Node, d time.Duration) {
	t.Helper()
	if harness.Poll(d, func() bool { return !master.IsMaster() && !harness.Poll(2*time.Second, master.IsMaster) }) {
		t.Errorf("%s is %s because of %s", master.Name, master.State(), why(master))
	}
	if rec := c.Record(); len(rec.Trees) != 1 {
		t.Errorf("services: %v, want one", rec.Trees)
	}
}

// TestRefusedStarts: what only an operator can put right ends the start with one
// line that says what to do.
func TestRefusedStarts(t *testing.T) {
	s := server.Start(t, server.Versity)
	for _, tt := range []struct {
		name    string
		prepare func(c *cloud, n *harness.Node)
		code    int
		words   []string
	}{
		{"bucket missing", func(_ *cloud, n *harness.Node) {
			n.Store = strings.Replace(n.Store, "s3://"+s.Bucket, "s3://nowhere", 1)
		}, 2, []string{"NoSuchBucket", "create the bucket"}},
		{"wrong secret", func(_ *cloud, n *harness.Node) {
			n.Env = []string{"AWS_SECRET_ACCESS_KEY=another"}
		}, 2, []string{"permission denied", "s3:ListBucket", "check the credentials"}},
		{"unknown access key", func(_ *cloud, n *harness.Node) {
			n.Env = []string{"AWS_ACCESS_KEY_ID=nobody"}
		}, 2, []string{"permission denied", "check the credentials"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCloud(t, s, harness.Options{Nodes: 1, NoInit: true})
			n := c.Nodes[0]
			tt.prepare(c, n)
			n.Start()
			if code := n.WaitExit(settle); code != tt.code {
				t.Errorf("it ended with %d, want %d", code, tt.code)
			}
			says(t, n, append([]string{"understudy: "}, tt.words...)...)
			n.WaitGone(settle)
		})
	}
}

// TestEndpointDownAtStart: nodes wait for it and say so, unless they are told to
// fail fast.
func TestEndpointDownAtStart(t *testing.T) {
	alongside(t)
	s := server.Start(t, server.Versity)
	c := newCloud(t, s, harness.Options{Nodes: 2})
	s.Stop()
	n, impatient := c.Nodes[0], c.Nodes[1]
	impatient.Set("ha.failFast", true)
	c.Start()
	if code := impatient.WaitExit(settle); code != 4 {
		t.Errorf("with ha.failFast it ended with %d, want 4", code)
	}
	says(t, n, "the store does not answer; waiting for it", "s3://")
	n.WaitState(settle, v1.StateInitializing)
	if harness.Poll(fastT, func() bool { return !n.Running() || n.State() != v1.StateInitializing }) {
		t.Errorf("it is %s", n.State())
	}
	s.Start()
	n.WaitState(settle, v1.StateMaster)
	impatient.Start()
	c.WaitSettled(settle)
}

// TestUnavailable: the service answers 503 for a while, 5 minutes in full.
func TestUnavailable(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{})
	c.StartAndWait(settle)
	at := intervals.Now()
	faults := c.everywhere(proxy.Rule{Status: http.StatusServiceUnavailable, Code: "SlowDown"})
	c.down(t, at, time.Duration(rounds(15, 300))*time.Second)
	for _, n := range c.Nodes {
		failed(t, n, election.ReasonStore, election.ReasonLeaseLost)
		says(t, n, "the store does not answer", "SlowDown")
	}
	for _, f := range faults {
		if f.Remove(); f.Fired() == 0 {
			t.Error("nobody felt the fault")
		}
	}
	c.recovers(t, intervals.Now())
}

// TestRandomResets: one connection of ten breaks, before or after the request
// had its effect.
func TestRandomResets(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{})
	c.StartAndWait(settle)
	faults := append(c.everywhere(proxy.Rule{Chance: 0.05, Reset: true}), c.everywhere(proxy.Rule{Chance: 0.05, Reset: true, After: true})...)
	time.Sleep(time.Duration(rounds(15, 300)) * time.Second)
	fired := 0
	for _, f := range faults {
		f.Remove()
		fired += f.Fired()
	}
	if fired < 10 {
		t.Errorf("the faults fired %d times", fired)
	}
	c.WaitSettled(settle)
	harness.Note(t, fmt.Sprintf("%d resets: %d services in all", fired, len(c.Record().Trees)))
	if n := len(c.Record().Trees); n != 1 {
		t.Errorf("%d services, want one: what is lost is read back", n)
	}
}

// TestSlow: every request takes 2 s, with T = 30s.
func TestSlow(t *testing.T) {
	if !full() {
		return // the plane needs more than half a minute to get going
	}
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{Settings: harness.Preset("default")})
	master := c.StartAndWait(settle)
	faults := c.everywhere(proxy.Rule{Delay: 2 * time.Second})
	c.stays(t, master, 3*time.Minute)
	for _, f := range faults {
		if f.Fired() == 0 {
			t.Error("nobody felt the fault")
		}
	}
	at := master.KillTree()
	next := c.WaitStart(at, 2*time.Minute)
	harness.Note(t, fmt.Sprintf("2 s per request, T=30s: kill -9 of the whole tree to the next start: %v", next.Start.Sub(at).Round(time.Millisecond)))
}

// put replaces an object behind everybody's back.
func (c *cloud) put(t *testing.T, key, content string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestLimit)
	defer cancel()
	_, err := c.server.Client().PutObject(ctx, &awss3.PutObjectInput{Bucket: &c.server.Bucket, Key: aws.String(key), Body: strings.NewReader(content)})
	must(t, err)
}

// TestGarbage: an object is replaced by something else. What is advisory is
// written anew; the register nobody claims, and nobody changes.
func TestGarbage(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{Nodes: 2})
	master := c.StartAndWait(settle)
	for _, key := range []string{"view", "nodes/" + master.ID(), "nodes/" + c.Standby(master).ID(), "history/zzz", "nodes/other"} {
		c.put(t, planePrefix+"/"+key, "\x00garbage")
	}
	c.stays(t, master, 3*time.Second)

	before, err := c.register()
	must(t, err)
	c.put(t, registerKey, "garbage")
	at := intervals.Now()
	for _, n := range c.Nodes {
		failed(t, n, election.ReasonUnreadable)
		says(t, n, "FAILED", election.ReasonUnreadable, "nobody will claim it")
	}
	c.down(t, at, fast(t).ClaimAfter(0)+2*time.Second)
	now, err := c.register()
	must(t, err)
	if string(now) != "garbage" {
		t.Errorf("the register was changed to %q", now)
	}
	c.put(t, registerKey, string(before))
	c.recovers(t, intervals.Now())
}

// TestBucketVanishes under a living plane, and comes back.
func TestBucketVanishes(t *testing.T) {
	alongside(t)
	s := server.Start(t, server.Versity)
	c := newCloud(t, s, harness.Options{Nodes: 2})
	c.StartAndWait(settle)
	at := intervals.Now()
	must(t, os.Rename(s.Dir, s.Dir+".away"))
	c.down(t, at, fast(t).ClaimAfter(0)+2*time.Second)
	for _, n := range c.Nodes {
		n.WaitState(settle, v1.StateFailed)
	}
	if _, err := os.Stat(s.Dir); err == nil {
		t.Error("somebody made a bucket")
	}
	must(t, os.Rename(s.Dir+".away", s.Dir))
	c.recovers(t, intervals.Now())
}

// TestVersioningTurnedOn under a living plane: it goes on, and who looks is told.
func TestVersioningTurnedOn(t *testing.T) {
	alongside(t)
	s := server.Start(t, server.Versity, "--versioning-dir", t.TempDir())
	c := newCloud(t, s, harness.Options{Nodes: 2})
	master := c.StartAndWait(settle)
	_, err := s.Client().PutBucketVersioning(t.Context(), &awss3.PutBucketVersioningInput{
		Bucket: &s.Bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	must(t, err)
	c.stays(t, master, fastT)
	st := open(t, s, planePrefix)
	defer st.Close()
	told := false
	for _, f := range st.Inspect(t.Context()) {
		if strings.Contains(strings.ToLower(f.Name+f.Detail), "version") {
			told = told || f.Status == persistence.GradeWarn && f.Remedy != ""
			t.Logf("%+v", f)
		}
	}
	if !told {
		t.Error("an inspection does not warn of it")
	}
	at := master.KillTree()
	if next := c.WaitStart(at, 2*fastT+settle); c.NodeOf(next) == master {
		t.Errorf("%s serves again", master.Name)
	}
}

// TestSecretChanged: the server takes other credentials for a while.
func TestSecretChanged(t *testing.T) {
	alongside(t)
	s := server.Start(t, server.Versity)
	c := newCloud(t, s, harness.Options{Nodes: 2})
	c.StartAndWait(settle)
	right := s.Secret
	at := intervals.Now()
	s.Stop()
	s.Secret = "another-secret-for-now"
	s.Start()
	c.down(t, at, fast(t).ClaimAfter(0)+2*time.Second)
	for _, n := range c.Nodes {
		says(t, n, "FAILED", "permission denied", "check the credentials")
	}
	s.Stop()
	s.Secret = right
	at = intervals.Now()
	s.Start()
	c.recovers(t, at)
}

// TestCredentialsExpire: they come from a program, each for a short while, and
// the network refuses those that have expired. As long as the program gives new
// ones nobody notices; when it does not, the plane stops, and goes on with it.
func TestCredentialsExpire(t *testing.T) {
	alongside(t)
	s := server.Fake(t, nil) // versitygw takes no session tokens
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // nothing secret but made-up keys
	const life = 12 * time.Second
	program := filepath.Join(dir, "credentials")
	keys, err := s.Keys().Retrieve(t.Context())
	must(t, err)
	script := fmt.Sprintf(`#!/bin/sh
[ -e %[1]s/broken ] && exit 1
now=$(date +%%s)
end=$((now + %[2]d))
printf '{"Version":1,"AccessKeyId":"%%s","SecretAccessKey":"%%s","SessionToken":"until-%%s","Expiration":"%%s"}' \
  '%[3]s' '%[4]s' "$end" "$(date -u -d @$end +%%Y-%%m-%%dT%%H:%%M:%%SZ)"
`, dir, int(life.Seconds()), keys.AccessKeyID, keys.SecretAccessKey)
	must(t, os.WriteFile(program, []byte(script), 0o755)) //nolint:gosec // it is a program
	config := filepath.Join(dir, "config")
	must(t, os.WriteFile(config, []byte("[default]\ncredential_process = "+program+"\n"), 0o600))

	c := newCloud(t, s, harness.Options{Nodes: 2})
	var faults []*proxy.Fault
	for _, n := range c.Nodes {
		n.Env = []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_CONFIG_FILE=" + config}
		faults = append(faults, c.net(n).Inject(proxy.Rule{Match: expired, Status: http.StatusForbidden, Code: "ExpiredToken"}))
	}
	master := c.StartAndWait(settle)
	c.stays(t, master, 2*life+time.Second)
	for _, f := range faults {
		if f.Fired() > 0 {
			t.Errorf("%d requests with expired credentials although there were new ones", f.Fired())
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600))
	at := intervals.Now()
	for _, n := range c.Nodes {
		says(t, n, "FAILED", "renew them")
	}
	if n := c.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	must(t, os.Remove(filepath.Join(dir, "broken")))
	c.recovers(t, intervals.Now())
}

// expired tells requests whose session token, made by the program above, has
// run out.
func expired(r *http.Request) bool {
	var until int64
	if _, err := fmt.Sscanf(r.Header.Get("X-Amz-Security-Token"), "until-%d", &until); err != nil {
		return true
	}
	return time.Now().Unix() > until
}

// secrets fails the test if anything of a plane has shown the secret.
func (c *cloud) secrets(t *testing.T) {
	t.Helper()
	secret := []byte(c.server.Secret)
	for _, n := range c.Nodes {
		shown := map[string][]byte{"log": []byte(n.Log()), "guard's log": []byte(n.GuardLog())}
		if n.Running() {
			if r, err := n.Get("/v1/server/ha/states"); err == nil {
				shown["states"] = []byte(r.Body)
			}
		}
		for _, p := range n.Processes() {
			if p.Role == harness.Service {
				if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.Pid)); err == nil {
					shown["the service's environment"] = env
				}
			}
		}
		for where, text := range shown {
			if bytes.Contains(text, secret) {
				t.Errorf("%s: its %s shows the secret", n.Name, where)
			}
		}
	}
}
