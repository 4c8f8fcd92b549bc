package lease

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func records() *rapid.Generator[NodeRecord] {
	return rapid.Custom(func(t *rapid.T) NodeRecord {
		return NodeRecord{
			Node:        NodeID(rapid.StringMatching(`[a-z][a-z0-9]{7}`).Draw(t, "node")),
			Incarnation: Incarnation(rapid.StringMatching(`[a-z2-7]{26}`).Draw(t, "incarnation")),
			Beat:        rapid.Uint64().Draw(t, "beat"),
			IntervalMs:  rapid.Int64Min(0).Draw(t, "interval"),
			State:       rapid.SampledFrom([]State{StateStandby, StateHotStandby, StateMaster, StateFailed}).Draw(t, "state"),
			Mode:        rapid.SampledFrom(Modes()).Draw(t, "mode"),
			URI:         rapid.StringMatching(`https://[ -~]{0,20}`).Draw(t, "uri"),
			Key:         rapid.StringMatching(`([A-Za-z0-9_-]{43})?`).Draw(t, "key"),
			Host:        rapid.String().Draw(t, "host"),
			Priority:    rapid.Int().Draw(t, "priority"),
			Version:     rapid.StringMatching(`[0-9]\.[0-9](-rc\.[0-9])?`).Draw(t, "version"),
			Term:        Term(rapid.Uint64Range(0, uint64(MaxTerm)).Draw(t, "term")),
			Electable:   rapid.Bool().Draw(t, "electable"),
			Why:         rapid.StringMatching(`[ -~]{0,30}`).Draw(t, "why"),
			LeaseMs:     rapid.Int64Min(0).Draw(t, "lease"),
			WallMs:      rapid.Int64().Draw(t, "wall"),
			Removed:     rapid.Bool().Draw(t, "removed"),
		}
	})
}

func TestNodeRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "r")
		back, err := ParseNodeRecord(r.Encode())
		if err != nil {
			t.Fatal(err)
		}
		r.Host = strings.ToValidUTF8(r.Host, "\uFFFD") // JSON holds text, not bytes
		if back != r {
			t.Fatalf("%+v came back as %+v", r, back)
		}
	})
}

func TestParseNodeRecordRefuses(t *testing.T) {
	for _, b := range []string{
		"", "{", "[]", "null", `{"node":"X"}`, `{"node":"node0001","intervalMs":-1}`,
		`{"node":"node0001","leaseMs":-1}`, `{"node":"node0001","term":281474976710656}`, `{"node":"node0001","beat":-1}`,
	} {
		if r, err := ParseNodeRecord([]byte(b)); err == nil {
			t.Errorf("%s was read as %+v", b, r)
		}
	}
}

// FuzzParseNodeRecord: a record is refused, or written back it is read as the same.
func FuzzParseNodeRecord(f *testing.F) {
	f.Add([]byte(`{"node":"node0001","incarnation":"a","beat":3,"state":"MASTER","priority":-1}`))
	f.Add([]byte(`{"node":"node0001","term":281474976710655}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseNodeRecord(b)
		if err != nil {
			return
		}
		if back, err := ParseNodeRecord(r.Encode()); err != nil || back != r {
			t.Fatalf("%+v came back as %+v (%v)", r, back, err)
		}
	})
}
