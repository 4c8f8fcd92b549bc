package master

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// connections are kept alive for as long as a round lasts.
const connections = 16

// result is what a round measured.
type result struct {
	requests int
	took     time.Duration
	p50, p99 time.Duration
	codes    map[int]int
}

func (r result) perSecond() float64 { return float64(r.requests) / r.took.Seconds() }

func (r result) String() string {
	return fmt.Sprintf("%.0f/s, p50 %s, p99 %s, %v", r.perSecond(), r.p50.Round(time.Microsecond), r.p99.Round(time.Microsecond), r.codes)
}

// load asks for a path over all connections, each its next request as soon as
// it has the answer, for as long as given. The client does no more than it must:
// on the same processors, its own cost would make any two servers look alike.
func load(ctx context.Context, addr, path string, length time.Duration) (result, error) {
	var (
		mu   sync.Mutex
		all  []time.Duration
		errs error
		wg   sync.WaitGroup
	)
	codes := map[int]int{}
	conns := make([]*tls.Conn, connections)
	for i := range conns {
		c, err := dial(ctx, addr)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	began := time.Now()
	for _, c := range conns {
		wg.Go(func() {
			took, seen, err := ask(c, addr, path, began.Add(length))
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			errs = errors.Join(errs, err)
			for code, n := range seen {
				codes[code] += n
			}
		})
	}
	wg.Wait()
	r := result{requests: len(all), took: time.Since(began), codes: codes}
	if errs != nil || len(all) == 0 {
		return r, fmt.Errorf("%d answers: %w", len(all), errors.Join(errs))
	}
	slices.Sort(all)
	r.p50, r.p99 = all[len(all)/2], all[len(all)*99/100]
	return r, nil
}

func dial(ctx context.Context, addr string) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}} //nolint:gosec // self-signed, on loopback
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// ask sends one request after the other over a connection.
func ask(c *tls.Conn, addr, path string, end time.Time) (took []time.Duration, codes map[int]int, err error) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
	in := textproto.NewReader(bufio.NewReader(c))
	codes = map[int]int{}
	for {
		began := time.Now()
		if began.After(end) {
			return took, codes, nil
		}
		if _, err := c.Write(request); err != nil {
			return took, codes, err
		}
		code, err := answer(in)
		if err != nil {
			return took, codes, err
		}
		codes[code]++
		took = append(took, time.Since(began))
	}
}

// answer reads one answer and returns its status.
func answer(in *textproto.Reader) (int, error) {
	line, err := in.ReadLine()
	if err != nil {
		return 0, err
	}
	code, err := strconv.Atoi(strings.Fields(line + " 0 0")[1])
	if err != nil {
		return 0, fmt.Errorf("status line %q: %w", line, err)
	}
	length := -1
	for {
		line, err := in.ReadLineBytes()
		if err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		if n, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(n); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("no Content-Length")
	}
	_, err = in.R.Discard(length)
	return code, errors.Join(err, noMore(in))
}

// noMore fails if the server sent more than it announced.
func noMore(in *textproto.Reader) error {
	if in.R.Buffered() != 0 {
		return io.ErrShortBuffer
	}
	return nil
}
