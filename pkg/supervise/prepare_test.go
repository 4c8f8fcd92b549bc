package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
)

// TestPrepare: what a run is started with is asked for anew before each.
func TestPrepare(t *testing.T) {
	t.Parallel()
	var runs atomic.Int32
	b := supervise(t, "", func(o *Options) {
		o.Prepare = func(context.Context) ([]string, error) {
			n := runs.Add(1)
			return []string{"/bin/sh", "-c", fmt.Sprintf(`echo run %d >> "$OUT/runs"; %s`, n, map[bool]string{true: `while [ ! -e "$OUT/end" ]; do sleep 0.01; done; exit 3`, false: beatScript}[n == 1])}, nil
		}
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	touch(t, filepath.Join(b.dir, "end"))
	b.expect(ha.ServiceUnready, 1) // it exits, and is started again
	b.expect(ha.ServiceReady, 1)
	b.beating()
	if text, err := os.ReadFile(filepath.Join(b.dir, "runs")); err != nil || string(text) != "run 1\nrun 2\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestPrepareFails: what the service needs is not to be had, so the term is
// given up with the reason, and nothing was started.
func TestPrepareFails(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) {
		o.Prepare = func(context.Context) ([]string, error) { return nil, errors.New("no such artifact") }
	})
	b.begin(1)
	if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "no such artifact") || e.Exit != -1 {
		t.Errorf("%+v", e)
	}
	b.Stop(1, "failed")
	b.expect(ha.ServiceEmpty, 1)
	b.silent()
	if _, ran := b.ExitCode(); ran {
		t.Error("something ran")
	}
}

// TestPrepareTakesTooLong: the wait for what the service needs ends with its
// start timeout, with the term, and with an operator's stop. Nothing is started
// afterwards.
func TestPrepareTakesTooLong(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, b *bench, ended <-chan struct{}){
		"start timeout": func(_ *testing.T, b *bench, _ <-chan struct{}) {
			b.expect(ha.ServiceFailed, 1)
			b.Stop(1, "failed")
		},
		"end of the term": func(_ *testing.T, b *bench, _ <-chan struct{}) { b.Stop(1, "lease lost") },
		"operator": func(t *testing.T, b *bench, ended <-chan struct{}) {
			t.Helper()
			if err := b.Control(t.Context(), ha.ServiceStop); err != nil {
				t.Error(err)
			}
			if p := b.Info().Phase; p != phaseStopped {
				t.Errorf("phase %s after an operator's stop", p)
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the preparation goes on after an operator's stop")
			}
			b.Stop(1, "done")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, ended := make(chan struct{}), make(chan struct{})
			b := supervise(t, beatScript, func(o *Options) {
				if name == "start timeout" {
					o.StartTimeout = 500 * time.Millisecond
				}
				o.Prepare = func(ctx context.Context) ([]string, error) {
					close(began)
					<-ctx.Done()
					close(ended)
					return o.Command, nil // although it was told to end
				}
			})
			b.begin(1)
			<-began
			end(t, b, ended)
			b.expect(ha.ServiceEmpty, 1)
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the preparation goes on")
			}
			b.silent()
			if _, ran := b.ExitCode(); ran {
				t.Error("something ran")
			}
		})
	}
}
