package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTokensAreKeptAsHashes(t *testing.T) {
	tokens := &Tokens{}
	end := wall.Add(time.Hour)
	plain, made, err := tokens.Create("a name of words", Operator, end)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := tokens.Create("another", Viewer, time.Time{})
	if err != nil || other == plain {
		t.Fatal(other, err)
	}
	if strings.Contains(string(tokens.Bytes()), plain[len(tokenPrefix)+tokenIDLen+1:]) {
		t.Error("the token itself is kept")
	}
	again, err := ParseTokens("x", tokens.Bytes())
	if err != nil || len(again.List()) != 2 || again.List()[0] != made {
		t.Fatalf("%v %v, want %v", again, err, made)
	}
	for _, set := range []*Tokens{tokens, again} {
		if got, ok := set.find(plain, wall); !ok || got.Role != Operator || got.Name != "a name of words" {
			t.Errorf("%v %v", got, ok)
		}
		if _, ok := set.find(plain, end); ok {
			t.Error("valid at its end")
		}
		for _, wrong := range []string{"", tokenPrefix, plain[:len(plain)-1], plain + "x", made.ID, tokenPrefix + made.ID, tokenPrefix + made.ID + "_", plain[len(tokenPrefix):], strings.ToUpper(plain)} {
			if _, ok := set.find(wrong, wall); ok {
				t.Errorf("%q is taken", wrong)
			}
		}
	}
	if _, ok := (*Tokens)(nil).find(plain, wall); ok {
		t.Error("taken where there are none")
	}
}

func TestParseTokensSaysWhatIsWrong(t *testing.T) {
	hash := strings.Repeat("0", 64)
	for line, want := range map[string]string{
		"short":                                    "not of the form",
		"abc viewer never " + hash + " x":          "not of the form",
		"abcdefgh boss never " + hash + " x":       "unknown role",
		"abcdefgh viewer soon " + hash + " x":      "the end of token abcdefgh",
		"abcdefgh viewer never " + hash[1:] + " x": "the hash of token abcdefgh",
		"abcdefgh viewer never " + hash + " x\nabcdefgh viewer never " + hash + " y": "there twice",
	} {
		_, err := ParseTokens("tokens", []byte("# head\n\n"+line+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "tokens:") {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	for _, name := range []string{"", " x", "x\ny", strings.Repeat("x", 65), "a\x00b"} {
		if _, _, err := (&Tokens{}).Create(name, Viewer, time.Time{}); err == nil {
			t.Errorf("%q is taken as a name", name)
		}
	}
}

// Many at once, and none is lost.
func TestUpdateTokensByManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	const many = 20
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			if err := UpdateTokens(path, func(tk *Tokens) error {
				_, _, err := tk.Create(fmt.Sprint("t", i), Viewer, time.Time{})
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tokens, err := LoadTokens(path)
	if err != nil || len(tokens.List()) != many {
		t.Errorf("%d tokens, %v", len(tokens.List()), err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
