package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// MaxName is the longest name of an artifact, in bytes.
const MaxName = 128

// What callers branch on.
var (
	// ErrNone: there is no artifact of that name.
	ErrNone = errors.New("no such artifact")
	// ErrCorrupt: the content is not what the digest says.
	ErrCorrupt = errors.New("artifact corrupt")
	// ErrName: that can not be the name of an artifact.
	ErrName = errors.New("not the name of an artifact: up to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit")
	// ErrUndecided: the index may name the new artifact, now or later, or may
	// not. Look at it to find out.
	ErrUndecided = errors.New("outcome unknown")
)

// Trouble is what the store has to do with an error, for callers that do not
// know stores.
type Trouble int

// The kinds of trouble.
const (
	NoTrouble   Trouble = iota // the store has nothing to do with it
	Gone                       // the object that the index names is not there
	Full                       // there is no space left
	Unavailable                // it does not answer, or not now; try again
)

// TroubleOf tells what the store has to do with an error.
func TroubleOf(err error) Trouble {
	switch {
	case errors.Is(err, persistence.Absent):
		return Gone
	case errors.Is(err, persistence.Full):
		return Full
	case errors.Is(err, persistence.Unknown), errors.Is(err, persistence.Throttled):
		return Unavailable
	}
	return NoTrouble
}

// CheckName returns nil or an error that wraps ErrName.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName
	for i := range len(name) {
		c := name[i]
		alnum := (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		ok = ok && (alnum || (i > 0 && (c == '.' || c == '_' || c == '-')))
	}
	if !ok {
		return fmt.Errorf("%.150q: %w", name, ErrName)
	}
	return nil
}

// Digest is the SHA-256 of some content: 64 lower-case hexadecimal digits.
type Digest string

// ParseDigest accepts a digest in either case, with or without "sha256:".
func ParseDigest(s string) (Digest, error) {
	text := s
	if len(text) > 7 && (text[:7] == "sha256:" || text[:7] == "SHA256:") {
		text = text[7:]
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%.100q is not a SHA-256 digest: give 64 hexadecimal digits", s)
	}
	return Digest(hex.EncodeToString(b)), nil
}

func digestOf(h hash.Hash) Digest { return Digest(hex.EncodeToString(h.Sum(nil))) }

// Sum reads r to its end and returns what it held: digest and bytes.
func Sum(r io.Reader) (Digest, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return digestOf(h), n, err
}

// Entry is an artifact as the index has it.
type Entry struct {
	Name   string    `json:"name"`
	Digest Digest    `json:"sha256"`
	Size   int64     `json:"size"`   // bytes
	Pushed time.Time `json:"pushed"` // by the wall clock of the master, for people
	Object string    `json:"object"` // in the store, beneath Prefix
}

// Check reports whether e can be believed: what stands in the index may have
// been written by hand.
func (e Entry) Check() error {
	o, err := parseObject(e.Object)
	switch {
	case CheckName(e.Name) != nil:
		return CheckName(e.Name)
	case err != nil:
		return fmt.Errorf("artifact %s: %w", e.Name, err)
	case o.digest != e.Digest, e.Size < 0:
		return fmt.Errorf("artifact %s: its entry contradicts itself; push it again", e.Name)
	}
	return nil
}

// Index says which artifacts there are. Of the writes each is atomic and, once
// it returned nil, durable and seen by every later master. They fail where this
// node is not the master. ErrUndecided: neither success nor failure is known.
type Index interface {
	// Get returns the entry of a name, or ErrNone.
	Get(ctx context.Context, name string) (Entry, error)
	// List returns all entries in the order of their names.
	List(ctx context.Context) ([]Entry, error)
	// Set makes e the entry of its name.
	Set(ctx context.Context, e Entry) error
	// Delete takes a name away, or returns ErrNone.
	Delete(ctx context.Context, name string) error
}

// verified passes content on and makes sure of it: at its end comes io.EOF if
// it was size bytes (-1: any number) with that digest, and ErrCorrupt if not.
type verified struct {
	r      io.Reader
	h      hash.Hash
	digest Digest
	size   int64
	got    int64
	err    error
}

// Verify returns a reader of what r gives. It ends with io.EOF only if that was
// size bytes (-1: any number) of the digest, otherwise with ErrCorrupt.
func Verify(r io.Reader, digest Digest, size int64) io.Reader {
	return &verified{r: r, h: sha256.New(), digest: digest, size: size}
}

// Read implements io.Reader. The last bytes come only once the whole was found
// to be right, so that nobody completes something wrong.
func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.got += int64(n)
	switch {
	case v.size >= 0 && v.got > v.size:
		v.err = fmt.Errorf("%w: more than the %d bytes that were announced", ErrCorrupt, v.size)
		return 0, v.err
	case errors.Is(err, io.EOF):
		if v.err = v.judge(); v.err != nil {
			return 0, v.err
		}
		v.err = io.EOF
	case err != nil:
		v.err = err
	}
	return n, err
}

func (v *verified) judge() error {
	if v.size >= 0 && v.got != v.size {
		return fmt.Errorf("%w: %d bytes came, %d were announced", ErrCorrupt, v.got, v.size)
	}
	if d := digestOf(v.h); d != v.digest {
		return fmt.Errorf("%w: its SHA-256 is %s, not %s", ErrCorrupt, d, v.digest)
	}
	return nil
}
