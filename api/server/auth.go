package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Auth decides whether a password is a user's. It is called from any
// goroutine.
type Auth interface {
	// Check returns nil when the password is the user's, ErrUnauthorized when
	// not, ErrBusy or ctx's error when that could not be found out in time.
	Check(ctx context.Context, user, password string) error
	// Known reports, at once, whether Check has found that password right
	// before. No is no answer: ask Check.
	Known(user, password string) bool
}

// What Auth.Check returns.
var (
	ErrUnauthorized = errors.New("unknown user or wrong password")
	ErrBusy         = errors.New("too many attempts to log in at the moment; try again")
)

const (
	// maxCost is the highest bcrypt cost taken: each step doubles the time of
	// a first login, and 15 is about two seconds.
	maxCost = 15
	// maxWaiting is how many unverified attempts may wait for their turn.
	maxWaiting = 16
	// maxWait is how long one may wait.
	maxWait = 5 * time.Second
	// restFactor: after a wrong password the slot rests for this many times
	// as long as checking it took, so that a flood of them takes at most a
	// quarter of one core.
	restFactor = 3
	// maxRefused is how many wrong passwords are remembered.
	maxRefused = 128
)

// mac is an HMAC of user, password and the user's bcrypt hash under the key of
// this process. It stands for "these were compared".
type mac [sha256.Size]byte

// HTPasswd checks passwords against the bcrypt lines of an htpasswd file.
//
// bcrypt is slow on purpose, about 50 ms of a core at its usual cost. So a
// password that was found right is remembered as an HMAC, which costs a
// microsecond to compare; the key lives and dies with this value, so a reload
// forgets everything. Attempts that are not remembered take turns: one bcrypt
// at a time, equal attempts share one, a bounded number wait for a bounded
// time.
type HTPasswd struct {
	hashes map[string][]byte
	key    [32]byte
	decoy  func() []byte // a hash nobody's password has, for users that do not exist
	slot   chan struct{} // holds one token: the right to run bcrypt

	mu       sync.Mutex
	verified map[string]mac // by user; one password each
	refused  map[mac]struct{}
	oldest   []mac // of refused, in order
	under    map[mac]*attempt
	rest     time.Time // no bcrypt before: see restFactor

	compare func(hash, password []byte) error // bcrypt; tests count its calls
}

// attempt is one check under way that others may wait for.
type attempt struct {
	done chan struct{}
	err  error
}

// ParseHTPasswd reads htpasswd lines, "user:$2y$…"; empty lines and lines that
// begin with # do not count. Only bcrypt is taken (htpasswd -B). name is what
// errors call the source.
func ParseHTPasswd(name string, content []byte) (*HTPasswd, error) {
	a := &HTPasswd{
		hashes:   map[string][]byte{},
		slot:     make(chan struct{}, 1),
		verified: map[string]mac{},
		refused:  map[mac]struct{}{},
		under:    map[mac]*attempt{},
		compare:  bcrypt.CompareHashAndPassword,
	}
	cost := 0
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return nil, fmt.Errorf("%s:%d: not of the form user:hash; make such lines with: htpasswd -nB USER", name, n)
		}
		if _, twice := a.hashes[user]; twice {
			return nil, fmt.Errorf("%s:%d: user %q is there twice; remove one line", name, n, user)
		}
		c, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: the hash of user %q is not bcrypt; make such lines with: htpasswd -nB USER", name, n, user)
		}
		if c > maxCost {
			return nil, fmt.Errorf("%s:%d: the bcrypt cost of user %q is %d, at most %d is taken: a login would cost seconds", name, n, user, c, maxCost)
		}
		cost = max(cost, c)
		a.hashes[user] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(a.hashes) == 0 {
		return nil, fmt.Errorf("%s: no user in it, so nobody could log in; add one with: htpasswd -B %s USER", name, name)
	}
	_, _ = rand.Read(a.key[:]) // never fails
	a.decoy = sync.OnceValue(func() []byte {
		hash, err := bcrypt.GenerateFromPassword([]byte(rand.Text()), cost)
		if err != nil {
			return nil // comparing with nothing fails, only sooner
		}
		return hash
	})
	return a, nil
}

// LoadHTPasswd reads an htpasswd file.
func LoadHTPasswd(path string) (*HTPasswd, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the users: %w", err)
	}
	return ParseHTPasswd(path, b)
}

// Has reports whether there is a user of that name.
func (a *HTPasswd) Has(user string) bool { return a.hashes[user] != nil }

// Known implements Auth.
func (a *HTPasswd) Known(user, password string) bool {
	m := a.mac(user, password)
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.verified[user]
	return ok && hmac.Equal(v[:], m[:])
}

