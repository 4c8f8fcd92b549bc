package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rename is a rename that the file system has kept.
type Rename struct {
	Txid     int64
	At       time.Time // when the NameNode did it, to the millisecond
	From, To string
}

// Renames are all that the JournalNodes have kept, in order: what a NameNode has
// shown and not made durable is not among them.
func (c *Cluster) Renames() ([]Rename, error) {
	ops, err := c.edits()
	if err != nil {
		return nil, err
	}
	var out []Rename
	txids := slices.Sorted(maps.Keys(ops))
	for i, id := range txids {
		if id != txids[0]+int64(i) {
			return nil, fmt.Errorf("the JournalNodes lack what was done between %d and %d", txids[i-1], id)
		}
		if body := ops[id]; body[0] == opRename {
			r, err := parseRename(id, body[opHead:])
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

const (
	opRename = 15            // rename2
	opHead   = 1 + 4 + 8     // code, length, txid
	opTail   = crc32.Size    // checksum
	fileHead = 4 + 4         // version of the layout, flags
	prefix   = "edits_"      // of what is finished: edits_FIRST-LAST
	progress = "inprogress_" // and then the first one, of what is not
)

// edits are the operations by number. Those of a segment that was finished are
// the same on each JournalNode; of the one under way those count that two of them
// have. What a JournalNode that was away has begun and not finished is left out.
func (c *Cluster) edits() (map[int64][]byte, error) {
	kept := map[int64][]byte{}
	underWay := map[int64][][]byte{}
	for _, j := range c.Journals {
		dir := filepath.Join(c.Dir, j.Name, "data", Nameservice, "current")
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, ok := strings.CutPrefix(f.Name(), prefix)
			if !ok || strings.Count(name, ".") > 0 {
				continue // an image, a half of a recovery
			}
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was finished just now: look at the other ones'
			}
			if err != nil {
				return nil, err
			}
			open := strings.HasPrefix(name, progress)
			for id, op := range operations(b) {
				if open {
					underWay[id] = append(underWay[id], op)
				} else {
					kept[id] = op
				}
			}
		}
	}
	last := int64(0)
	for id := range kept {
		last = max(last, id)
	}
	for next := last + 1; ; next++ {
		op, ok := agreed(underWay[next])
		if !ok {
			return kept, nil
		}
		kept[next] = op
	}
}

// agreed is what two say.
func agreed(said [][]byte) ([]byte, bool) {
	for i, a := range said {
		for _, b := range said[i+1:] {
			if bytes.Equal(a, b) {
				return a, true
			}
		}
	}
	return nil, false
}

// operations takes a segment apart: each is a code, the length of what follows
// but the checksum, a number, its fields, and a checksum.
func operations(b []byte) map[int64][]byte {
	out := map[int64][]byte{}
	for b = b[min(fileHead, len(b)):]; len(b) > opHead; {
		length := int(int32(binary.BigEndian.Uint32(b[1:]))) //nolint:gosec // judged below
		if length < opHead-1 || length > len(b)-1-opTail || crc32.ChecksumIEEE(b[:1+length]) != binary.BigEndian.Uint32(b[1+length:]) {
			return out // room that was made ahead, or an operation that is just being written
		}
		out[int64(binary.BigEndian.Uint64(b[5:]))] = b[:1+length] //nolint:gosec // a number
		b = b[1+length+opTail:]
	}
	return out
}

// parseRename reads the fields: two paths, a time, and more.
func parseRename(id int64, b []byte) (r Rename, err error) {
	text := func() string {
		if len(b) < 2 {
			err = fmt.Errorf("the rename %d is cut off", id)
			return ""
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			err = fmt.Errorf("the rename %d is cut off", id)
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	r = Rename{Txid: id, From: text(), To: text()}
	if err == nil && len(b) < 8 {
		err = errors.New("the rename " + strconv.FormatInt(id, 10) + " has no time")
	}
	if err == nil {
		r.At = time.UnixMilli(int64(binary.BigEndian.Uint64(b))) //nolint:gosec // a time
	}
	return r, err
}
