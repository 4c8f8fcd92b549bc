package lease

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// values draws any value that may be written.
func values() *rapid.Generator[Value] {
	node := rapid.Custom(func(t *rapid.T) NodeID {
		return NodeID(rapid.StringMatching(`([a-z][a-z0-9]{7})?`).Draw(t, "node"))
	})
	return rapid.Custom(func(t *rapid.T) Value {
		v := Value{
			Plane:   PlaneID(rapid.StringMatching(`[a-z0-9]{8}`).Draw(t, "plane")),
			Term:    Term(rapid.Uint64Range(0, uint64(MaxTerm)).Draw(t, "term")),
			Seq:     Seq(rapid.Uint64Range(0, uint64(MaxSeq)).Draw(t, "seq")),
			Held:    rapid.Bool().Draw(t, "held"),
			Paused:  rapid.Bool().Draw(t, "paused"),
			Lease:   time.Duration(rapid.Int64Range(1, 1<<32-1).Draw(t, "lease")) * time.Millisecond,
			Holder:  node.Draw(t, "holder"),
			To:      node.Draw(t, "to"),
			WriteID: WriteID(rapid.StringMatching(`[a-z2-7]{26}`).Draw(t, "write")),
			Head: Head{
				Seq:  rapid.Uint64Range(0, 1<<48-1).Draw(t, "head"),
				Rand: rapid.StringMatching(`([a-z0-9]{16})?`).Draw(t, "rand"),
			},
		}
		if v.Holder != "" {
			v.Incarnation = Incarnation(rapid.StringMatching(`[a-z2-7]{26}`).Draw(t, "incarnation"))
		}
		return v
	})
}

func example() Value {
	return Value{
		Plane: "plane001", Term: 7, Seq: 258, Held: true, Lease: 30 * time.Second, Holder: "node0001",
		Incarnation: "abcdefghijklmnopqrstuvwxyz", WriteID: "zyxwvutsrqponmlkjihgfedcba",
		Head: Head{Seq: 12, Rand: "0123456789abcdef"},
	}
}

func TestEncode(t *testing.T) {
	const want = "u1.plane001.000000000007.00000000000102.h-.00007530.node0001.--------.abcdefghijklmnopqrstuvwxyz.zyxwvutsrqponmlkjihgfedcba.00000000000c-0123456789abcdef"
	if got := string(example().Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(want) != ValueLen {
		t.Errorf("ValueLen is %d, the line has %d bytes", ValueLen, len(want))
	}
	nobodys := Value{Plane: "plane001", Lease: time.Millisecond, To: "node0002", Paused: true, WriteID: example().WriteID}
	const wantNobodys = "u1.plane001.000000000000.00000000000000.rp.00000001.--------.node0002.--------------------------.zyxwvutsrqponmlkjihgfedcba.000000000000-----------------"
	if got := string(nobodys.Encode()); got != wantNobodys {
		t.Errorf("got  %s\nwant %s", got, wantNobodys)
	}
}

func TestRoundTrip(t *testing.T) {
	safe := regexp.MustCompile(`^[0-9a-z.-]{153}$`)
	rapid.Check(t, func(t *rapid.T) {
		v := values().Draw(t, "v")
		b := v.Encode()
		if !safe.Match(b) {
			t.Fatalf("not a file name everywhere: %q", b)
		}
		if back, err := ParseValue(b); err != nil || back != v {
			t.Fatalf("%+v came back as %+v (%v)", v, back, err)
		}
	})
}

// What no parser would accept is never written.
func TestEncodePanics(t *testing.T) {
	for name, spoil := range map[string]func(*Value){
		"plane too short":            func(v *Value) { v.Plane = "x" },
		"upper case plane":           func(v *Value) { v.Plane = "Plane001" },
		"term too large":             func(v *Value) { v.Term = MaxTerm + 1 },
		"sequence too large":         func(v *Value) { v.Seq = MaxSeq + 1 },
		"no lease":                   func(v *Value) { v.Lease = 0 },
		"negative lease":             func(v *Value) { v.Lease = -time.Second },
		"lease of microseconds":      func(v *Value) { v.Lease += time.Microsecond },
		"lease too long":             func(v *Value) { v.Lease = 1 << 32 * time.Millisecond },
		"node that starts with 1":    func(v *Value) { v.Holder = "1ode0001" },
		"successor with a dot":       func(v *Value) { v.To = "node.001" },
		"holder without incarnation": func(v *Value) { v.Incarnation = "" },
		"incarnation without holder": func(v *Value) { v.Holder = "" },
		"incarnation with a 1":       func(v *Value) { v.Incarnation = "1" + v.Incarnation[1:] },
		"no write id":                func(v *Value) { v.WriteID = "" },
		"head too large":             func(v *Value) { v.Head.Seq = 1 << 48 },
		"head with a dash":           func(v *Value) { v.Head.Rand = "----------------" },
	} {
		t.Run(name, func(t *testing.T) {
			v := example()
			spoil(&v)
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was encoded", v)
				}
			}()
			v.Encode()
		})
	}
}

