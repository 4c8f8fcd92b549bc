package s3

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	// Credentials are renewed this long ahead of their end, or when a third of
	// their life is left, whichever is later.
	renewAhead = 5 * time.Minute
	// A failed or fruitless renewal is not tried again sooner.
	renewPause   = 10 * time.Second
	renewTimeout = 30 * time.Second
)

// fromChain asks the default chain: environment, profile, web identity, role
// of the container or the machine. The files are read anew each time, so that
// what a login helper has written into them since is found.
func fromChain(ctx context.Context, opts Options) (aws.Credentials, error) {
	cfg, err := load(ctx, opts)
	if err != nil {
		return aws.Credentials{}, err
	}
	return cfg.Credentials.Retrieve(ctx)
}

// SecretVariables names the variables of the environment that hold credentials
// for the store, or lead to them without further proof of who asks.
func SecretVariables() []string {
	return []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
	}
}

// keyring hands out credentials without making a heartbeat wait: they are
// renewed in the background ahead of their end. Only the first request waits
// for them, and one for which there are none that might still do.
type keyring struct {
	source aws.CredentialsProvider
	now    func() time.Time
	run    func(func(context.Context)) bool // starts something in the background

	mu      sync.Mutex
	cur     aws.Credentials
	have    bool
	refused bool          // by the server
	renewAt time.Time     // zero: not by themselves
	notYet  time.Time     // no renewal before
	pending chan struct{} // closed when the renewal under way has ended
	err     error         // of the last renewal
}

// keyError is a failure to get credentials, as against one of the store.
type keyError struct{ err error }

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// Retrieve implements aws.CredentialsProvider.
func (k *keyring) Retrieve(ctx context.Context) (aws.Credentials, error) {
	for {
		cur, ok, pending, err := k.peek()
		if ok {
			return cur, nil
		}
		if pending == nil {
			return aws.Credentials{}, &keyError{err}
		}
		select {
		case <-pending:
		case <-ctx.Done():
			return aws.Credentials{}, &keyError{ctx.Err()}
		}
	}
}

// peek returns what there is, and sees to a renewal where it is time. Expired
// credentials are handed out when there is nothing better: the clock that says
// so is this machine's, and the server knows.
func (k *keyring) peek() (cur aws.Credentials, ok bool, pending chan struct{}, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	due := !k.have || k.refused || (!k.renewAt.IsZero() && !now.Before(k.renewAt))
	if due && k.pending == nil && !now.Before(k.notYet) {
		k.begin()
	}
	expired := k.have && k.cur.CanExpire && !now.Before(k.cur.Expires)
	if k.have && (!expired || k.pending == nil) {
		return k.cur, true, nil, nil
	}
	if k.pending == nil && k.err == nil {
		return cur, false, nil, fmt.Errorf("the store is closed")
	}
	return cur, false, k.pending, k.err
}

// begin starts a renewal. It is called with the lock held.
func (k *keyring) begin() {
	done := make(chan struct{})
	if k.run(func(ctx context.Context) { k.renew(ctx, done) }) {
		k.pending = done
	}
}

func (k *keyring) renew(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	got, err := k.source.Retrieve(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(done)
	now := k.now()
	k.pending, k.err = nil, err
	k.notYet = now.Add(renewPause)
	if err != nil {
		return
	}
	k.cur, k.have, k.refused, k.renewAt = got, true, false, time.Time{}
	if got.CanExpire {
		k.renewAt = got.Expires.Add(-min(renewAhead, got.Expires.Sub(now)/3))
	}
}

// reject takes note that the server does not take these credentials any more.
func (k *keyring) reject() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refused = true
}

// trouble says why the last renewal failed, if it did.
func (k *keyring) trouble() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		return ""
	}
	return k.err.Error()
}

// scrub takes credentials out of a text.
func (k *keyring) scrub(text string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, secret := range []string{k.cur.SecretAccessKey, k.cur.SessionToken, k.cur.AccessKeyID} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "*****")
		}
	}
	return text
}
