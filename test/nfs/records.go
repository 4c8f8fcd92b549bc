package nfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// recordsDir is where services of a guest write about themselves.
const recordsDir = wire.Data + "/records"

// collectEvery is how often what they wrote is fetched.
const collectEvery = 20 * time.Millisecond

// collect fetches one boot's records until the machine is gone, and keeps them
// in dir, in our time.
func collect(client *rpc.Client, shift intervals.Instant, dir string) error {
	have := map[string]int64{}
	for {
		var res wire.TailResult
		err := client.Call("Guest.Tail", wire.TailArgs{Dir: recordsDir, Have: have}, &res)
		if err != nil {
			var answer rpc.ServerError
			if errors.As(err, &answer) {
				return err
			}
			return nil // the connection has gone with the machine
		}
		for name, news := range res.News {
			whole := news[:bytes.LastIndexByte(news, '\n')+1] // the rest is being written
			if filepath.Ext(name) != intervals.Ext || len(whole) == 0 {
				continue
			}
			have[name] += int64(len(whole))
			if err := keep(filepath.Join(dir, name), string(whole), shift); err != nil {
				return err
			}
		}
		time.Sleep(collectEvery)
	}
}

// keep appends lines of a recorder, with their instants shifted.
func keep(path, lines string, shift intervals.Instant) error {
	var out strings.Builder
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) < 2 {
			return fmt.Errorf("%s: %q is not a line of a recorder", path, line)
		}
		at, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		f[1] = strconv.FormatInt(at+int64(shift), 10)
		fmt.Fprintln(&out, strings.Join(f, " "))
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(out.String())
	return errors.Join(err, file.Close())
}

// Record is what all services of the lab's latest plane have written so far.
func (l *Lab) Record(tb testing.TB) *intervals.Record {
	tb.Helper()
	rec, err := intervals.Read(l.records())
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// WaitRecord waits until the services' records show what cond looks for.
func (l *Lab) WaitRecord(tb testing.TB, what string, within time.Duration, cond func(*intervals.Record) bool) *intervals.Record {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	rec, err := intervals.Wait(ctx, l.records(), cond)
	if err != nil {
		l.tell(tb)
		tb.Fatalf("%s, within %v: %v", what, within, err)
	}
	return rec
}

// WaitStart waits for the first service that started after at.
func (l *Lab) WaitStart(tb testing.TB, at intervals.Instant, within time.Duration) intervals.Tree {
	tb.Helper()
	rec := l.WaitRecord(tb, "the start of a service", within, func(r *intervals.Record) bool { return r.StartsAfter(at) > 0 })
	tree, _ := rec.NextStartAfter(at)
	return tree
}

// WaitEnd waits until the records of the service tree have not grown for so
// long that it is not alive, and returns when it last was. A machine that is
// cut off from the server still delivers records.
func (l *Lab) WaitEnd(tb testing.TB, id string, within time.Duration) intervals.Tree {
	tb.Helper()
	const silence = 2 * time.Second // a recorder writes every 5 ms
	find := func(r *intervals.Record) intervals.Tree {
		return r.Trees[slices.IndexFunc(r.Trees, func(t intervals.Tree) bool { return t.ID == id })]
	}
	return find(l.WaitRecord(tb, "the end of "+id, within, func(r *intervals.Record) bool {
		t := find(r)
		return t.Stopped() || intervals.Now().Sub(t.Last) > silence
	}))
}

// Judge fails the test if two services were alive at once by their records, or
// terms fell.
func (l *Lab) Judge(tb testing.TB) {
	tb.Helper()
	rec := l.Record(tb)
	if len(rec.Trees) == 0 {
		tb.Error("no service has started")
	}
	for _, o := range rec.Overlaps() {
		tb.Error(o)
	}
	for _, r := range rec.Regressions() {
		tb.Error(r)
	}
}

// forget removes the records of a plane that has ended.
func (l *Lab) forget(tb testing.TB) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(l.records(), "*"+intervals.Ext))
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			tb.Error(err)
		}
	}
}

func (l *Lab) records() string { return filepath.Join(l.dir, "records") }
