package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// hashed is a line for user with the cheapest hash of the password there is.
func hashed(tb testing.TB, user, password string) string {
	tb.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		tb.Fatal(err)
	}
	return user + ":" + strings.Replace(string(h), "$2a$", "$2y$", 1) + "\n" // as htpasswd writes it
}

// counted is an HTPasswd whose calls of bcrypt are counted.
func counted(tb testing.TB, content string) (*HTPasswd, *atomic.Int32) {
	tb.Helper()
	a, err := ParseHTPasswd("htpasswd", []byte(content))
	if err != nil {
		tb.Fatal(err)
	}
	var n atomic.Int32
	inner := a.compare
	a.compare = func(hash, password []byte) error {
		n.Add(1)
		return inner(hash, password)
	}
	return a, &n
}

func TestHTPasswdIsVerifiedOnce(t *testing.T) {
	a, n := counted(t, "# users\n\n"+hashed(t, "admin", "one")+hashed(t, "ops", "two"))
	check := func(user, password string, want error, bcrypts int32) {
		t.Helper()
		if err := a.Check(t.Context(), user, password); !errors.Is(err, want) {
			t.Errorf("%s %s: %v, want %v", user, password, err, want)
		}
		if n.Load() != bcrypts {
			t.Errorf("%s %s: bcrypt ran %d times so far, want %d", user, password, n.Load(), bcrypts)
		}
	}
	check("admin", "one", nil, 1)
	for range 1000 {
		check("admin", "one", nil, 1)
	}
	check("ops", "two", nil, 2)
	check("admin", "one", nil, 2) // still remembered
	check("admin", "two", ErrUnauthorized, 3)
	check("admin", "two", ErrUnauthorized, 3) // so are refusals
	check("ops", "one", ErrUnauthorized, 4)
	check("root", "one", ErrUnauthorized, 5) // an unknown user costs the same
	check("", "", ErrUnauthorized, 6)
	check("admin", "one", nil, 6) // a refusal forgets nothing
	check("admi", "none", ErrUnauthorized, 7)
	// Nor does an unknown user get in by the password of the hash that stands in.
	_, hash, _ := strings.Cut(strings.TrimSpace(hashed(t, "x", "decoy")), ":")
	a.decoy = func() []byte { return []byte(hash) }
	check("nobody", "decoy", ErrUnauthorized, 8)
}

// Two instances never accept each other's memory: the key is their own, and a
// reload asks bcrypt again.
func TestHTPasswdForgetsWithItsKey(t *testing.T) {
	content := hashed(t, "admin", "one")
	a, _ := counted(t, content)
	b, n := counted(t, content)
	if a.mac("admin", "one") == b.mac("admin", "one") {
		t.Error("two instances share a key")
	}
	if a.mac("x", "one") == a.mac("xo", "ne") {
		t.Error("user and password run into one another")
	}
	if err := a.Check(t.Context(), "admin", "one"); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context(), "admin", "one"); err != nil || n.Load() != 1 {
		t.Errorf("%v after %d", err, n.Load())
	}
}

func TestHTPasswdEqualAttemptsShareOne(t *testing.T) {
	a, n := counted(t, hashed(t, "admin", "one"))
	entered, leave := make(chan struct{}), make(chan struct{})
	inner := a.compare
	var once sync.Once
	a.compare = func(h, p []byte) error {
		once.Do(func() { close(entered) })
		<-leave
		return inner(h, p)
	}
	const clients = 50
	errs := make(chan error, clients)
	for range clients {
		go func() { errs <- a.Check(t.Context(), "admin", "one") }()
	}
	<-entered
	// One whose client goes away does not take the others along.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Check(ctx, "admin", "one"); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that went away: %v", err)
	}
	close(leave)
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n.Load() != 1 {
		t.Errorf("bcrypt ran %d times", n.Load())
	}
}

// A flood of wrong passwords runs one bcrypt at a time, is turned away past a
// bound, and never delays a user who is known.
func TestHTPasswdUnderFlood(t *testing.T) {
	a, _ := counted(t, hashed(t, "admin", "one"))
	if err := a.Check(t.Context(), "admin", "one"); err != nil {
		t.Fatal(err)
	}
	var running, most atomic.Int32
	leave := make(chan struct{})
	a.compare = func(_, _ []byte) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		<-leave
		return bcrypt.ErrMismatchedHashAndPassword // at once: what it costs, the next has to wait
	}
	const flood = 200
	errs := make(chan error, flood)
	for i := range flood {
		go func() { errs <- a.Check(t.Context(), "admin", fmt.Sprint("wrong", i)) }()
	}
	for range flood - maxWaiting { // the rest is turned away while the first still runs
		if err := <-errs; !errors.Is(err, ErrBusy) {
			t.Fatalf("%v", err)
		}
	}
	for range 1000 {
		if err := a.Check(t.Context(), "admin", "one"); err != nil {
			t.Fatal(err)
		}
	}
	close(leave)
	for range maxWaiting {
		if err := <-errs; !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%v", err)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d bcrypts at once", most.Load())
	}
}

