package journal_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// planted is one kind of damage: what is done to a whole log, which object is
// to be named, and a word of what is to be said of it.
type planted struct {
	name string
	do   func(p *planting) (object string)
	word string
	idle bool // nobody needs the object
}

// planting is a standard log to be damaged.
type planting struct {
	*log
	snaps []lease.Head
}

func (p *planting) seg(i int) string  { return journal.SegmentKey(p.chain[i]) }
func (p *planting) snap(i int) string { return journal.SnapshotKey(p.snaps[i]) }

func (p *planting) remove(key string) string {
	p.t.Helper()
	if err := p.store.Delete(p.t.Context(), key); err != nil {
		p.t.Fatal(err)
	}
	return key
}

// alter writes an object anew, as f changes it.
func (p *planting) alter(key string, f func(b []byte) []byte) string {
	p.t.Helper()
	p.put(key, f(slices.Clone(p.get(key))))
	return key
}

// forge writes a segment of the tail anew with fields changed and the checksum right.
func (p *planting) forge(f func(g *journal.Segment)) string {
	p.t.Helper()
	return p.alter(p.seg(95), func(b []byte) []byte {
		g, err := journal.DecodeSegment(b)
		if err != nil {
			p.t.Fatal(err)
		}
		f(g)
		return g.Encode()
	})
}

// resnap writes a snapshot anew of another state or with fields changed.
func (p *planting) resnap(i int, f func(s **journal.State, info *journal.SnapshotInfo)) string {
	p.t.Helper()
	s, info, err := journal.DecodeSnapshot(bytes.NewReader(p.get(p.snap(i))))
	if err != nil {
		p.t.Fatal(err)
	}
	f(&s, &info)
	var b bytes.Buffer
	r := journal.SnapshotReader(s, info)
	if _, err := b.ReadFrom(r); err != nil {
		p.t.Fatal(err)
	}
	p.put(p.snap(i), b.Bytes())
	return p.snap(i)
}

