package hdfs_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/persistence/storetest"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

// withoutAttributes starts a cluster of one NameNode that refuses extended
// attributes. It ends with the test.
func withoutAttributes(t *testing.T) *cluster.Cluster {
	t.Helper()
	needHadoop(t)
	dir, err := os.MkdirTemp(scratch(), "understudy-hdfs-") //nolint:usetesting // disks can stand still, memory does not
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // nothing secret
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	c, err := cluster.Start(ctx, dir, cluster.Settings{Single: true, Site: cluster.Properties{"dfs.namenode.xattrs.enabled": "false"}}, false)
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop()) })
	return c
}

// TestWithoutAttributes: where dfs.namenode.xattrs.enabled is false everything is
// a file, the store keeps its contract, and says what that costs. The full form is
// the whole contract.
func TestWithoutAttributes(t *testing.T) {
	alongside(t)
	c := withoutAttributes(t)
	if full() {
		storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
			t.Helper()
			dir := newDir(t, c, "")
			return open(t, c, dir), open(t, c, dir)
		})
	}

	p := newPlane(t, c, harness.Options{Nodes: 2, Settings: harness.FromArtifact()})
	harness.Following(t, p.Plane, settle)
	says(t, p.Nodes[0], "dfs.namenode.xattrs.enabled", "written through a DataNode")
	admin(t, c, func(client *lib.Client) error {
		records, err := client.ReadDir(p.dir + "/nodes")
		whole := 0
		for _, r := range records {
			if strings.HasPrefix(r.Name(), ".") {
				continue // one that is being written
			}
			if whole++; r.Size() == 0 {
				t.Errorf("the record %s is an empty file", r.Name())
			}
		}
		if whole != len(p.Nodes) {
			t.Errorf("%d nodes have records", whole)
		}
		return err
	})

	s := open(t, c, newDir(t, c, ""))
	defer s.Close()
	for _, size := range []int{0, 1, 8 << 10, 8<<10 + 1} {
		content := strings.Repeat("x", size)
		key := fmt.Sprintf("nodes/%d", size)
		for range 2 { // the second time it is known already
			must(t, s.Put(limited(t, settle), key, strings.NewReader(content), int64(size)))
		}
		if got := read(t, s, key); got != content {
			t.Errorf("%s has %d bytes", key, len(got))
		}
	}
	if w := s.Limits().Warnings; len(w) != 1 || !strings.Contains(w[0], "dfs.namenode.xattrs.enabled") {
		t.Errorf("warnings: %q", w)
	}
	for _, f := range s.Inspect(t.Context()) {
		if f.Name == "extended attributes" && (f.Status != persistence.GradeWarn || !strings.Contains(f.Remedy, "dfs.namenode.xattrs.enabled")) {
			t.Errorf("%+v", f)
		}
	}
}

// read is an object's content.
func read(t *testing.T, s *hdfs.Store, key string) string {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}
