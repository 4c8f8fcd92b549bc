package lease

import (
	"errors"
	"fmt"
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

const (
	nobody = "--------"
	noInc  = "--------------------------"
	noRand = "----------------"
)

// Encode writes the value as the register's line. It panics on a value that no
// parser would accept, because writing one would make the plane unreadable.
func (v Value) Encode() []byte {
	if !v.writable() {
		panic(fmt.Sprintf("lease: value can not be encoded: %+v", v))
	}
	flags := [2]byte{'r', '-'}
	if v.Held {
		flags[0] = 'h'
	}
	if v.Paused {
		flags[1] = 'p'
	}
	b := make([]byte, 0, ValueLen)
	b = append(b, Format+"."...)
	b = append(append(b, v.Plane...), '.')
	b = append(appendHex(b, uint64(v.Term), 12), '.')
	b = append(appendHex(b, uint64(v.Seq), 14), '.')
	b = append(b, flags[0], flags[1], '.')
	b = append(appendHex(b, uint64(v.Lease.Milliseconds()), 8), '.')
	b = append(append(b, or(string(v.Holder), nobody)...), '.')
	b = append(append(b, or(string(v.To), nobody)...), '.')
	b = append(append(b, or(string(v.Incarnation), noInc)...), '.')
	b = append(append(b, v.WriteID...), '.')
	b = append(appendHex(b, v.Head.Seq, 12), '-')
	return append(b, or(v.Head.Rand, noRand)...)
}

// writable reports whether every field fits its place in the line.
func (v Value) writable() bool {
	return isName(string(v.Plane), PlaneIDLen) && v.Term <= MaxTerm && v.Seq <= MaxSeq &&
		v.Lease > 0 && v.Lease%time.Millisecond == 0 && v.Lease/time.Millisecond < 1<<32 &&
		(v.Holder == "" || isNode(string(v.Holder))) && (v.To == "" || isNode(string(v.To))) &&
		(v.Holder == "") == (v.Incarnation == "") && (v.Incarnation == "" || isBase32(string(v.Incarnation))) &&
		isBase32(string(v.WriteID)) &&
		v.Head.Seq < 1<<48 && (v.Head.Rand == "" || isName(v.Head.Rand, HeadRandLen))
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func appendHex(b []byte, n uint64, digits int) []byte {
	for d := digits - 1; d >= 0; d-- {
		b = append(b, "0123456789abcdef"[n>>(4*d)&15])
	}
	return b
}

// Where the fields of a line begin and end. A dot follows each but the last.
const (
	planeAt  = len(Format) + 1
	termAt   = planeAt + PlaneIDLen + 1
	seqAt    = termAt + 12 + 1
	flagsAt  = seqAt + 14 + 1
	leaseAt  = flagsAt + 2 + 1
	holderAt = leaseAt + 8 + 1
	toAt     = holderAt + NodeIDLen + 1
	incAt    = toAt + NodeIDLen + 1
	writeAt  = incAt + IncarnationLen + 1
	headAt   = writeAt + WriteIDLen + 1
	randAt   = headAt + 12 + 1
)

// ParseValue reads a line of the register. It accepts exactly what Encode
// writes; anything else is an error that wraps ErrUnreadable, and must never
// be claimed.
func ParseValue(b []byte) (Value, error) {
	if len(b) != ValueLen {
		return unreadable(b, fmt.Sprintf("%d bytes where %d belong", len(b), ValueLen))
	}
	s := string(b)
	if s[:planeAt] != Format+"." {
		return unreadable(b, "unknown format")
	}
	for _, end := range [...]int{termAt, seqAt, flagsAt, leaseAt, holderAt, toAt, incAt, writeAt, headAt} {
		if s[end-1] != '.' {
			return unreadable(b, "wrong number of fields")
		}
	}
	var v Value
	if v.Plane = PlaneID(s[planeAt : termAt-1]); !isName(string(v.Plane), PlaneIDLen) {
		return unreadable(b, "bad plane id")
	}
	n, ok := parseHex(s[termAt : seqAt-1])
	if !ok {
		return unreadable(b, "bad term")
	}
	v.Term = Term(n)
	if n, ok = parseHex(s[seqAt : flagsAt-1]); !ok {
		return unreadable(b, "bad sequence")
	}
	v.Seq = Seq(n)
	held, paused := s[flagsAt], s[flagsAt+1]
	if (held != 'h' && held != 'r') || (paused != '-' && paused != 'p') {
		return unreadable(b, "bad flags")
	}
	v.Held, v.Paused = held == 'h', paused == 'p'
	if n, ok = parseHex(s[leaseAt : holderAt-1]); !ok || n == 0 {
		return unreadable(b, "bad lease")
	}
	v.Lease = time.Duration(n) * time.Millisecond
	if v.Holder, ok = parseNode(s[holderAt : toAt-1]); !ok {
		return unreadable(b, "bad holder")
	}
	if v.To, ok = parseNode(s[toAt : incAt-1]); !ok {
		return unreadable(b, "bad successor")
	}
	if inc := s[incAt : writeAt-1]; inc != noInc {
		if !isBase32(inc) {
			return unreadable(b, "bad incarnation")
		}
		v.Incarnation = Incarnation(inc)
	}
	if (v.Holder == "") != (v.Incarnation == "") {
		return unreadable(b, "holder without incarnation or the reverse")
	}
	if v.WriteID = WriteID(s[writeAt : headAt-1]); !isBase32(string(v.WriteID)) {
		return unreadable(b, "bad write id")
	}
	if v.Head.Seq, ok = parseHex(s[headAt : randAt-1]); !ok || s[randAt-1] != '-' {
		return unreadable(b, "bad journal head")
	}
	if r := s[randAt:]; r != noRand {
		if !isName(r, HeadRandLen) {
			return unreadable(b, "bad journal head")
		}
		v.Head.Rand = r
	}
	return v, nil
}

func unreadable(b []byte, what string) (Value, error) {
	s := string(b)
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return Value{}, fmt.Errorf("%w: %s in %q", ErrUnreadable, what, s)
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

// parseHex reads lower-case hexadecimal digits, at most 14 of them.
func parseHex(s string) (n uint64, ok bool) {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

func parseNode(s string) (NodeID, bool) {
	if s == nobody {
		return "", true
	}
	return NodeID(s), isNode(s)
}

func isNode(s string) bool {
	return isName(s, NodeIDLen) && s[0] >= 'a' && s[0] <= 'z'
}

func isBase32(s string) bool {
	if len(s) != IncarnationLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}
