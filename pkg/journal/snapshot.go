package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// SnapshotInfo is what the beginning of a snapshot says of it.
type SnapshotInfo struct {
	Plane    lease.PlaneID
	Term     lease.Term
	Head     lease.Head // its own name; its number is that of the state's last transaction
	Segment  lease.Head // the segment after which the state was so
	Previous lease.Head // the snapshot before it in the chain
	WallMs   int64      // of the writer, Unix milliseconds
	Keys     uint64
}

// blockSize is about how many bytes of entries one block holds.
const blockSize = 256 << 10

// The kinds of blocks, their first byte.
const (
	blockInfo    = 'i'
	blockEntries = 'e'
	blockEnd     = 'z'
)

// SnapshotReader reads as the object of a snapshot of s. It is made as it is
// read, a block at a time, so that a large state needs no second copy.
//
// A block is its length, a checksum and its bytes. The checksum (CRC-32C) runs
// on from block to block, so that none can be left out, repeated or moved, and
// the last one is known as the last.
func SnapshotReader(s *State, info SnapshotInfo) io.ReadCloser {
	info.Keys = uint64(s.Len())
	next, stop := iter.Pull(s.t.from(""))
	r := &snapshotReader{next: next, stop: stop, keys: info.Keys}
	b := binary.AppendUvarint(appendString([]byte{blockInfo}, string(info.Plane)), uint64(info.Term))
	for _, h := range [...]lease.Head{info.Head, info.Segment, info.Previous} {
		b = appendHead(b, h)
	}
	b = binary.AppendUvarint(binary.AppendVarint(b, info.WallMs), info.Keys)
	r.out = append(r.out, snapshotMagic...)
	r.block(b)
	return r
}

type snapshotReader struct {
	next    func() (Entry, bool)
	stop    func()
	keys    uint64
	sum     uint32
	out     []byte // made and not yet read
	scratch []byte
	ended   bool
}

func (r *snapshotReader) block(b []byte) {
	r.sum = crc32.Update(r.sum, castagnoli, b)
	r.out = binary.LittleEndian.AppendUint32(r.out, uint32(len(b))) //nolint:gosec // a block is little more than a value
	r.out = binary.LittleEndian.AppendUint32(r.out, r.sum)
	r.out = append(r.out, b...)
}

// Read implements io.Reader.
func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		r.fill()
	}
	n := copy(p, r.out)
	if r.out = r.out[n:]; len(r.out) == 0 {
		r.out = nil
	}
	return n, nil
}

func (r *snapshotReader) fill() {
	b := r.scratch[:0]
	b = append(b, blockEntries)
	for len(b) < blockSize {
		e, ok := r.next()
		if !ok {
			r.ended = true
			break
		}
		b = binary.AppendUvarint(appendString(b, e.Key), e.Version)
		b = append(binary.AppendUvarint(b, uint64(len(e.Value))), e.Value...)
	}
	r.scratch = b
	r.out = make([]byte, 0, len(b)+32)
	if len(b) > 1 {
		r.block(b)
	}
	if r.ended {
		r.block(binary.AppendUvarint([]byte{blockEnd}, r.keys))
	}
}

// Close lets go of the state.
func (r *snapshotReader) Close() error {
	r.stop()
	r.ended, r.out = true, nil
	return nil
}

// DecodeSnapshot reads a snapshot to its end. The state's Head is the segment
// it was made after. An error of r is passed on as a readError; any other says
// what is wrong with the snapshot.
func DecodeSnapshot(r io.Reader) (*State, SnapshotInfo, error) {
	d := newSnapshotDecoder(r)
	info, err := d.info()
	if err != nil {
		return nil, info, err
	}
	for {
		b, err := d.block()
		if err != nil {
			return nil, info, err
		}
		switch b[0] {
		case blockEntries:
			err = d.entries(b[1:], info)
		case blockEnd:
			if err = d.end(b[1:], info); err == nil {
				return &State{Head: info.Segment, Term: info.Term, Snapshot: info.Head, Previous: info.Previous, t: d.b.tree()}, info, nil
			}
		default:
			err = fmt.Errorf("a block of unknown kind %q", b[0])
		}
		if err != nil {
			return nil, info, err
		}
	}
}

