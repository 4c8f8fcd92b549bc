package lease

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Format is the version tag that begins every line of the register.
const Format = "u1"

// ValueLen is the length in bytes of every encoded Value.
const ValueLen = 153

// HeadRandLen is the length of the random part of a journal head.
const HeadRandLen = 16

// Head names the newest segment of the persisted state: its sequence number
// and the random part of its name ([a-z0-9]{16}, empty when nothing was ever
// persisted). It is carried unchanged by every write that does not mean to
// move it.
type Head struct {
	Seq  uint64 // at most 48 bits
	Rand string
}

// Value is what the register holds: who holds the mastership, in which term,
// for how long, and by which attempt of which run it was written.
type Value struct {
	Plane       PlaneID
	Term        Term
	Seq         Seq
	Held        bool          // false: released, anybody may claim
	Paused      bool          // automatic moves are off, plane-wide
	Lease       time.Duration // whole milliseconds, at most 2^32-1 of them
	Holder      NodeID        // empty: nobody (a plane just born)
	To          NodeID        // the only node meant to claim; empty: any
	Incarnation Incarnation   // the holder's run; empty: nobody's
	WriteID     WriteID       // the attempt that wrote this value
	Head        Head
}

// ErrUnreadable is wrapped by every error of ParseValue.
var ErrUnreadable = errors.New("not a register value of this format")

const nobody = "--------"

// Encode writes the value as the register's line. It panics on a value that no
// parser would accept, because writing one would make the plane unreadable.
func (v Value) Encode() []byte {
	flag := byte('-')
	if v.Paused {
		flag = 'p'
	}
	held := byte('r')
	if v.Held {
		held = 'h'
	}
	inc := string(v.Incarnation)
	if inc == "" {
		inc = strings.Repeat("-", IncarnationLen)
	}
	rnd := v.Head.Rand
	if rnd == "" {
		rnd = strings.Repeat("-", HeadRandLen)
	}
	line := fmt.Sprintf("%s.%s.%012x.%014x.%c%c.%08x.%s.%s.%s.%s.%012x-%s",
		Format, v.Plane, uint64(v.Term), uint64(v.Seq), held, flag, v.Lease.Milliseconds(),
		orNobody(v.Holder), orNobody(v.To), inc, v.WriteID, v.Head.Seq, rnd)
	if back, err := ParseValue([]byte(line)); err != nil || back != v {
		panic(fmt.Sprintf("lease: value can not be encoded: %+v", v))
	}
	return []byte(line)
}

func orNobody(id NodeID) string {
	if id == "" {
		return nobody
	}
	return string(id)
}

// ParseValue reads a line of the register. It accepts exactly what Encode
// writes; anything else is an error that wraps ErrUnreadable, and must never
// be claimed.
func ParseValue(b []byte) (Value, error) {
	s := string(b)
	bad := func(what string) (Value, error) {
		if len(s) > 200 {
			s = s[:200] + "…"
		}
		return Value{}, fmt.Errorf("%w: %s in %q", ErrUnreadable, what, s)
	}
	if len(b) != ValueLen {
		return bad(fmt.Sprintf("%d bytes where %d belong", len(b), ValueLen))
	}
	f := strings.Split(s, ".")
	if len(f) != 11 {
		return bad("wrong number of fields")
	}
	if f[0] != Format {
		return bad("unknown format")
	}
	var v Value
	if !isName(f[1], PlaneIDLen) {
		return bad("bad plane id")
	}
	v.Plane = PlaneID(f[1])
	n, ok := parseHex(f[2], 12)
	if !ok {
		return bad("bad term")
	}
	v.Term = Term(n)
	if n, ok = parseHex(f[3], 14); !ok {
		return bad("bad sequence")
	}
	v.Seq = Seq(n)
	if len(f[4]) != 2 || (f[4][0] != 'h' && f[4][0] != 'r') || (f[4][1] != '-' && f[4][1] != 'p') {
		return bad("bad flags")
	}
	v.Held, v.Paused = f[4][0] == 'h', f[4][1] == 'p'
	if n, ok = parseHex(f[5], 8); !ok || n == 0 {
		return bad("bad lease")
	}
	v.Lease = time.Duration(n) * time.Millisecond
	if v.Holder, ok = parseNode(f[6]); !ok {
		return bad("bad holder")
	}
	if v.To, ok = parseNode(f[7]); !ok {
		return bad("bad successor")
	}
	if f[8] != strings.Repeat("-", IncarnationLen) {
		if !isBase32(f[8]) {
			return bad("bad incarnation")
		}
		v.Incarnation = Incarnation(f[8])
	}
	if (v.Holder == "") != (v.Incarnation == "") {
		return bad("holder without incarnation or the reverse")
	}
	if !isBase32(f[9]) {
		return bad("bad write id")
	}
	v.WriteID = WriteID(f[9])
	seq, rnd, _ := strings.Cut(f[10], "-")
	if v.Head.Seq, ok = parseHex(seq, 12); !ok {
		return bad("bad journal head")
	}
	if rnd != strings.Repeat("-", HeadRandLen) {
		if !isName(rnd, HeadRandLen) {
			return bad("bad journal head")
		}
		v.Head.Rand = rnd
	}
	return v, nil
}

// Newer reports whether v comes after w in the register's chain of values.
func (v Value) Newer(w Value) bool { return v.At().After(w.At()) }

// At is the value's place in the register's chain.
func (v Value) At() Position { return Position{v.Term, v.Seq} }

// Position is a place in the register's chain of values: terms first, then
// sequence numbers. The zero Position comes before every written value but
// the one that gave birth to the plane.
type Position struct {
	Term Term
	Seq  Seq
}

// After reports whether p comes after q.
func (p Position) After(q Position) bool {
	return p.Term > q.Term || (p.Term == q.Term && p.Seq > q.Seq)
}

func parseHex(s string, digits int) (uint64, bool) {
	if len(s) != digits {
		return 0, false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil
}

func parseNode(s string) (NodeID, bool) {
	if s == nobody {
		return "", true
	}
	id, err := ParseNodeID(s)
	return id, err == nil
}

func isBase32(s string) bool {
	if len(s) != IncarnationLen {
		return false
	}
	for i := range len(s) {
		if !strings.Contains(base32Alphabet, s[i:i+1]) {
			return false
		}
	}
	return true
}
