package hdfs_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
	"github.com/understudy-ha/understudy/test/need"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	code := harness.Main(m)
	if err := lab.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// full reports whether the full counts are asked for.
func full() bool { return harness.Full() || os.Getenv("HDFS_FULL") == "1" }

func rounds(short, long int) int {
	if full() {
		return long
	}
	return short
}

// alongside lets the short forms of tests that leave the NameNodes alone run
// beside each other, after the others. The full ones have figures to measure.
func alongside(t *testing.T) {
	t.Helper()
	if !full() {
		t.Parallel()
	}
}

// startWithin bounds the start of a cluster, on a busy machine that formats it
// for the first time.
const startWithin = 3 * time.Minute

// shared is the cluster that the tests have in common. Each leaves it as it
// found it: both NameNodes running, one of them active.
type shared struct {
	once sync.Once
	*cluster.Cluster
	err error
	dir string
}

var lab shared

// hdfsCluster starts the cluster, once.
func hdfsCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	needHadoop(t)
	lab.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startWithin)
		defer cancel()
		began := time.Now()
		if lab.dir, lab.err = os.MkdirTemp(scratch(), "understudy-hdfs-"); lab.err != nil { //nolint:usetesting // it outlives this test
			return
		}
		if lab.err = os.Chmod(lab.dir, 0o755); lab.err != nil { //nolint:gosec // nothing secret
			return
		}
		lab.Cluster, lab.err = cluster.Start(ctx, lab.dir, cluster.Settings{}, false)
		t.Logf("the cluster was up after %v", time.Since(began).Round(time.Millisecond))
	})
	if lab.err != nil {
		t.Fatal(lab.err)
	}
	return lab.Cluster
}

func (s *shared) end() error {
	if s.Cluster != nil {
		if err := s.Stop(); err != nil {
			return err
		}
	}
	if s.dir == "" || os.Getenv("E2E_KEEP") == "1" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// needHadoop skips a test where there is no Hadoop, and fails it in CI.
func needHadoop(t *testing.T) {
	t.Helper()
	if why := cluster.Missing(); why != "" {
		need.Missing(t, why)
	}
}

// scratch is a directory in memory, where there is one.
func scratch() string {
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < 1<<30 { //nolint:gosec // a size
		return ""
	}
	return shm
}

// open opens a handle of its own on a directory of the cluster.
func open(t *testing.T, c *cluster.Cluster, dir string) *hdfs.Store {
	t.Helper()
	s, err := hdfs.Open(cluster.Nameservice, dir, hdfs.Options{ConfDir: c.ConfDir(), User: cluster.User})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var directories atomic.Int64

// newDir makes an empty directory in HDFS, of the superuser unless owner names
// another one.
func newDir(t *testing.T, c *cluster.Cluster, owner string) string {
	t.Helper()
	dir := fmt.Sprintf("/tests/%s-%d", strings.NewReplacer("/", "-", ":", "-").Replace(t.Name()), directories.Add(1))
	admin(t, c, func(client *lib.Client) error {
		if err := client.MkdirAll(dir, 0o755); err != nil || owner == "" {
			return err
		}
		return client.Chown(dir, owner, "supergroup")
	})
	return dir
}
