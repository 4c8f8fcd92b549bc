package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// tailLimit is how much of the end of a log is taken along, in bytes.
const tailLimit = 1 << 20

// Bundle is an archive in the making. Everything in it went through the
// Scrubber. It is used by one goroutine.
type Bundle struct {
	scrub *Scrubber
	now   time.Time
	gz    *gzip.Writer
	tar   *tar.Writer
	list  bytes.Buffer
	err   error // the first that writing met

	Missing []string // what could not be had, and why
}

// NewBundle writes an archive (tar, gzip) to w; Close ends it.
func NewBundle(w io.Writer, scrub *Scrubber, now time.Time) *Bundle {
	gz := gzip.NewWriter(w)
	return &Bundle{scrub: scrub, now: now, gz: gz, tar: tar.NewWriter(gz)}
}

// Add adds a file of the given name, or says why there is none.
func (b *Bundle) Add(name string, content []byte, err error) {
	if err != nil {
		line := string(b.scrub.Scrub(fmt.Appendf(nil, "%s: %v", name, err)))
		b.Missing = append(b.Missing, line)
		fmt.Fprintf(&b.list, "missing  %s\n", line)
		return
	}
	content = b.scrub.Scrub(content)
	fmt.Fprintf(&b.list, "%8d %s\n", len(content), name)
	b.write(name, content)
}

// AddTail adds the end of a file. That there is none is nothing to tell.
func (b *Bundle) AddTail(name, path string) {
	content, err := tail(path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	b.Add(name, content, err)
}

func tail(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // a path of the operator's own
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > tailLimit {
		if _, err := f.Seek(-tailLimit, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, tailLimit))
}

func (b *Bundle) write(name string, content []byte) {
	if b.err != nil {
		return
	}
	b.err = b.tar.WriteHeader(&tar.Header{Name: "understudy-report/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.now, Format: tar.FormatPAX})
	if b.err == nil {
		_, b.err = b.tar.Write(content)
	}
}

// Close writes the list of contents and ends the archive.
func (b *Bundle) Close() error {
	b.write("CONTENTS", b.list.Bytes())
	return errors.Join(b.err, b.tar.Close(), b.gz.Close())
}