func TestParseValueRefuses(t *testing.T) {
	good := string(example().Encode())
	cut := func(from, to int, by string) string { return good[:from] + by + good[to:] }
	for name, line := range map[string]string{
		"bad: 0 bytes where 153":                    "",
		"bad: 152 bytes where 153":                  good[1:],
		"bad: 154 bytes where 153":                  good + "\n",
		"bad: unknown format":                       cut(1, 2, "2"),
		"bad: wrong number of fields":               cut(11, 12, "-"),
		"bad: bad plane id":                         cut(3, 4, "P"),
		"bad: bad term":                             cut(12, 13, "A"),
		"bad: bad sequence":                         cut(25, 26, "g"),
		"bad: bad flags":                            cut(40, 41, "x"),
		"bad: bad lease":                            cut(43, 51, "00000000"),
		"bad: bad holder":                           cut(52, 53, "9"),
		"bad: bad successor":                        cut(61, 62, "n"),
		"bad: bad incarnation":                      cut(70, 71, "0"),
		"bad: holder without incarnation":           cut(52, 60, nobody),
		"bad: holder without incarnation (reverse)": cut(70, 96, noInc),
		"bad: bad write id":                         cut(97, 98, "-"),
		"bad: bad journal head":                     cut(136, 137, "."),
		"bad: bad journal head (rand)":              cut(137, 138, "-"),
	} {
		t.Run(name, func(t *testing.T) {
			v, err := ParseValue([]byte(line))
			if !errors.Is(err, ErrUnreadable) {
				t.Fatalf("%q: got %+v, %v", line, v, err)
			}
			want, _, _ := strings.Cut(strings.TrimPrefix(name, "bad: "), " (")
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want it to say %q", err, want)
			}
		})
	}
	if _, err := ParseValue(bytes.Repeat([]byte("x"), 100_000)); err == nil || len(err.Error()) > 400 {
		t.Errorf("the message about a large value is itself large, or missing: %.80v", err)
	}
}

func TestPositions(t *testing.T) {
	for _, c := range []struct {
		p, q Position
		want bool
	}{
		{Position{2, 5}, Position{2, 4}, true},
		{Position{2, 5}, Position{2, 5}, false},
		{Position{3, 1}, Position{2, 9}, true},
		{Position{2, 9}, Position{3, 1}, false},
	} {
		if got := c.p.After(c.q); got != c.want {
			t.Errorf("%v after %v: %v", c.p, c.q, got)
		}
		if got := (Value{Term: c.p.Term, Seq: c.p.Seq}).Newer(Value{Term: c.q.Term, Seq: c.q.Seq}); got != c.want {
			t.Errorf("%v newer than %v: %v", c.p, c.q, got)
		}
	}
}

// FuzzParseValue: whatever is read is refused, or is exactly what Encode writes.
func FuzzParseValue(f *testing.F) {
	f.Add(example().Encode())
	f.Add(Value{Plane: "00000000", Lease: time.Second, WriteID: example().WriteID}.Encode())
	f.Add([]byte("u1.plane001"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseValue(b)
		if err != nil {
			if !errors.Is(err, ErrUnreadable) || v != (Value{}) {
				t.Fatalf("%q: %+v, %v", b, v, err)
			}
			return
		}
		if got := v.Encode(); !bytes.Equal(got, b) {
			t.Fatalf("%q was read as %+v, which is written %q", b, v, got)
		}
	})
}

func BenchmarkParseValue(b *testing.B) {
	line := example().Encode()
	b.ReportAllocs()
	for range b.N {
		if _, err := ParseValue(line); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	v := example()
	b.ReportAllocs()
	for range b.N {
		v.Encode()
	}
}
