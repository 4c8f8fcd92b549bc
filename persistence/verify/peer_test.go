package verify_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/verify"
)

// pair has two runs meet, each with a handle of its own, and returns what each
// said.
func pair(t *testing.T, open func(lead bool) persistence.Store, opts verify.Options, machines [2]string) (rs [2]verify.Report, errs [2]error) {
	t.Helper()
	token := verify.NewToken()
	waits := make(chan struct{})
	var wg sync.WaitGroup
	run := func(i int, lead bool) {
		o := opts
		o.Peer = &verify.Peer{Token: token, Lead: lead, Host: []string{"one", "two"}[i], Machine: machines[i], Wait: 30 * time.Second}
		if lead {
			o.Peer.Ready = func() { close(waits) }
		}
		rs[i], errs[i] = verify.Run(t.Context(), open(lead), o)
	}
	wg.Go(func() { run(0, true) })
	<-waits
	wg.Go(func() { run(1, false) })
	wg.Wait()
	return rs, errs
}

func TestTwoNodes(t *testing.T) {
	dir := t.TempDir()
	loc := memory.New()
	for kind, open := range map[string]func(bool) persistence.Store{
		"memory": func(bool) persistence.Store { return loc.Open() },
		"posix": func(bool) persistence.Store {
			s, err := posix.Open(dir, posix.Options{})
			if err != nil {
				t.Error(err)
			}
			return s
		},
	} {
		t.Run(kind, func(t *testing.T) {
			rs, errs := pair(t, open, verify.Options{Writers: 8, Rounds: 5}, [2]string{"m1", "m2"})
			for i, r := range rs {
				if errs[i] != nil || !r.OK {
					t.Fatalf("%+v, %v", r, errs[i])
				}
				t.Log(r.Checks[len(r.Checks)-1])
				found := 0
				for _, c := range r.Checks {
					if strings.HasSuffix(c.Name, "on two nodes") {
						found++
						if c.Status != persistence.GradeOK {
							t.Errorf("%+v", c)
						}
					}
				}
				if found != 2 {
					t.Errorf("%d checks of two nodes in %+v", found, r.Checks)
				}
			}
		})
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

func TestTwoRunsOnOneMachineSaySo(t *testing.T) {
	loc := memory.New()
	rs, errs := pair(t, func(bool) persistence.Store { return loc.Open() }, verify.Options{Short: true}, [2]string{"m", "m"})
	for i := range rs {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		mustWarn(t, rs[i], "other node")
	}
}

// TestSafeAloneOnly: a store whose clients are each in order, and race each
// other. Only two nodes find out.
func TestSafeAloneOnly(t *testing.T) {
	var locks [2]sync.Mutex
	open := func(loc *memory.Location, side int) persistence.Store {
		return double{
			Store: loc.Open(),
			cas: func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error) {
				locks[side].Lock()
				defer locks[side].Unlock()
				if snap, err := s.Read(ctx); err != nil {
					return "", err
				} else if snap.Version != old {
					return "", persistence.Conflict
				}
				nap()
				return overwrite(ctx, s, val)
			},
		}
	}
	if r, err := verify.Run(t.Context(), open(memory.New(), 0), verify.Options{Rounds: 5}); err != nil || !r.OK {
		t.Fatalf("alone: %+v, %v", r, err)
	}
	loc := memory.New()
	rs, errs := pair(t, func(lead bool) persistence.Store {
		if lead {
			return open(loc, 0)
		}
		return open(loc, 1)
	}, verify.Options{Rounds: 5, Heartbeat: 20 * time.Millisecond}, [2]string{"m1", "m2"})
	for i, r := range rs {
		if errs[i] != nil || r.OK || !strings.HasPrefix(r.Verdict, "NOT SAFE: ") {
			t.Errorf("passed: %+v, %v", r, errs[i])
		}
		t.Log(r.Verdict)
	}
}

func TestMeetingsThatFail(t *testing.T) {
	t.Run("nobody to join", func(t *testing.T) {
		s, dir := openPosix(t)
		_, err := verify.Run(t.Context(), s, verify.Options{Short: true, Peer: &verify.Peer{Token: verify.NewToken()}})
		if !errors.Is(err, verify.ErrNoMeeting) {
			t.Errorf("%v", err)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("left behind: %v, %v", es, err)
		}
	})
	t.Run("nobody joins", func(t *testing.T) {
		s, dir := openPosix(t)
		_, err := verify.Run(t.Context(), s, verify.Options{Short: true, Peer: &verify.Peer{Token: verify.NewToken(), Lead: true, Wait: 100 * time.Millisecond}})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nobody joined") {
			t.Errorf("%v", err)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("left behind: %v, %v", es, err)
		}
	})
}

func TestTokens(t *testing.T) {
	for range 20 {
		if s := verify.NewToken(); !verify.ValidToken(s) {
			t.Errorf("%q", s)
		}
	}
	for _, s := range []string{"", "short", "waytoolong", "../../..", "ABCDEFGH"} {
		if verify.ValidToken(s) {
			t.Errorf("%q is taken for a token", s)
		}
	}
}
