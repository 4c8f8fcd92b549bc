package lease

import (
	"encoding/base32"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseNodeID(t *testing.T) {
	for _, s := range []string{"abcdefgh", "a0000000", "z9z9z9z9"} {
		if id, err := ParseNodeID(s); err != nil || string(id) != s {
			t.Errorf("%q: %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "abcdefg", "abcdefghi", "0bcdefgh", "Abcdefgh", "abc-efgh", "abc.efgh", "--------"} {
		if _, err := ParseNodeID(s); !errors.Is(err, ErrBadNodeID) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestEncode128(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "b"))
		want := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
		if got := Encode128(b); got != want || len(got) != WriteIDLen {
			t.Fatalf("%x: got %q, want %q", b, got, want)
		}
	})
}

func TestParseMode(t *testing.T) {
	for _, m := range Modes() {
		for _, s := range []string{string(m), strings.ToLower(string(m)), " " + string(m) + "\n"} {
			if got, err := ParseMode(s); err != nil || got != m {
				t.Errorf("%q: %v, %v", s, got, err)
			}
		}
	}
	if _, err := ParseMode("PRIMARY"); err == nil || !strings.Contains(err.Error(), "HOT_BACKUP") {
		t.Errorf("the error must list the modes: %v", err)
	}
}

// The serving side takes the clock that says more, the observing side the one
// that says less.
func TestInstant(t *testing.T) {
	a := At(5 * time.Second)
	b := Instant{Boot: a.Boot + int64(3*time.Second), Raw: a.Raw + int64(time.Second)} // suspended for 2 s
	if got := b.Longest(a); got != 3*time.Second {
		t.Errorf("longest %v", got)
	}
	if got := b.Shortest(a); got != time.Second {
		t.Errorf("shortest %v", got)
	}
	if got := a.Add(time.Second); got != At(6*time.Second) {
		t.Errorf("add: %v", got)
	}
	if !(Instant{}).IsZero() || a.IsZero() {
		t.Error("IsZero")
	}
}
