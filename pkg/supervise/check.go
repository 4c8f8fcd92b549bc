package supervise

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// cleanUp is what a check that was given up may take to leave nothing behind.
const cleanUp = time.Second

// Check is a readiness or a liveness check. At most one of its kinds is set;
// none means, for readiness, that the service is ready once it has been alive
// for StartGrace.
type Check struct {
	Name string // of a liveness check: what status and log call it

	HTTP string   // URL that must answer below 400; redirects are not followed, certificates not verified
	TCP  string   // host:port that must accept a connection
	File string   // absolute path that must exist
	Exec []string // command that must exit with 0; run by the daemon, so keep it off shared mounts

	Interval time.Duration // between two tries; 100ms for readiness, 5s for liveness
	Timeout  time.Duration // of one try; 2s

	// Of a liveness check: after Fall failures (3) the service has failed; Rise
	// passes in a row (1) make up for fewer.
	Rise, Fall int
}

// kind is the word for what is checked.
func (c Check) kind() string {
	switch {
	case c.HTTP != "":
		return "http"
	case c.TCP != "":
		return "tcp"
	case c.File != "":
		return "file"
	}
	return "exec"
}

func (c Check) kinds() int {
	n := 0
	for _, set := range []bool{c.HTTP != "", c.TCP != "", c.File != "", len(c.Exec) > 0} {
		if set {
			n++
		}
	}
	return n
}

func (c Check) validate() error {
	if c.kinds() > 1 {
		return errors.New("http, tcp, file and exec exclude one another: set one")
	}
	switch {
	case c.HTTP != "":
		u, err := url.Parse(c.HTTP)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return fmt.Errorf("%q is not an http or https URL", c.HTTP)
		}
	case c.TCP != "":
		if _, _, err := net.SplitHostPort(c.TCP); err != nil {
			return fmt.Errorf("%q is not host:port", c.TCP)
		}
	case c.File != "" && !filepath.IsAbs(c.File):
		return fmt.Errorf("%q is not an absolute path", c.File)
	}
	return nil
}

// wait tries until the check passes (nil) or ctx ends; the error is then the
// last try's.
func (c Check) wait(ctx context.Context, grace time.Duration, env []string) error {
	if c.kinds() == 0 {
		return pause(ctx, grace)
	}
	orDefault(&c.Interval, 100*time.Millisecond)
	orDefault(&c.Timeout, 2*time.Second)
	var last error
	try := c.trier()
	for {
		err := try(ctx, env)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		if err := pause(ctx, c.Interval); err != nil {
			return errors.Join(last, err)
		}
	}
}

// trier returns what tries once, for Timeout and the moment it takes to clean
// up after it at most. A try that can be ended by nothing, as of a file in a
// directory that hangs, goes on alone; until it ends there is no other.
func (c Check) trier() func(ctx context.Context, env []string) error {
	var pending chan error
	return func(ctx context.Context, env []string) error {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		if pending == nil {
			pending = make(chan error, 1)
			go func(done chan<- error) { done <- c.try(ctx, env) }(pending)
		}
		limit := time.NewTimer(c.Timeout + cleanUp)
		defer limit.Stop()
		select {
		case err := <-pending:
			pending = nil
			return err
		case <-limit.C:
			return fmt.Errorf("%s check: it hangs: %w", c.kind(), context.DeadlineExceeded)
		}
	}
}

func (c Check) try(ctx context.Context, env []string) error {
	switch {
	case c.HTTP != "":
		return tryHTTP(ctx, c.HTTP)
	case c.TCP != "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.TCP)
		if err != nil {
			return err
		}
		return conn.Close()
	case c.File != "":
		_, err := os.Stat(c.File)
		return err
	}
	return tryExec(ctx, c.Exec, env)
}

func tryHTTP(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	tr := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // asks whether our own child answers, not who it is
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answered %s", target, resp.Status)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