// DecodeSnapshotInfo reads the beginning of a snapshot only.
func DecodeSnapshotInfo(r io.Reader) (SnapshotInfo, error) { return newSnapshotDecoder(r).info() }

// readError marks that the bytes could not be read, which says nothing of them.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

type snapshotDecoder struct {
	r    *bufio.Reader
	sum  uint32
	buf  []byte
	b    builder
	last string
}

func newSnapshotDecoder(r io.Reader) *snapshotDecoder {
	return &snapshotDecoder{r: bufio.NewReaderSize(r, 256<<10)}
}

func (d *snapshotDecoder) full(b []byte) error {
	_, err := io.ReadFull(d.r, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errTorn
	}
	return readError{err}
}

func (d *snapshotDecoder) block() ([]byte, error) {
	var head [8]byte
	if err := d.full(head[:]); err != nil {
		return nil, err
	}
	n, sum := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if n == 0 || n > blockSize+MaxValue+MaxKey+64 {
		return nil, fmt.Errorf("a block of %d bytes", n)
	}
	if uint32(cap(d.buf)) < n { //nolint:gosec // a small number
		d.buf = make([]byte, n)
	}
	b := d.buf[:n]
	if err := d.full(b); err != nil {
		return nil, err
	}
	if d.sum = crc32.Update(d.sum, castagnoli, b); d.sum != sum {
		return nil, fmt.Errorf("checksum %08x, its content has %08x: it is torn or was altered", sum, d.sum)
	}
	return b, nil
}

func (d *snapshotDecoder) info() (SnapshotInfo, error) {
	var info SnapshotInfo
	var magic [4]byte
	if err := d.full(magic[:]); err != nil {
		return info, err
	}
	if string(magic[:]) != snapshotMagic {
		return info, fmt.Errorf("unknown format %q", magic)
	}
	b, err := d.block()
	if err != nil {
		return info, err
	}
	if b[0] != blockInfo {
		return info, errors.New("it does not say what it is")
	}
	f := decoder{b: b[1:]}
	info.Plane, info.Term = lease.PlaneID(f.string(lease.PlaneIDLen)), lease.Term(f.uint())
	for _, h := range [...]*lease.Head{&info.Head, &info.Segment, &info.Previous} {
		*h = f.head()
	}
	info.WallMs, info.Keys = f.int(), f.uint()
	if f.err == nil && (len(f.b) > 0 || info.Term > lease.MaxTerm || info.Head.Rand == "" || info.Segment.Seq != info.Head.Seq || info.Previous.Seq > info.Head.Seq) {
		f.fail(errors.New("its numbers do not fit together"))
	}
	return info, f.err
}

func (d *snapshotDecoder) entries(b []byte, info SnapshotInfo) error {
	f := decoder{b: b}
	for len(f.b) > 0 {
		e := Entry{Key: f.key(), Version: f.uint(), Value: f.value()}
		if f.err == nil && (e.Key <= d.last || e.Version == 0 || e.Version > info.Head.Seq) {
			f.fail(fmt.Errorf("key %q is out of order, or its version %d is", e.Key, e.Version))
		}
		if f.err != nil {
			break
		}
		d.last = e.Key
		d.b.add(e)
	}
	return f.err
}

func (d *snapshotDecoder) end(b []byte, info SnapshotInfo) error {
	f := decoder{b: b}
	if n := f.uint(); f.err == nil && (n != info.Keys || n != uint64(d.b.t.count) || len(f.b) > 0) {
		return fmt.Errorf("%d keys where %d belong", d.b.t.count, info.Keys)
	}
	if f.err != nil {
		return f.err
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err != nil {
			return readError{err}
		}
		return errors.New("there is more after its end")
	}
	return nil
}
