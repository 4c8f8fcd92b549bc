package lease

import (
	"errors"
	"fmt"
)

// Lengths, in bytes, of the parts of a register line.
const (
	NodeIDLen      = 8
	PlaneIDLen     = 8
	IncarnationLen = 26
	WriteIDLen     = 26
)

// NodeID names a node for as long as its data directory lives:
// [a-z][a-z0-9]{7}. The empty NodeID means nobody.
type NodeID string

// PlaneID names a plane: [a-z0-9]{8}, drawn once when the register is made.
type PlaneID string

// Incarnation names one run of a node's process: 128 random bits in base32,
// 26 characters of [a-z2-7]. The empty Incarnation means nobody's.
type Incarnation string

// WriteID names one attempt to write the register: 128 random bits in base32,
// 26 characters of [a-z2-7].
type WriteID string

// Term counts reigns. It grows by at least one at every take-over, is never
// reused, and is the fencing token that services and clients compare. At most
// MaxTerm.
type Term uint64

// MaxTerm is the largest term the register can hold (48 bits).
const MaxTerm Term = 1<<48 - 1

// Seq counts the values of the register, at most MaxSeq.
type Seq uint64

// MaxSeq is the largest sequence number the register can hold (56 bits).
const MaxSeq Seq = 1<<56 - 1

// ErrBadNodeID is returned by ParseNodeID.
var ErrBadNodeID = errors.New("a node id is a lower-case letter followed by seven lower-case letters or digits")

// ParseNodeID checks that s is a node id.
func ParseNodeID(s string) (NodeID, error) {
	if !isNode(s) {
		return "", fmt.Errorf("node id %q: %w", s, ErrBadNodeID)
	}
	return NodeID(s), nil
}

// ErrBadPlaneID is returned by ParsePlaneID.
var ErrBadPlaneID = errors.New("a plane id is eight lower-case letters or digits")

// ParsePlaneID checks that s is a plane id.
func ParsePlaneID(s string) (PlaneID, error) {
	if !isName(s, PlaneIDLen) {
		return "", fmt.Errorf("plane id %q: %w", s, ErrBadPlaneID)
	}
	return PlaneID(s), nil
}

const base32Alphabet = "abcdefghijklmnopqrstuvwxyz234567"

// Encode128 writes 16 random bytes in the 26 characters that Incarnation and
// WriteID use (base32, lower case, no padding).
func Encode128(b [16]byte) string {
	out := make([]byte, 0, IncarnationLen)
	var acc uint32
	var bits uint
	for _, x := range b {
		acc = acc<<8 | uint32(x)
		bits += 8
		for bits >= 5 {
			bits -= 5
			out = append(out, base32Alphabet[acc>>bits&31])
		}
		acc &= 1<<bits - 1
	}
	if bits > 0 {
		out = append(out, base32Alphabet[acc<<(5-bits)&31])
	}
	return string(out)
}

func isName(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
