package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/verify"
)

func openPosix(t *testing.T) (s *posix.Store, dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestGoodStores(t *testing.T) {
	px, dir := openPosix(t)
	for _, s := range []persistence.Store{memory.New().Open(), px} {
		for _, short := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s short=%t", s.Limits().Kind, short), func(t *testing.T) {
				var (
					steps  []string
					before = -1
				)
				r, err := verify.Run(t.Context(), s, verify.Options{Short: short, Progress: func(step string, done, total int) {
					if done < before || done > total || (step == "done" && done != total) {
						t.Errorf("progress %q: %d of %d after %d, steps %q", step, done, total, before, steps)
					}
					before = done
					if len(steps) == 0 || steps[len(steps)-1] != step {
						steps = append(steps, step)
					}
				}})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: %s", r.Took, r.Verdict)
				for _, c := range r.Checks {
					t.Logf("  %-4s %s: %s", c.Status, c.Name, c.Detail)
					own := slices.Contains([]string{"create once", "compare and swap", "swap on nothing", "racing creators", "racing writers", "objects"}, c.Name)
					if c.Status != persistence.GradeOK && own { // this disk is local, and may be busy or nearly full
						t.Errorf("%+v", c)
					}
				}
				if !r.OK || !strings.HasPrefix(r.Verdict, "safe") || len(steps) != 10 {
					t.Errorf("OK %t, %q, steps %q", r.OK, r.Verdict, steps)
				}
				if r.Write.Count < 5 || r.Write.P50 <= 0 || r.Write.P99 < r.Write.P50 || r.Write.Max < r.Write.P99 {
					t.Errorf("latency %+v", r.Write)
				}
				if ok, err := s.Empty(t.Context()); !ok || err != nil {
					t.Errorf("empty afterwards: %t, %v", ok, err)
				}
			})
		}
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

// TestBesideAPlane runs on a location in use and leaves it alone.
func TestBesideAPlane(t *testing.T) {
	s, _ := openPosix(t)
	if err := s.Init(t.Context(), []byte("u1.mine")); err != nil {
		t.Fatal(err)
	}
	if r, err := verify.Run(t.Context(), s, verify.Options{Short: true}); err != nil || !r.OK {
		t.Fatalf("%+v, %v", r, err)
	}
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != "u1.mine" {
		t.Errorf("the plane's register: %q, %v", snap.Value, err)
	}
}

// double is a store that breaks its contract in one way.
type double struct {
	persistence.Store
	cas  func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error)
	init func(ctx context.Context, s persistence.Store, val []byte) error
	read func(ctx context.Context, s persistence.Store) (persistence.Snapshot, error)
}

func (d double) Sub(name string) (persistence.Store, error) {
	s, err := d.Store.Sub(name)
	d.Store = s
	return d, err
}

func (d double) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	if d.cas == nil {
		return d.Store.CAS(ctx, old, val)
	}
	return d.cas(ctx, d.Store, old, val)
}

func (d double) Init(ctx context.Context, val []byte) error {
	if d.init == nil {
		return d.Store.Init(ctx, val)
	}
	return d.init(ctx, d.Store, val)
}

func (d double) Read(ctx context.Context) (persistence.Snapshot, error) {
	if d.read == nil {
		return d.Store.Read(ctx)
	}
	return d.read(ctx, d.Store)
}

// overwrite writes whatever the register holds, or creates it.
func overwrite(ctx context.Context, s persistence.Store, val []byte) (persistence.Version, error) {
	for {
		snap, err := s.Read(ctx)
		if errors.Is(err, persistence.Absent) {
			if err := s.Init(ctx, val); err == nil {
				continue
			}
		} else if err != nil {
			return "", err
		}
		if string(snap.Value) == string(val) {
			return snap.Version, nil
		}
		if v, err := s.CAS(ctx, snap.Version, val); err == nil {
			return v, nil
		}
	}
}

// nap is the time between the check and the write of a racy server.
func nap() { time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) }