// blocks cuts a snapshot into its magic and its blocks.
func blocks(b []byte) [][]byte {
	out := [][]byte{b[:4]}
	for b = b[4:]; len(b) > 0; {
		n := 8 + int(binary.LittleEndian.Uint32(b))
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

// kinds are all kinds of damage that a check has to find.
func kinds() []planted {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b }
	cut := func(b []byte) []byte { return b[:len(b)-7] }
	return []planted{
		{name: "head missing", do: func(p *planting) string { return p.remove(p.seg(99)) }, word: "not there"},
		{name: "segment of the tail missing", do: func(p *planting) string { return p.remove(p.seg(95)) }, word: "not there"},
		{name: "segment torn", do: func(p *planting) string { return p.alter(p.seg(95), cut) }, word: "checksum"},
		{name: "segment bit-flipped", do: func(p *planting) string { return p.alter(p.seg(95), flip) }, word: "checksum"},
		{name: "segment empty", do: func(p *planting) string { return p.alter(p.seg(95), func([]byte) []byte { return nil }) }, word: "ends too early"},
		{name: "segment of zeros", do: func(p *planting) string { return p.alter(p.seg(95), func(b []byte) []byte { clear(b); return b }) }, word: "format"},
		{name: "segment with more after its end", do: func(p *planting) string { return p.alter(p.seg(95), func(b []byte) []byte { return append(b, 0) }) }, word: "checksum"},
		{name: "segment under another's name", do: func(p *planting) string { p.put(p.seg(95), p.get(p.seg(94))); return p.seg(95) }, word: "holds segment"},
		{name: "segment of another plane", do: func(p *planting) string { return p.forge(func(g *journal.Segment) { g.Plane = "plane999" }) }, word: "plane999"},
		{name: "segment that follows another", do: func(p *planting) string {
			p.forge(func(g *journal.Segment) { g.Pred.Rand = strings.Repeat("z", 16) })
			return journal.SegmentKey(lease.Head{Seq: p.chain[94].Seq, Rand: strings.Repeat("z", 16)})
		}, word: "not there"},
		{name: "segment of a later term than the next", do: func(p *planting) string {
			p.forge(func(g *journal.Segment) { g.Term = 77 })
			return p.seg(96)
		}, word: "term 77"},
		{name: "segment without one of its transactions", do: func(p *planting) string {
			return p.forge(func(g *journal.Segment) { g.Txns = g.Txns[1:] })
		}, word: "do not fit"},
		{name: "segment with a key that is none", do: func(p *planting) string {
			return p.forge(func(g *journal.Segment) { g.Txns[0] = []journal.Change{{Key: "a//b"}} })
		}, word: "not a key"},
		{name: "snapshot missing", do: func(p *planting) string { return p.remove(p.snap(2)) }, word: "not there"},
		{name: "snapshot torn", do: func(p *planting) string { return p.alter(p.snap(2), cut) }, word: "ends too early"},
		{name: "snapshot bit-flipped", do: func(p *planting) string { return p.alter(p.snap(2), flip) }, word: "checksum"},
		{name: "snapshot without its end", do: func(p *planting) string {
			return p.alter(p.snap(2), func(b []byte) []byte { x := blocks(b); return bytes.Join(x[:len(x)-1], nil) })
		}, word: "ends too early"},
		{name: "snapshot without a block", do: func(p *planting) string {
			return p.alter(p.snap(2), func(b []byte) []byte { x := blocks(b); return bytes.Join(slices.Delete(x, 2, 3), nil) })
		}, word: "checksum"},
		{name: "snapshot with more after its end", do: func(p *planting) string { return p.alter(p.snap(2), func(b []byte) []byte { return append(b, b...) }) }, word: "after its end"},
		{name: "snapshot under another's name", do: func(p *planting) string { p.put(p.snap(2), p.get(p.snap(1))); return p.snap(2) }, word: "holds snapshot"},
		{name: "snapshot of another plane", do: func(p *planting) string {
			return p.resnap(2, func(_ **journal.State, info *journal.SnapshotInfo) { info.Plane = "plane999" })
		}, word: "plane999"},
		{name: "snapshot of another branch", do: func(p *planting) string {
			return p.resnap(2, func(_ **journal.State, info *journal.SnapshotInfo) { info.Segment.Rand = strings.Repeat("z", 16) })
		}, word: "made after segment"},
		{name: "snapshot of something else, with the right checksums", do: func(p *planting) string {
			return p.resnap(2, func(s **journal.State, _ *journal.SnapshotInfo) {
				old, _, err := journal.DecodeSnapshot(bytes.NewReader(p.get(p.snap(1))))
				if err != nil {
					p.t.Fatal(err)
				}
				*s = old
			})
		}, word: "not what the log before it makes"},
		{name: "snapshot to fall back to, damaged", do: func(p *planting) string { return p.alter(p.snap(1), flip) }, word: "checksum"},
		{name: "log to fall back to, damaged", do: func(p *planting) string { return p.alter(p.seg(70), flip) }, word: "checksum"},
		{name: "history damaged", do: func(p *planting) string { return p.alter(p.seg(3), flip) }, word: "checksum", idle: true},
		{name: "orphan damaged", do: func(p *planting) string {
			key := journal.SegmentKey(lease.Head{Seq: 400, Rand: strings.Repeat("z", 16)})
			p.put(key, []byte("torn"))
			return key
		}, word: "ends too early", idle: true},
	}
}

// A check finds each kind of damage, and names the object.
func TestCheckFindsPlantedDamage(t *testing.T) {
	if n := len(kinds()); n < 20 {
		t.Errorf("only %d kinds", n)
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			l, snaps := standard(t)
			p := &planting{l, snaps}
			whole, err := l.loader().Check(t.Context(), l.state.Head)
			if err != nil || len(whole.Broken)+len(whole.Idle)+len(whole.Above)+len(whole.Foreign) > 0 || whole.State == nil {
				t.Fatalf("before: %+v %v", whole, err)
			}
			object := k.do(p)
			r, err := l.loader().Check(t.Context(), l.state.Head)
			if err != nil {
				t.Fatal(err)
			}
			found := r.Broken
			if k.idle {
				found = r.Idle
			}
			if !slices.ContainsFunc(found, func(d journal.Damage) bool { return d.Object == object && strings.Contains(d.What, k.word) }) {
				t.Errorf("%s is not named: broken %v, idle %v", object, r.Broken, r.Idle)
			}
			if k.idle && len(r.Broken) > 0 {
				t.Errorf("broken, though nobody needs it: %v", r.Broken)
			}
		})
	}
}

func TestCheckTellsTheRest(t *testing.T) {
	l, _ := standard(t)
	l.put("state/notes.txt", []byte("x"))
	orphan := lease.Head{Seq: 300, Rand: strings.Repeat("z", 16)}
	g := &journal.Segment{Plane: plane, Term: 3, Head: orphan, Pred: lease.Head{Seq: 299, Rand: strings.Repeat("y", 16)}, Txns: [][]journal.Change{nil}}
	l.put(journal.SegmentKey(orphan), g.Encode())
	r, err := l.loader().Check(t.Context(), l.state.Head)
	if err != nil || len(r.Broken)+len(r.Idle) > 0 || !slices.Equal(r.Foreign, []string{"state/notes.txt"}) || !slices.Equal(r.Above, []string{journal.SegmentKey(orphan)}) {
		t.Errorf("%+v %v", r, err)
	}
	if r, err = l.loader().Check(t.Context(), lease.Head{}); err != nil || r.State.Len() != 0 || len(r.Above) != 104 {
		t.Errorf("%+v %v", r, err)
	}
}

// Equal states have equal digests, wherever they lie and whatever made them.
func TestDigest(t *testing.T) {
	a, _ := standard(t)
	got, err := a.loader().Load(t.Context(), a.state.Head, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != a.state.Digest() {
		t.Error("what was read differs from what was written")
	}
	before := a.state.Digest()
	a.commit(9, lease.Head{}, false, put("one", "more"))
	if a.state.Digest() == before {
		t.Error("a change changes nothing")
	}
}
