package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Token is a bearer token as it is kept: without the token itself.
type Token struct {
	ID      string // public, 8 characters
	Name    string // what it is for
	Role    Role
	Expires time.Time // zero: never
	hash    [sha256.Size]byte
}

// Tokens are bearer tokens by id. A token is 26 random characters, so one
// SHA-256 keeps it as safe as bcrypt keeps a password, at no cost per request.
type Tokens struct{ list []Token }

const (
	tokenPrefix = "ust_" // what secret scanners can look for
	tokenIDLen  = 8
	never       = "never"
	fileHead    = "# Bearer tokens of understudy, one a line: id, role, end, SHA-256, what for.\n"
)

// ParseTokens reads what Bytes writes. name is what errors call the source.
func ParseTokens(name string, content []byte) (*Tokens, error) {
	t := &Tokens{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		tok, err := parseToken(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w; remove the line and make another token with: understudy token create", name, n, err)
		}
		if t.byID(tok.ID) != nil {
			return nil, fmt.Errorf("%s:%d: token %s is there twice; remove one line", name, n, tok.ID)
		}
		t.list = append(t.list, tok)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func parseToken(line string) (Token, error) {
	f := strings.SplitN(line, " ", 5)
	if len(f) != 5 || len(f[0]) != tokenIDLen {
		return Token{}, errors.New("not of the form id role end hash name")
	}
	t := Token{ID: f[0], Name: f[4]}
	var err error
	if t.Role, err = ParseRole(f[1]); err != nil {
		return t, err
	}
	if f[2] != never {
		if t.Expires, err = time.Parse(time.RFC3339, f[2]); err != nil {
			return t, fmt.Errorf("the end of token %s is no time", t.ID)
		}
	}
	sum, err := hex.DecodeString(f[3])
	if err != nil || len(sum) != sha256.Size {
		return t, fmt.Errorf("the hash of token %s is no SHA-256", t.ID)
	}
	copy(t.hash[:], sum)
	return t, nil
}

// LoadTokens reads a file of tokens; one that is not there holds none.
func LoadTokens(path string) (*Tokens, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the tokens: %w", err)
	}
	return ParseTokens(path, b)
}

// Bytes is the file of the tokens.
func (t *Tokens) Bytes() []byte {
	b := bytes.NewBufferString(fileHead)
	for _, tok := range t.list {
		end := never
		if !tok.Expires.IsZero() {
			end = tok.Expires.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(b, "%s %s %s %x %s\n", tok.ID, tok.Role, end, tok.hash, tok.Name)
	}
	return b.Bytes()
}

// List lists the tokens in the order in which they were made.
func (t *Tokens) List() []Token { return t.list }

// Create adds a token and returns it in plain text, to be shown once. A zero
// expires means never.
func (t *Tokens) Create(name string, role Role, expires time.Time) (string, Token, error) {
	if name == "" || len(name) > 64 || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		return "", Token{}, fmt.Errorf("%q can not be the name of a token; write 1 to 64 characters that say what it is for", name)
	}
	for _, other := range t.list {
		if other.Name == name {
			return "", Token{}, fmt.Errorf("there is a token %q already, %s; revoke it or choose another name", name, other.ID)
		}
	}
	id := strings.ToLower(rand.Text()[:tokenIDLen])
	plain := tokenPrefix + id + "_" + strings.ToLower(rand.Text())
	tok := Token{ID: id, Name: name, Role: role, Expires: expires, hash: sha256.Sum256([]byte(plain))}
	t.list = append(t.list, tok)
	return plain, tok, nil
}

// Revoke removes a token by id or name and reports whether there was one.
func (t *Tokens) Revoke(idOrName string) bool {
	for i, tok := range t.list {
		if tok.ID == idOrName || tok.Name == idOrName {
			t.list = append(t.list[:i:i], t.list[i+1:]...)
			return true
		}
	}
	return false
}

func (t *Tokens) byID(id string) *Token {
	for i := range t.list {
		if t.list[i].ID == id {
			return &t.list[i]
		}
	}
	return nil
}

// find returns the token that was presented, if it is one that is valid now.
// The comparison takes the same time whatever is wrong with it; the id, which
// is looked up, is no secret.
func (t *Tokens) find(plain string, now time.Time) (Token, bool) {
	sum := sha256.Sum256([]byte(plain))
	var found Token
	if t != nil {
		rest, _ := strings.CutPrefix(plain, tokenPrefix)
		if len(rest) > tokenIDLen {
			if tok := t.byID(rest[:tokenIDLen]); tok != nil {
				found = *tok
			}
		}
	}
	same := subtle.ConstantTimeCompare(sum[:], found.hash[:]) == 1
	return found, same && found.ID != "" && (found.Expires.IsZero() || now.Before(found.Expires))
}

// UpdateTokens changes a file of tokens: one change at a time, the file whole
// at any moment, mode 0600, and of the owner of its directory, so that a node
// of another user can read what root has made.
func UpdateTokens(path string, change func(*Tokens) error) error {
	dir := filepath.Dir(path)
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("change the tokens: %w", err)
	}
	defer d.Close() // read only; it ends the lock
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("change the tokens: lock %s: %w", dir, err)
	}
	t, err := LoadTokens(path)
	if err != nil {
		return err
	}
	if err := change(t); err != nil {
		return err
	}
	if err := replace(path, t.Bytes(), d); err != nil {
		return fmt.Errorf("change the tokens: %w", err)
	}
	return nil
}

// replace writes a file of secrets whole and durably: write and fsync a
// temporary file, rename, fsync the directory.
func replace(path string, content []byte, dir *os.File) error {
	fi, err := dir.Stat()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir.Name(), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // renamed, as a rule
	_, err = tmp.Write(content)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = errors.Join(err, tmp.Chown(int(st.Uid), int(st.Gid)))
	}
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}