func TestBadStores(t *testing.T) {
	var (
		mu    sync.Mutex
		stale = map[persistence.Store]persistence.Snapshot{}
	)
	for name, d := range map[string]double{
		"ignores the precondition of CAS": {
			cas: func(ctx context.Context, s persistence.Store, _ persistence.Version, val []byte) (persistence.Version, error) {
				if _, err := s.Read(ctx); err != nil {
					return "", err
				}
				return overwrite(ctx, s, val)
			},
		},
		"ignores the precondition of Init": {
			init: func(ctx context.Context, s persistence.Store, val []byte) error {
				_, err := overwrite(ctx, s, val)
				return err
			},
		},
		"checks, sleeps, then writes": {
			cas: func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error) {
				snap, err := s.Read(ctx)
				if err != nil || snap.Version != old {
					return "", persistence.Conflict
				}
				nap()
				return overwrite(ctx, s, val)
			},
		},
		"checks, sleeps, then creates": {
			init: func(ctx context.Context, s persistence.Store, val []byte) error {
				if _, err := s.Read(ctx); err == nil {
					return persistence.Conflict
				}
				nap()
				_, err := overwrite(ctx, s, val)
				return err
			},
		},
		"creates by CAS": {
			cas: func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error) {
				if _, err := s.Read(ctx); errors.Is(err, persistence.Absent) {
					return overwrite(ctx, s, val)
				}
				return s.CAS(ctx, old, val)
			},
		},
		"reports writes that it does not make": {
			cas: func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error) {
				if snap, err := s.Read(ctx); err != nil || snap.Version != old {
					return "", persistence.Conflict
				}
				return persistence.Version(val), nil
			},
		},
		"refuses and writes": {
			cas: func(ctx context.Context, s persistence.Store, old persistence.Version, val []byte) (persistence.Version, error) {
				v, err := s.CAS(ctx, old, val)
				if err != nil {
					_, _ = overwrite(ctx, s, val)
				}
				return v, err
			},
		},
		"reads the first value for ever": {
			read: func(ctx context.Context, s persistence.Store) (persistence.Snapshot, error) {
				snap, err := s.Read(ctx)
				if err != nil {
					return snap, err
				}
				mu.Lock()
				defer mu.Unlock()
				if first, ok := stale[s]; ok {
					return first, nil
				}
				stale[s] = snap
				return snap, nil
			},
		},
	} {
		for _, short := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s short=%t", name, short), func(t *testing.T) {
				for range 10 {
					d.Store = memory.New().Open()
					r, err := verify.Run(t.Context(), d, verify.Options{Short: short, Heartbeat: 20 * time.Millisecond})
					if err != nil {
						t.Fatal(err)
					}
					if r.OK || !strings.HasPrefix(r.Verdict, "NOT SAFE: ") {
						t.Fatalf("passed: %+v", r)
					}
				}
			})
		}
	}
}

// TestUnableToTell separates a store that is not there from one that is bad.
func TestUnableToTell(t *testing.T) {
	for name, tt := range map[string]struct {
		fault faulty.Fault
		want  error
	}{
		"hangs":     {faulty.Fault{Op: faulty.CAS, Hang: true}, persistence.Unknown},
		"read-only": {faulty.Fault{Op: faulty.Init, Drop: true, Err: persistence.ReadOnly}, persistence.ReadOnly},
		"full":      {faulty.Fault{Op: faulty.Put, Drop: true, Err: persistence.Full}, persistence.Full},
		"denied":    {faulty.Fault{Op: faulty.Read, Drop: true, Err: persistence.Denied}, persistence.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			s := faulty.Wrap(memory.New().Open())
			f := s.Inject(tt.fault)
			begin := time.Now()
			r, err := verify.Run(t.Context(), s, verify.Options{Short: true, OperationTimeout: 100 * time.Millisecond})
			if !errors.Is(err, tt.want) || r.OK {
				t.Errorf("OK %t, %v; want %v", r.OK, err, tt.want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			if f.Fired() == 0 {
				t.Error("the fault never fired")
			}
		})
	}
	t.Run("missing directory", func(t *testing.T) {
		s, err := posix.Open(t.TempDir()+"/none", posix.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify.Run(t.Context(), s, verify.Options{Short: true}); !errors.Is(err, persistence.Absent) {
			t.Errorf("%v; want Absent", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		s, dir := openPosix(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := verify.Run(ctx, s, verify.Options{Progress: func(step string, _, _ int) {
			if step == "racing creators" {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v; want Canceled", err)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("left behind: %v, %v", es, err)
		}
	})
}

// TestLostReplies must not condemn a store for what a network does.
func TestLostReplies(t *testing.T) {
	s := faulty.Wrap(memory.New().Open())
	f := s.Inject(faulty.Fault{Op: faulty.CAS, Skip: 8, Count: 1, Err: persistence.Conflict})
	r, err := verify.Run(t.Context(), s, verify.Options{Short: true})
	if err != nil || !r.OK {
		t.Errorf("%+v, %v", r, err)
	}
	if f.Fired() != 1 {
		t.Error("the fault never fired")
	}
}

func TestSlowAndThrottled(t *testing.T) {
	s := faulty.Wrap(memory.New().Open())
	slow := s.Inject(faulty.Fault{Op: faulty.Read, Count: 40, Delay: 30 * time.Millisecond})
	r, err := verify.Run(t.Context(), s, verify.Options{Short: true, Heartbeat: 50 * time.Millisecond, OperationTimeout: 200 * time.Millisecond})
	if err != nil || !r.OK || slow.Fired() == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	mustWarn(t, r, "latency")
	s.Clear()

	throttled := s.Inject(faulty.Fault{Op: faulty.CAS, Skip: 7, Count: 3, Drop: true, Err: persistence.Throttled})
	if r, err = verify.Run(t.Context(), s, verify.Options{Short: true}); err != nil || !r.OK || throttled.Fired() != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	mustWarn(t, r, "rate")
}

func mustWarn(t *testing.T, r verify.Report, name string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name && c.Status == persistence.GradeWarn && c.Remedy != "" {
			return
		}
	}
	t.Errorf("no warning %q with a remedy among %+v", name, r.Checks)
}
