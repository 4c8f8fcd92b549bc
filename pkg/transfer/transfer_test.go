package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const limit = 10 * time.Second

func directory(t *testing.T) persistence.Store {
	t.Helper()
	s, err := posix.Open(t.TempDir(), posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bucket is a location on a server of S3's protocol in this process.
func bucket(t *testing.T) persistence.Store {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	backend := s3mem.New()
	if err := backend.CreateBucket("planes"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(backend, gofakes3.WithLogger(gofakes3.StdLog(log.New(io.Discard, "", 0)))).Server())
	t.Cleanup(srv.Close)
	s, err := s3.Open("planes", "a/plane", s3.Options{
		Endpoint: srv.URL, Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// written is content as a master would have left it, in a location of its own.
func written(t *testing.T, keys int, artifacts map[string]string) persistence.Store {
	t.Helper()
	s := directory(t)
	v := lease.Value{Plane: "sourcepl", Term: 41, Lease: time.Second, WriteID: ha.NewWriteID()}
	if err := s.Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
	state := journal.Empty()
	for i := range keys {
		txn := journal.Txn{Changes: []journal.Change{{Key: fmt.Sprintf("jobs/%06d", i%(keys*3/4+1)), Value: []byte(strings.Repeat("x", i%100))}}}
		state = commit(t, s, state, txn)
	}
	index := artifact.StateIndex{
		Read: func() (artifact.View, error) { return state, nil },
		Write: func(_ context.Context, txn journal.Txn) error {
			state = commit(t, s, state, txn) //nolint:contextcheck // the test's will do
			return nil
		},
	}
	lib := artifact.New(s, index, artifact.Options{})
	for name, content := range artifacts {
		d, n, err := artifact.Sum(strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lib.Push(t.Context(), name, artifact.Reign{Plane: v.Plane, Term: v.Term}, artifact.Content{R: strings.NewReader(content), Digest: d, Size: n}); err != nil {
			t.Fatal(err)
		}
	}
	point(t, s, state.Head)
	return s
}

func commit(t *testing.T, s persistence.Store, state *journal.State, txn journal.Txn) *journal.State {
	t.Helper()
	b := journal.NewBatch(state, false)
	if _, err := b.Add(txn); err != nil {
		t.Fatal(err)
	}
	g := b.Segment("sourcepl", 41, strings.ToLower(name(1).Rand), lease.Head{}, false)
	text := g.Encode()
	if err := s.Put(t.Context(), journal.SegmentKey(g.Head), strings.NewReader(string(text)), int64(len(text))); err != nil {
		t.Fatal(err)
	}
	next, err := state.Apply(g, int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// point has the register name a segment.
func point(t *testing.T, s persistence.Store, head lease.Head) {
	t.Helper()
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := lease.ParseValue(snap.Value)
	if err != nil {
		t.Fatal(err)
	}
	v.Head, v.Seq, v.WriteID = head, v.Seq+1, ha.NewWriteID()
	if _, err := s.CAS(t.Context(), snap.Version, v.Encode()); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, s persistence.Store) *Content {
	t.Helper()
	c, err := Read(t.Context(), s, s, limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func operator() ha.Disaster {
	return ha.Disaster{Actor: "op@host", Lease: time.Second, Operation: limit, Clock: clock.Now}
}

// moveTo copies content into a location, as the command does.
func moveTo(t *testing.T, c *Content, s persistence.Store) error {
	t.Helper()
	held, err := operator().Hold(t.Context(), s, c.Term)
	if err != nil {
		return err
	}
	head, err := Target{Store: s, Files: s, Plane: held.Value.Plane, Term: held.Value.Term, Old: held.Old, Limit: limit, Now: time.Now}.Write(t.Context(), c)
	if err != nil {
		return errors.Join(err, held.Release(t.Context(), held.Old, "failed"))
	}
	return held.Release(t.Context(), head, "done")
}

// TestChain moves a plane's content from a directory to a bucket and on, and
// back to a directory: keys, versions, values and artifacts are the same, and
// terms grow.
func TestChain(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<20) // two parts of an upload
	at := written(t, 400, map[string]string{"app.jar": "a jar", "empty": "", "big": big, "same": "a jar"})
	first := content(t, at)
	if first.Keys() != 301 || len(first.Artifacts) != 4 {
		t.Fatalf("%d keys, %d artifacts", first.Keys(), len(first.Artifacts))
	}
	planes, term := map[lease.PlaneID]bool{first.Plane: true}, first.Term
	for i, next := range []persistence.Store{bucket(t), memory.New().Open(), directory(t)} {
		if err := moveTo(t, content(t, at), next); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got := content(t, next)
		if a, b := first.Digest(), got.Digest(); a != b {
			t.Errorf("step %d: digest %s, was %s", i, b, a)
		}
		if got.Term <= term || planes[got.Plane] {
			t.Errorf("step %d: plane %s at term %d after %d", i, got.Plane, got.Term, term)
		}
		planes[got.Plane], term = true, got.Term
		at = next
	}
	last := content(t, at)
	for e := range first.State.List("jobs/", "") {
		if have, ok := last.State.Get(e.Key); !ok || have.Version != e.Version || string(have.Value) != string(e.Value) {
			t.Fatalf("%s has version %d, had %d", e.Key, have.Version, e.Version)
		}
	}
	for _, e := range last.Artifacts {
		rc, err := last.Open(t.Context(), e, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, artifact.Verify(rc, e.Digest, e.Size)); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		if err := rc.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDigest: whatever a user would call different has another digest.
func TestDigest(t *testing.T) {
	base := written(t, 4, map[string]string{"a": "x"})
	digest := content(t, base).Digest()
	seen := map[string]string{digest: "base"}
	for what, s := range map[string]persistence.Store{
		"a key less":       written(t, 3, map[string]string{"a": "x"}),
		"an artifact more": written(t, 4, map[string]string{"a": "x", "b": "x"}),
		"other content":    written(t, 4, map[string]string{"a": "y"}),
		"another name":     written(t, 4, map[string]string{"b": "x"}),
		"no artifact":      written(t, 4, nil),
	} {
		d := content(t, s).Digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", what, other)
		}
		seen[d] = what
	}
	if d := content(t, written(t, 4, map[string]string{"a": "x"})).Digest(); d != digest {
		t.Error("the same content has another digest")
	}
}

// TestReplace: what was there before is dropped, sequence numbers go on, and
// what is read is the new content alone.
func TestReplace(t *testing.T) {
	longer, shorter := written(t, 50, map[string]string{"old": "old"}), written(t, 8, map[string]string{"new": "new"})
	want := content(t, shorter)
	before := content(t, longer)
	if err := moveTo(t, want, longer); err != nil {
		t.Fatal(err)
	}
	got := content(t, longer)
	if got.Digest() != want.Digest() || got.State.Seq() <= before.State.Seq() || got.Plane != before.Plane || got.Term <= before.Term {
		t.Errorf("plane %s, term %d, seq %d after %d; %d keys, %d artifacts", got.Plane, got.Term, got.State.Seq(), before.State.Seq(), got.Keys(), len(got.Artifacts))
	}
}

// TestWriteFails: whatever fails, the destination is as it was.
func TestWriteFails(t *testing.T) {
	src := content(t, written(t, 20, map[string]string{"a": "content"}))
	for name, fault := range map[string]faulty.Fault{
		"artifact not stored": {Op: faulty.Put, Match: artifact.Prefix, Drop: true, Err: persistence.Full},
		"snapshot not stored": {Op: faulty.Put, Match: journal.SnapshotPrefix, Drop: true, Err: persistence.Full},
		"segment not stored":  {Op: faulty.Put, Match: journal.LogPrefix, Drop: true, Err: persistence.Full},
		"segment lost":        {Op: faulty.Put, Match: journal.LogPrefix, Drop: true},
		"snapshot lost":       {Op: faulty.Put, Match: journal.SnapshotPrefix, Drop: true},
		"artifact lost":       {Op: faulty.Put, Match: artifact.Prefix, Drop: true},
		"not read back":       {Op: faulty.Get, Match: journal.LogPrefix, Drop: true, Err: persistence.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dst := faulty.Wrap(written(t, 8, nil))
			before := content(t, dst)
			inj := dst.Inject(fault)
			err := moveTo(t, src, dst)
			if err == nil {
				t.Error("succeeded")
			}
			if inj.Fired() == 0 {
				t.Error("the fault never fired")
			}
			dst.Clear()
			got := content(t, dst)
			if got.Digest() != before.Digest() {
				t.Errorf("the destination has changed; %v", err)
			}
		})
	}
}
