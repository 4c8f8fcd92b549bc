package hdfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
	"github.com/understudy-ha/understudy/test/s3/server"
)

// TestFollowing: a hot standby on HDFS has what it needs before it needs it.
func TestFollowing(t *testing.T) {
	alongside(t)
	p := newPlane(t, hdfsCluster(t), harness.Options{Nodes: 2, Settings: harness.FromArtifact()})
	harness.Following(t, p.Plane, settle)
}

// TestCopiedAround: keys and artifacts go from a directory to a bucket, on to
// HDFS, and back to a directory by `understudy copy-state`, and are the same at
// each place; a node goes on with them.
func TestCopiedAround(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	bucket := server.Start(t, server.Versity)
	p := harness.NewPlane(t, harness.Options{Nodes: 1, Settings: harness.Preset("default")})
	n := p.Nodes[0]
	n.Env = append(bucket.Env(), "HADOOP_CONF_DIR="+c.ConfDir(), "HADOOP_USER_NAME="+cluster.User)
	p.StartAndWait(settle)

	// As sizes go: nothing, what fits into an attribute of HDFS and what does not,
	// one part of an upload and several, a key at its limit.
	keys, artifacts := map[string][]byte{}, map[string][]byte{}
	for i, size := range []int{0, 17, 8<<10 + 1, 1 << 20} {
		keys[fmt.Sprintf("jobs/%d", i)] = contents(size)
	}
	for i, size := range []int{1, 100 << 10, 20<<20 + 1} {
		artifacts[fmt.Sprintf("file-%d", i)] = contents(size)
	}
	for key, value := range keys {
		p.OnLeader(settle, "state", "put", key, "--file", written(t, p.Dir, value))
	}
	for name, content := range artifacts {
		p.OnLeader(settle, "artifact", "push", name, written(t, p.Dir, content))
	}
	first := p.Register()
	n.Stop(settle)

	back := filepath.Join(p.Dir, "back")
	must(t, os.Mkdir(back, 0o755)) //nolint:gosec // nothing secret
	digest, term := "", uint64(0)
	places := []string{p.Store, bucket.Location("", "copy"), "hdfs://" + cluster.Nameservice + newDir(t, c, ""), back}
	for i, to := range places[1:] {
		began := time.Now()
		at := copied(t, n, "copy-state", "--from", places[i], "--to", to)
		harness.Note(t, fmt.Sprintf("%d keys and %d artifacts copied to %s in %v: sha256 %s", at.Keys, at.Artifacts, to, time.Since(began).Round(time.Millisecond), at.Digest))
		if at.Keys != len(keys) || at.Artifacts != len(artifacts) || len(at.Digest) != 64 || digest != "" && at.Digest != digest {
			t.Errorf("copied to %s: %+v, after the digest %q", to, at, digest)
		}
		if at.Term <= term {
			t.Errorf("term %d at %s, after %d", at.Term, to, term)
		}
		digest, term = at.Digest, at.Term
	}
	// What was copied last is read once more.
	if at := copied(t, n, "export", filepath.Join(p.Dir, "all.zip"), "--store", back); at.Digest != digest {
		t.Errorf("in the end there is %+v, want %s", at, digest)
	}

	ask(t, n, "forget-plane", string(first.Plane))
	n.Set("persistenceDir", back)
	n.Start()
	for key, value := range keys {
		if got := p.OnLeader(settle, "state", "get", key); !bytes.Equal(got, value) && !bytes.Equal(got, append(value, '\n')) {
			t.Errorf("%s has %d bytes, want %d", key, len(got), len(value))
		}
	}
	for name, content := range artifacts {
		file := filepath.Join(p.Dir, name)
		p.OnLeader(settle, "artifact", "pull", name, file)
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s has %d bytes, want %d: %v", name, len(got), len(content), err)
		}
	}
}

// place is what the CLI tells of a copy.
type place struct {
	Keys, Artifacts int
	Digest          string
	Term            uint64
}

func copied(t *testing.T, n *harness.Node, args ...string) (at place) {
	t.Helper()
	must(t, json.Unmarshal(ask(t, n, append(args, "-o", "json")...), &at))
	return at
}

// ask runs a command of the CLI with a node's environment and returns what it
// prints.
func ask(t *testing.T, n *harness.Node, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	cmd := n.Command(ctx, append([]string{"--config", n.ConfigFile()}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("understudy %q: %v\n%s%s", args, err, out, said.Bytes())
	}
	return out
}

// contents are bytes that nothing else has.
func contents(size int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32()) //nolint:gosec // not secret
	}
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// written is a file with that content.
func written(t *testing.T, dir string, content []byte) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "content-")
	must(t, err)
	_, err = f.Write(content)
	must(t, err)
	must(t, f.Close())
	return f.Name()
}