// After a wrong password the slot rests three times as long as that took.
func TestHTPasswdRestsAfterAWrongPassword(t *testing.T) {
	a, _ := counted(t, hashed(t, "admin", "one"))
	const cost = 40 * time.Millisecond
	inner := a.compare
	a.compare = func(h, p []byte) error { time.Sleep(cost); return inner(h, p) }
	begun := time.Now()
	_ = a.Check(t.Context(), "admin", "wrong")
	_ = a.Check(t.Context(), "admin", "wronger")
	if took := time.Since(begun); took < 5*cost {
		t.Errorf("two wrong passwords in %v", took)
	}
	begun = time.Now()
	a.rest = time.Now().Add(time.Hour)
	if err := a.Check(t.Context(), "admin", "wrong"); !errors.Is(err, ErrUnauthorized) || time.Since(begun) > time.Second {
		t.Errorf("a refusal that is remembered waits: %v after %v", err, time.Since(begun))
	}
}

func TestHTPasswdRemembersABoundedNumberOfRefusals(t *testing.T) {
	a, n := counted(t, hashed(t, "admin", "one"))
	a.compare = func(_, _ []byte) error { n.Add(1); return bcrypt.ErrMismatchedHashAndPassword }
	for i := range 3 * maxRefused {
		_ = a.Check(t.Context(), "admin", fmt.Sprint(i))
	}
	if len(a.refused) != maxRefused || len(a.oldest) != maxRefused || len(a.under) != 0 {
		t.Errorf("%d and %d remembered, %d under way", len(a.refused), len(a.oldest), len(a.under))
	}
}

func TestParseHTPasswdSaysWhatIsWrong(t *testing.T) {
	good := hashed(t, "admin", "one")
	expensive := strings.Replace(good, "$04$", "$16$", 1)
	for _, c := range []struct{ content, want string }{
		{"", "users.txt: no user in it"},
		{"# only a comment\n", "users.txt: no user in it"},
		{"admin\n", "users.txt:1: not of the form user:hash"},
		{":" + good, "users.txt:1: not of the form user:hash"},
		{"admin:secret\n", `users.txt:1: the hash of user "admin" is not bcrypt; make such lines with: htpasswd -nB USER`},
		{"a:$apr1$x$y\n", "not bcrypt"},
		{good + good, `users.txt:2: user "admin" is there twice`},
		{expensive, "cost"},
	} {
		if _, err := ParseHTPasswd("users.txt", []byte(c.content)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.content, err, c.want)
		}
	}
	if _, err := ParseHTPasswd("x", []byte("\n  "+good)); err != nil {
		t.Error(err)
	}
}

func TestGenerateCredentials(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "htpasswd")
	auth, c, err := generateCredentials(dir, bcrypt.MinCost)
	if err != nil || c == nil {
		t.Fatal(c, err)
	}
	if c.User != "admin" || len(c.Password) < 20 {
		t.Errorf("%+v", c)
	}
	if err := auth.Check(t.Context(), c.User, c.Password); err != nil {
		t.Error(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), c.Password) {
		t.Errorf("the plain password is kept: %v", err)
	}
	again, none, err := generateCredentials(dir, bcrypt.MinCost)
	if err != nil || none != nil {
		t.Fatalf("the password is told twice: %v %v", none, err)
	}
	if err := again.Check(t.Context(), c.User, c.Password); err != nil {
		t.Error(err)
	}
	if err := again.Check(t.Context(), c.User, c.Password+"x"); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestGenerateCredentialsRefusesWhatItCanNotUse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := GenerateCredentials(dir)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "rm "+path) {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "garbage" {
		t.Errorf("replaced by %q", b)
	}
	if _, _, err := GenerateCredentials(filepath.Join(dir, "missing")); err == nil || !strings.Contains(err.Error(), "is dataDir there") {
		t.Errorf("%v", err)
	}
}

func TestGenerateCredentialsByManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var told atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, c, err := generateCredentials(dir, bcrypt.MinCost)
			if err != nil {
				t.Error(err)
			}
			if c != nil {
				told.Add(1)
			}
		})
	}
	wg.Wait()
	if told.Load() != 1 {
		t.Errorf("the password was told %d times", told.Load())
	}
}

// The whole way, over HTTP.
func TestBasicAuthOverHTTP(t *testing.T) {
	a, n := counted(t, hashed(t, "admin", secret))
	g := newRig(t, status(lease.StateStandby), Options{Gate: gate(Gate{Users: a})})
	for range 20 {
		if r := g.ask(http.MethodGet, "/v1/server/ha/state", ""); r.code != 200 || r.body != `"STANDBY"` {
			t.Fatalf("%d %s", r.code, r.body)
		}
	}
	if n.Load() != 1 {
		t.Errorf("bcrypt ran %d times", n.Load())
	}
	if r := g.send(http.MethodGet, "/v1/server/ha/state", "", "Authorization", "Bearer abc"); r.code != 401 {
		t.Errorf("%d", r.code)
	}
	a.mu.Lock()
	for i := range maxWaiting {
		a.under[mac{byte(i)}] = &attempt{done: make(chan struct{})}
	}
	a.mu.Unlock()
	r := g.send(http.MethodGet, "/v1/server/ha/state", "", "user", "admin", "password", "another")
	if r.code != 503 || r.header.Get("Retry-After") != "1" {
		t.Errorf("busy: %d, Retry-After %q", r.code, r.header.Get("Retry-After"))
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/state", ""); r.code != 200 {
		t.Errorf("a known user while busy: %d", r.code)
	}
}

func BenchmarkCheckKnown(b *testing.B) {
	a, _ := counted(b, hashed(b, "admin", "one"))
	for b.Loop() {
		if err := a.Check(b.Context(), "admin", "one"); err != nil {
			b.Fatal(err)
		}
	}
}
