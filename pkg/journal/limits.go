package journal

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what can be persisted, in bytes unless said otherwise.
const (
	MaxKey     = 512
	MaxValue   = 1 << 20
	MaxChanges = 1024    // of one transaction
	MaxTxn     = 4 << 20 // keys and values of one transaction
	MaxBatch   = 8 << 20 // keys and values of one segment
	MaxState   = 8 << 30 // keys and values of all
)

// maxSegment bounds how much of a segment is read.
const maxSegment = 2*MaxBatch + 1<<20

// LimitError says that something is larger than can be persisted. Nothing was
// changed.
type LimitError struct {
	What      string
	Have, Max int64
	// Whole: it is the state as a whole that would be too large, not the request.
	Whole bool
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d, at most %d; store large things as artifacts or elsewhere, and their names here", e.What, e.Have, e.Max)
}

// ErrBadKey is wrapped by every error of CheckKey but LimitError.
var ErrBadKey = errors.New("not a key: keys are UTF-8 without control characters, parts separated by single slashes, none of them empty, '.' or '..'")

// CheckKey reports whether k can be a key.
func CheckKey(k string) error {
	if len(k) > MaxKey {
		return &LimitError{What: "bytes of a key", Have: int64(len(k)), Max: MaxKey}
	}
	if !utf8.ValidString(k) || strings.ContainsFunc(k, unicode.IsControl) {
		return fmt.Errorf("%.100q: %w", k, ErrBadKey)
	}
	for part := range strings.SplitSeq(k, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%.100q: %w", k, ErrBadKey)
		}
	}
	return nil
}

// Reserved reports whether a key belongs to Understudy itself: its first part
// begins with a dot.
func Reserved(k string) bool { return strings.HasPrefix(k, ".") }

// Check reports whether t can be persisted: *LimitError, or ErrBadKey, or a key
// that is named twice.
func (t Txn) Check() error {
	if n := len(t.Changes); n > MaxChanges {
		return &LimitError{What: "changes of one transaction", Have: int64(n), Max: MaxChanges}
	}
	if n := len(t.If); n > MaxChanges {
		return &LimitError{What: "conditions of one transaction", Have: int64(n), Max: MaxChanges}
	}
	for _, c := range t.If {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
	}
	seen := make(map[string]bool, len(t.Changes))
	for _, c := range t.Changes {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		if n := len(c.Value); n > MaxValue {
			return &LimitError{What: "bytes of a value", Have: int64(n), Max: MaxValue}
		}
		if seen[c.Key] {
			return fmt.Errorf("%q is changed twice in one transaction: %w", c.Key, ErrBadKey)
		}
		seen[c.Key] = true
	}
	if n := t.Size(); n > MaxTxn {
		return &LimitError{What: "bytes of one transaction", Have: n, Max: MaxTxn}
	}
	return nil
}

// Size is how many bytes of keys and values a transaction carries.
func (t Txn) Size() int64 {
	var n int64
	for _, c := range t.Changes {
		n += int64(len(c.Key) + len(c.Value))
	}
	return n
}
