package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Segment is one commit: transactions, and what the chain is made of.
type Segment struct {
	Plane    lease.PlaneID
	Term     lease.Term
	Head     lease.Head // its own name; its number is that of its last transaction
	Pred     lease.Head // the segment before it; empty: it is the first
	Snapshot lease.Head // the newest snapshot below it that a reader may begin with
	Previous lease.Head // the one before, for when that is damaged
	// Clean: the state begins anew with this segment; what came before it is
	// dropped on purpose.
	Clean  bool
	WallMs int64      // of the writer, Unix milliseconds; for retention and people
	Txns   [][]Change // numbered from Pred.Seq+1 to Head.Seq
}

// The formats begin with these; another number means another format.
const (
	segmentMagic  = "usg1"
	snapshotMagic = "usn1"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	opPut    = 1
	opDelete = 2
)

// Encode writes the segment: fields, transactions, and a checksum (CRC-32C)
// over all of it.
func (g *Segment) Encode() []byte {
	n := 256
	for _, t := range g.Txns {
		n += 4
		for _, c := range t {
			n += len(c.Key) + len(c.Value) + 12
		}
	}
	b := append(make([]byte, 0, n), segmentMagic...)
	b = appendString(b, string(g.Plane))
	b = binary.AppendUvarint(b, uint64(g.Term))
	for _, h := range [...]lease.Head{g.Head, g.Pred, g.Snapshot, g.Previous} {
		b = appendHead(b, h)
	}
	b = append(b, map[bool]byte{true: 1}[g.Clean])
	b = binary.AppendVarint(b, g.WallMs)
	b = binary.AppendUvarint(b, uint64(len(g.Txns)))
	for _, t := range g.Txns {
		b = binary.AppendUvarint(b, uint64(len(t)))
		for _, c := range t {
			if c.Delete {
				b = appendString(append(b, opDelete), c.Key)
				continue
			}
			b = appendString(append(b, opPut), c.Key)
			b = appendString(b, string(c.Value))
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendHead(b []byte, h lease.Head) []byte {
	return appendString(binary.AppendUvarint(b, h.Seq), h.Rand)
}

var errTorn = errors.New("it ends too early")

// DecodeSegment reads a segment. It accepts exactly what Encode writes, in a
// chain that can be: numbers that grow, transactions that fill them, keys and
// values within their limits. The error says what is wrong; it does not name
// the object. What it returns shares nothing with b.
func DecodeSegment(b []byte) (*Segment, error) {
	if len(b) < len(segmentMagic)+4 {
		return nil, fmt.Errorf("%w: %d bytes", errTorn, len(b))
	}
	if string(b[:4]) != segmentMagic {
		return nil, fmt.Errorf("unknown format %.4q", b)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if have := crc32.Checksum(body, castagnoli); have != sum {
		return nil, fmt.Errorf("checksum %08x, its content has %08x: it is torn or was altered", sum, have)
	}
	d := decoder{b: body[4:]}
	g := &Segment{Plane: lease.PlaneID(d.string(lease.PlaneIDLen)), Term: lease.Term(d.uint())}
	for _, h := range [...]*lease.Head{&g.Head, &g.Pred, &g.Snapshot, &g.Previous} {
		*h = d.head()
	}
	flags := d.byte()
	g.Clean, g.WallMs = flags == 1, d.int()
	n := d.uint()
	if d.err == nil && (flags > 1 || n == 0 || g.Term > lease.MaxTerm || g.Head.Rand == "" || g.Head.Seq <= g.Pred.Seq || n != g.Head.Seq-g.Pred.Seq ||
		(g.Snapshot.Rand == "" && g.Previous.Rand != "") || g.Snapshot.Seq > g.Pred.Seq || g.Previous.Seq > g.Snapshot.Seq ||
		(g.Clean && g.Snapshot.Rand != "")) {
		d.fail(errors.New("its numbers do not fit together"))
	}
	for ; n > 0 && d.err == nil; n-- {
		g.Txns = append(g.Txns, d.txn())
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail(fmt.Errorf("%d bytes follow its end", len(d.b)))
	}
	return g, d.err
}

// decoder takes fields off the front of b, until one does not fit.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail(errTorn)
		return 0
	}
	x := d.b[0]
	d.b = d.b[1:]
	return x
}

func (d *decoder) uint() uint64 {
	x, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errTorn)
		return 0
	}
	d.b = d.b[n:]
	return x
}

func (d *decoder) int() int64 {
	x, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errTorn)
		return 0
	}
	d.b = d.b[n:]
	return x
}

// bytes returns the next field, a part of b.
func (d *decoder) bytes(limit uint64) []byte {
	n := d.uint()
	if n > limit {
		d.fail(fmt.Errorf("a field of %d bytes, at most %d are possible", n, limit))
		return nil
	}
	if n > uint64(len(d.b)) {
		d.fail(errTorn)
		return nil
	}
	x := d.b[:n]
	d.b = d.b[n:]
	return x
}

// value returns a copy of the next field, which is never nil.
func (d *decoder) value() []byte {
	b := d.bytes(MaxValue)
	return append(make([]byte, 0, len(b)), b...)
}

func (d *decoder) string(limit uint64) string { return string(d.bytes(limit)) }

// head reads a name, or the empty one.
func (d *decoder) head() lease.Head {
	h := lease.Head{Seq: d.uint(), Rand: d.string(lease.HeadRandLen)}
	if d.err == nil && (h.Seq > maxSeq || (h.Rand == "" && h.Seq != 0) || (h.Rand != "" && !isRandom(h.Rand))) {
		d.fail(fmt.Errorf("%q is not the name of a segment", h.Rand))
	}
	return h
}

func (d *decoder) key() string {
	k := d.string(MaxKey)
	if d.err == nil {
		if err := CheckKey(k); err != nil {
			d.fail(err)
		}
	}
	return k
}

func (d *decoder) txn() []Change {
	n := d.uint()
	if n > MaxChanges {
		d.fail(fmt.Errorf("%d changes in a transaction, at most %d are possible", n, MaxChanges))
	}
	var t []Change
	for ; n > 0 && d.err == nil; n-- {
		switch op := d.byte(); op {
		case opPut:
			k := d.key()
			t = append(t, Change{Key: k, Value: d.value()})
		case opDelete:
			t = append(t, Change{Key: d.key(), Delete: true})
		default:
			d.fail(fmt.Errorf("unknown change %d", op))
		}
	}
	return t
}