// Check implements Auth.
func (a *HTPasswd) Check(ctx context.Context, user, password string) error {
	if a.Known(user, password) {
		return nil
	}
	m := a.mac(user, password)
	a.mu.Lock()
	if _, ok := a.refused[m]; ok {
		a.mu.Unlock()
		return ErrUnauthorized
	}
	at, ok := a.under[m]
	if !ok {
		if len(a.under) >= maxWaiting {
			a.mu.Unlock()
			return ErrBusy
		}
		at = &attempt{done: make(chan struct{})}
		a.under[m] = at
		a.mu.Unlock()
		// The first to ask does the work for all who ask the same, so its own
		// client going away must not fail the others.
		at.err = a.verify(context.WithoutCancel(ctx), user, password)
		a.settle(m, user, at)
		return at.err
	}
	a.mu.Unlock()
	select {
	case <-at.done:
		return at.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle remembers how an attempt ended and wakes those who wait for it.
func (a *HTPasswd) settle(m mac, user string, at *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.under, m)
	switch {
	case at.err == nil:
		a.verified[user] = m
	case errors.Is(at.err, ErrUnauthorized):
		if len(a.oldest) == maxRefused {
			delete(a.refused, a.oldest[0])
			a.oldest = a.oldest[1:]
		}
		a.refused[m] = struct{}{}
		a.oldest = append(a.oldest, m)
	}
	close(at.done)
}

// verify waits for its turn and pays for one bcrypt.
func (a *HTPasswd) verify(ctx context.Context, user, password string) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	select {
	case a.slot <- struct{}{}:
		defer func() { <-a.slot }()
	case <-ctx.Done():
		return ErrBusy
	}
	a.mu.Lock()
	rest := time.Until(a.rest)
	a.mu.Unlock()
	if rest > 0 {
		t := time.NewTimer(rest)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ErrBusy
		}
	}
	hash, known := a.hashes[user]
	if !known {
		hash = a.decoy() // take as long as for a user that exists
	}
	begun := time.Now()
	err := a.compare(hash, []byte(password))
	if err == nil && known {
		return nil
	}
	end := time.Now()
	a.mu.Lock()
	a.rest = end.Add(restFactor * end.Sub(begun))
	a.mu.Unlock()
	return ErrUnauthorized
}

func (a *HTPasswd) mac(user, password string) mac {
	h := hmac.New(sha256.New, a.key[:])
	var n [8]byte
	for _, part := range [][]byte{[]byte(user), []byte(password), a.hashes[user]} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	var m mac
	h.Sum(m[:0])
	return m
}

// Credentials are a user and a password in plain text, to be shown once.
type Credentials struct{ User, Password string }

// HTPasswdFile is where GenerateCredentials keeps the user, in dataDir.
const HTPasswdFile = "htpasswd"

const generatedUser = "admin"

// GenerateCredentials is for a node that no user was configured for: it makes
// the user admin with a random password and keeps the hash in
// dataDir/htpasswd, mode 0600. The password is returned when it is made and
// never again: nil means that the file was there already. A file that can not
// be used is an error that names it and the remedy; it is never replaced.
func GenerateCredentials(dataDir string) (*HTPasswd, *Credentials, error) {
	return generateCredentials(dataDir, bcrypt.DefaultCost)
}

func generateCredentials(dataDir string, cost int) (*HTPasswd, *Credentials, error) {
	path := filepath.Join(dataDir, HTPasswdFile)
	remedy := fmt.Sprintf("repair it, or remove it to have a new password made and printed: rm %s", path)
	auth, err := LoadHTPasswd(path)
	if err == nil {
		return auth, nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w; %s", err, remedy)
	}
	c := &Credentials{User: generatedUser, Password: rand.Text()} // 130 random bits
	hash, err := bcrypt.GenerateFromPassword([]byte(c.Password), cost)
	if err != nil {
		return nil, nil, fmt.Errorf("make the password of %s: %w", c.User, err)
	}
	line := c.User + ":" + string(hash) + "\n"
	switch err := createOnce(path, []byte(line), 0o600); {
	case errors.Is(err, fs.ErrExist): // made by another process meanwhile
		if auth, err = LoadHTPasswd(path); err != nil {
			return nil, nil, fmt.Errorf("%w; %s", err, remedy)
		}
		return auth, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("keep the password of %s: %w; is dataDir there, writable and not full?", c.User, err)
	}
	if auth, err = LoadHTPasswd(path); err != nil {
		return nil, nil, fmt.Errorf("%w; %s", err, remedy)
	}
	return auth, c, nil
}

// createOnce makes a file with the given content, whole and durable, or fails
// with fs.ErrExist when there is one: write and fsync a temporary file, link
// it to its name (which never replaces), fsync the directory.
func createOnce(path string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
