package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
	"github.com/understudy-ha/understudy/test/need"
)

// hadoop is on a real HDFS with two NameNodes. Its faults strike every node. The
// service's registers are in a directory that does not fail.
type hadoop struct {
	*cluster.Cluster
	t *testing.T
	// deposed is a NameNode that was active before a fault and is not brought back
	// yet: as long as it lives it may answer those who still ask it.
	deposed *cluster.Daemon
	// back gets what became of bringing it back, if that is under way.
	back chan error
}

const (
	hadoopDir = "/chaos"
	// hadoopWithin bounds the start of a cluster or of one of its parts.
	hadoopWithin = 3 * time.Minute
)

func newHadoop(t *testing.T) *hadoop {
	t.Helper()
	if why := cluster.Missing(); why != "" {
		need.Missing(t, why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hadoopWithin)
	defer cancel()
	dir, err := os.MkdirTemp("/dev/shm", "understudy-hdfs-") //nolint:usetesting // disks can stand still, memory does not
	must(t, err)
	h := &hadoop{t: t}
	t.Cleanup(func() { must(t, errors.Join(h.end(), os.RemoveAll(dir))) })
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // nothing secret
	h.Cluster, err = cluster.Start(ctx, dir, cluster.Settings{}, false)
	must(t, err)
	client, err := h.client()
	must(t, err)
	defer client.Close()
	must(t, client.MkdirAll(hadoopDir, 0o755))
	return h
}

func (h *hadoop) end() error {
	if h.Cluster == nil {
		return nil
	}
	var err error
	if h.back != nil { // it may still be starting a process
		err = <-h.back
	}
	return errors.Join(err, h.Stop())
}

func (*hadoop) kinds() []Kind    { return HDFSKinds }
func (*hadoop) pollDivisor() int { return 2 }

func (h *hadoop) options() harness.Options {
	return harness.Options{Storage: &harness.Storage{
		Location: func(string) string { return "hdfs://" + cluster.Nameservice + hadoopDir },
		Env:      []string{"HADOOP_CONF_DIR=" + h.ConfDir(), "HADOOP_USER_NAME=" + cluster.User},
		Register: h.register,
	}}
}

func (*hadoop) registers(p *harness.Plane, _ *harness.Node) string {
	return filepath.Join(p.Dir, "registers")
}

// active is the NameNode that is active, and was not deposed: one that was, and
// does not know it yet, says the same.
func (h *hadoop) active(ctx context.Context) (*cluster.Daemon, error) {
	var said []error
	for _, d := range h.NameNodes() {
		if d == h.deposed || !d.Running() {
			continue
		}
		state, err := h.State(ctx, d)
		if state == "active" {
			return d, nil
		}
		said = append(said, fmt.Errorf("%s is %q: %w", d.Name, state, err))
	}
	return nil, fmt.Errorf("no NameNode is active: %w", errors.Join(said...))
}

// client is one of the library alone.
func (h *hadoop) client() (*lib.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	nn, err := h.active(ctx)
	if err != nil {
		return nil, err
	}
	return lib.NewClient(lib.ClientOptions{Addresses: []string{fmt.Sprintf("localhost:%d", nn.RPC)}, User: cluster.User})
}

func (h *hadoop) register() ([]byte, error) {
	client, err := h.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	entries, err := client.ReadDir(hadoopDir + "/lease")
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, fmt.Errorf("the register has %d names, want 1", len(entries))
	}
	return []byte(entries[0].Name()), nil
}

// watch implements shared: each change is a rename, which the JournalNodes keep
// with the time at which the NameNode did it.
func (h *hadoop) watch(ctx context.Context, _ *harness.Plane) (func() ([]Change, error), error) {
	return func() ([]Change, error) {
		<-ctx.Done()
		renames, err := h.Renames()
		now, instant := time.Now(), intervals.Now()
		var out []Change
		for _, r := range renames {
			name, ok := strings.CutPrefix(r.To, hadoopDir+"/lease/")
			if !ok {
				continue
			}
			v, perr := lease.ParseValue([]byte(name))
			err = errors.Join(err, perr)
			out = append(out, Change{instant - intervals.Instant(now.Sub(r.At)), v})
		}
		return out, err
	}, nil
}

// inject implements shared. It counts what was struck: a part of the cluster.
func (h *hadoop) inject(s Step, _ *harness.Node) func() int {
	nn := h.restore()
	switch s.Kind { //nolint:exhaustive // the others are none of HDFS
	case NameSwitch:
		return h.failover(nn)
	case NameKilled:
		must(h.t, nn.Kill())
		end := h.failover(nn)
		return func() int { h.bringBack(nn); return end() }
	case NameHung:
		must(h.t, nn.Hang())
		end := h.failover(nn)
		return func() int { must(h.t, nn.Resume()); return end() } // it learns that it was deposed
	case NameSilent:
		return h.hang(nn)
	case Journals:
		return h.hang(h.Journals[:2]...)
	}
	panic("not a fault of HDFS: " + s.Kind)
}

// failover makes the other NameNode active.
func (h *hadoop) failover(old *cluster.Daemon) func() int {
	ctx, cancel := context.WithTimeout(h.t.Context(), hadoopWithin)
	defer cancel()
	now, err := h.Failover(ctx)
	must(h.t, err)
	h.deposed = old
	return func() int {
		if now == old {
			return 0
		}
		return 1
	}
}

// hang stops parts of the cluster for a while.
func (h *hadoop) hang(parts ...*cluster.Daemon) func() int {
	for _, d := range parts {
		must(h.t, d.Hang())
	}
	return func() int {
		for _, d := range parts {
			must(h.t, d.Resume())
		}
		return len(parts)
	}
}

// bringBack begins to start a NameNode that has ended, as standby.
func (h *hadoop) bringBack(d *cluster.Daemon) {
	back := make(chan error, 1)
	h.back = back
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.t.Context()), hadoopWithin)
		defer cancel()
		back <- h.Restart(ctx, d)
	}()
}

// restore waits until the NameNode that was struck before is standby, bringing it
// back if need be, and returns the active one.
func (h *hadoop) restore() *cluster.Daemon {
	h.t.Helper()
	if h.back != nil {
		must(h.t, <-h.back)
		h.back = nil
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), hadoopWithin)
	defer cancel()
	nn, err := h.active(ctx)
	if err != nil { // it ends by itself if it had to wait for the JournalNodes for too long
		h.t.Logf("made active again: %v", err)
		nn, err = h.Failover(ctx)
		must(h.t, err)
	}
	other := h.Other(nn)
	standby := func() bool {
		state, err := h.State(ctx, other)
		return err == nil && state == "standby"
	}
	if !harness.Poll(10*time.Second, standby) { // it ended, or takes itself for active still
		must(h.t, other.Kill())
		must(h.t, h.Restart(ctx, other))
	}
	if !harness.Poll(hadoopWithin, standby) {
		h.t.Fatalf("%s does not come back as standby:\n%s", other.Name, h.Log(other))
	}
	h.deposed = nil
	return nn
}
