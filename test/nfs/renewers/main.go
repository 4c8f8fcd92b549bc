// Command renewers has writers that all want the same register of a posix
// store, with a handle each, and says which renewals each of them believes to
// have won:
//
//	renewers -dir /mnt/nfs -name client1 -writers 4 -until 20000
//
// prints, for a renewal that was answered by success, and one that turned out
// to be successful when the writer read back after an error,
//
//	won  SEQ VALUE OLD
//	read SEQ VALUE OLD
//
// and ends when the register has come to the number -until. Writers of any
// number of machines may take part. Package nfs judges what they printed.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/test/nfs/claims"
)

func main() {
	dir := flag.String("dir", "", "the location")
	name := flag.String("name", "", "of this machine, out of [0-9a-z]")
	writers := flag.Int("writers", 4, "how many, each with a handle of its own")
	until := flag.Uint64("until", 0, "the number to end at")
	limit := flag.Duration("limit", 10*time.Minute, "how long this may take")
	flag.Parse()
	if err := race(*dir, *name, *writers, *until, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "renewers:", err)
		os.Exit(1)
	}
}

func race(dir, name string, writers int, until uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out := &log{w: bufio.NewWriter(os.Stdout)}
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = write(ctx, dir, fmt.Sprintf("%s%d", name, i), until, out) })
	}
	wg.Wait()
	return errors.Join(append(errs, out.w.Flush())...)
}

// log is shared by the writers.
type log struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func (l *log) add(c claims.Claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.w, c)
}

// write renews until the register has come to the number until.
func write(ctx context.Context, dir, who string, until uint64, out *log) error {
	s, err := posix.Open(dir, posix.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		old, err := s.Read(ctx)
		if err != nil {
			return err
		}
		seq, err := claims.Seq(string(old.Value))
		if err != nil || seq >= until {
			return err
		}
		val := claims.Value(seq+1, who)
		c := claims.Claim{How: claims.Won, Seq: seq + 1, Value: val, Old: string(old.Value)}
		if _, err := s.CAS(ctx, old.Version, []byte(val)); err == nil {
			out.add(c)
			continue
		}
		// Undecided, like every error.
		now, err := s.Read(ctx)
		if err != nil {
			return err
		}
		if bytes.Equal(now.Value, []byte(val)) {
			c.How = claims.ReadBack
			out.add(c)
		}
	}
}
