package transfer

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// livePlane is a master's state in memory.
type livePlane struct {
	state *journal.State
	// before is done once, before the next transaction is made.
	before func()
}

func (p *livePlane) txn(_ context.Context, t journal.Txn) error {
	if do := p.before; do != nil {
		p.before = nil
		do()
	}
	b := journal.NewBatch(p.state, false)
	if _, err := b.Add(t); err != nil {
		return err
	}
	next, err := p.state.Apply(b.Segment("liveplan", 50, name(1).Rand, lease.Head{}, false), 1)
	if err == nil {
		p.state = next
	}
	return err
}

func (p *livePlane) put(t *testing.T, key, value string) {
	t.Helper()
	if err := p.txn(t.Context(), journal.Txn{Changes: []journal.Change{{Key: key, Value: []byte(value)}}}); err != nil {
		t.Fatal(err)
	}
}

func (p *livePlane) live(files persistence.Objects) Live {
	return Live{
		Picture: func() (*journal.State, error) { return p.state, nil },
		Txn:     p.txn, Files: files, In: artifact.Reign{Plane: "liveplan", Term: 50}, Limit: limit,
	}
}

func saved(t *testing.T, keys int, artifacts map[string]string) *Content {
	t.Helper()
	var b bytes.Buffer
	if err := content(t, written(t, keys, artifacts)).WriteArchive(t.Context(), &b, time.Now()); err != nil {
		t.Fatal(err)
	}
	c, err := ReadArchive(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMerge: what the archive names is as it is there, the rest stays, and so
// does what is written while it is merged, in whichever transaction.
func TestMerge(t *testing.T) {
	c := saved(t, 8, map[string]string{"app.jar": "a jar", "other": "x"})
	p := &livePlane{state: journal.Empty()}
	p.put(t, "jobs/000001", "old")
	p.put(t, "jobs/000002", "old")
	p.put(t, "mine", "stays")
	meanwhile := map[string]string{"jobs/000002": "newer", "jobs/000003": "made meanwhile"}
	p.before = func() {
		for k, v := range meanwhile {
			p.put(t, k, v)
		}
	}
	files := memory.New().Open()
	m, err := p.live(files).Merge(t.Context(), c)
	if err != nil || m.Kept != 2 || m.Written != c.Keys()-2 || m.Artifacts != 2 || m.Same != 0 {
		t.Errorf("%+v, %v; %d keys", m, err, c.Keys())
	}
	meanwhile["mine"] = "stays"
	for k, v := range meanwhile {
		if e, _ := p.state.Get(k); string(e.Value) != v {
			t.Errorf("%s is %q", k, e.Value)
		}
	}
	for e := range c.State.List("", "") {
		if have, ok := p.state.Get(e.Key); !ok || (meanwhile[e.Key] == "" && string(have.Value) != string(e.Value)) {
			t.Errorf("%s is %q", e.Key, have.Value)
		}
	}
	if got, err := artifact.Entries(p.state); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	again, err := p.live(files).Merge(t.Context(), c)
	if err != nil || again.Artifacts != 0 || again.Written != 2 || again.Kept != 0 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
}

// TestMergeKeepsArtifacts: a push that ends while an import runs is the later.
func TestMergeKeepsArtifacts(t *testing.T) {
	c := saved(t, 0, map[string]string{"app.jar": "a jar"})
	p := &livePlane{state: journal.Empty()}
	p.before = func() { p.put(t, artifact.KeyPrefix+"app.jar", "somebody's") }
	m, err := p.live(memory.New().Open()).Merge(t.Context(), c)
	if err != nil || m.Kept != 1 || m.Artifacts != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if e, _ := p.state.Get(artifact.KeyPrefix + "app.jar"); string(e.Value) != "somebody's" {
		t.Errorf("the push was lost: %s", e.Value)
	}
}

// TestMergeHostile: an archive whose artifact is not what it says changes
// nothing, and one that fails in the middle says so and can be gone on with.
func TestMergeHostile(t *testing.T) {
	c := saved(t, 8, map[string]string{"app.jar": "a jar"})
	p := &livePlane{state: journal.Empty()}
	good := c.Artifacts[0].Size
	c.Artifacts[0].Size = 3
	if _, err := p.live(memory.New().Open()).Merge(t.Context(), c); !errors.Is(err, ErrArchive) || p.state.Seq() != 0 {
		t.Errorf("%v; transaction %d", err, p.state.Seq())
	}
	c.Artifacts[0].Size = good
	failing := p.live(memory.New().Open())
	failing.Txn = func(ctx context.Context, x journal.Txn) error {
		if len(x.Changes) > 1 {
			return persistence.Full
		}
		return p.txn(ctx, x)
	}
	if m, err := failing.Merge(t.Context(), c); !errors.Is(err, persistence.Full) || m.Artifacts != 1 || m.Written != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}
