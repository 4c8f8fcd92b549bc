package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// source is where a cache fetches from; it counts.
type source struct {
	content string
	err     error // at the end of what it gives
	asked   atomic.Int32
	given   atomic.Int64
}

func (s *source) fetch(_ context.Context, offset int64) (io.ReadCloser, error) {
	s.asked.Add(1)
	var r io.Reader = strings.NewReader(s.content[min(offset, int64(len(s.content))):])
	if s.err != nil {
		r = io.MultiReader(r, failing{s.err})
	}
	return io.NopCloser(counting{r, &s.given}), nil
}

type counting struct {
	r io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func openCache(t *testing.T, dir string, size int64) *Cache {
	t.Helper()
	c, err := OpenCache(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cached gets content through a cache and makes sure of it.
func cached(t *testing.T, c *Cache, src *source) *Local {
	t.Helper()
	want := contentOf(src.content)
	l, err := c.Get(t.Context(), want.Digest, want.Size, src.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(l.Path); err != nil || string(b) != src.content {
		t.Fatalf("%s holds %d bytes, %v", l.Path, len(b), err)
	}
	return l
}

func letGo(t *testing.T, l *Local) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c, src := openCache(t, dir, 0), &source{content: "#!/bin/sh\necho hello\n"}
	for range 3 {
		l := cached(t, c, src)
		if fi, err := os.Stat(l.Path); err != nil || fi.Mode().Perm() != 0o555 {
			t.Errorf("mode %v, %v: it must be executable and not writable", fi.Mode(), err)
		}
		letGo(t, l)
	}
	if n := src.asked.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("the directory holds %q", got)
	}
}

// TestCacheDamage: a copy that has changed on the disk is never handed out.
func TestCacheDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"a byte":     func(p string) error { return os.WriteFile(p, []byte("c0ntent"), 0o600) },
		"cut off":    func(p string) error { return os.WriteFile(p, []byte("conten"), 0o600) },
		"longer":     func(p string) error { return os.WriteFile(p, []byte("contents"), 0o600) },
		"emptied":    func(p string) error { return os.Truncate(p, 0) },
		"removed":    os.Remove,
		"not by us":  func(p string) error { return errors.Join(os.Remove(p), os.WriteFile(p, []byte("x"), 0o755)) },
		"to nowhere": func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/nowhere", p)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, src := openCache(t, t.TempDir(), 0), &source{content: "content"}
			l := cached(t, c, src)
			letGo(t, l)
			if err := os.Chmod(l.Path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := damage(l.Path); err != nil {
				t.Fatal(err)
			}
			letGo(t, cached(t, c, src))
			if n := src.asked.Load(); n != 2 {
				t.Errorf("fetched %d times, want once more", n)
			}
		})
	}
}

// TestCacheWrongSource: what comes is not what was asked for. Nothing is kept,
// and it is not asked for ever.
func TestCacheWrongSource(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 0)
	want := contentOf("right")
	for _, wrong := range []string{"wrong", "righ", "rights", ""} {
		src := &source{content: wrong}
		if _, err := c.Get(t.Context(), want.Digest, want.Size, src.fetch); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", wrong, err)
		}
		if n := src.asked.Load(); n > 2 {
			t.Errorf("%q: fetched %d times", wrong, n)
		}
	}
	letGo(t, cached(t, c, &source{content: "right"}))
}

// TestCacheGoesOn: what was fetched before a failure, or before this process
// was killed, is not fetched again; unless it was wrong.
func TestCacheGoesOn(t *testing.T) {
	content := strings.Repeat("0123456789", 100_000)
	t.Run("after a failure", func(t *testing.T) {
		c, want := openCache(t, t.TempDir(), 0), contentOf(content)
		src := &source{content: content[:600_000], err: errLost}
		if _, err := c.Get(t.Context(), want.Digest, want.Size, src.fetch); !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		src = &source{content: content}
		letGo(t, cached(t, c, src))
		if n := src.given.Load(); n != 400_000 {
			t.Errorf("%d bytes were fetched, want the 400000 that were missing", n)
		}
	})
	for name, part := range map[string]string{
		"after wrong bytes": strings.Repeat("x", 600_000),
		"after too many":    content + "more",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := openCache(t, dir, 0)
			if err := os.WriteFile(filepath.Join(dir, partPrefix+string(contentOf(content).Digest)), []byte(part), 0o600); err != nil {
				t.Fatal(err)
			}
			letGo(t, cached(t, c, &source{content: content}))
			if got := names(t, dir); len(got) != 1 {
				t.Errorf("the directory holds %q", got)
			}
		})
	}
}

// TestCacheShared: several processes, here handles, want several artifacts at
// once out of one directory that holds few of them.
func TestCacheShared(t *testing.T) {
	dir := t.TempDir()
	var srcs []*source
	for i := range 4 {
		srcs = append(srcs, &source{content: strings.Repeat(fmt.Sprint(i), 100_000)})
	}
	var wg sync.WaitGroup
	for i := range 8 {
		c := openCache(t, dir, 250_000) // two of them
		wg.Go(func() {
			for n := range 25 {
				src := srcs[(i+n*(i+1))%len(srcs)]
				want := contentOf(src.content)
				l, err := c.Get(t.Context(), want.Digest, want.Size, src.fetch)
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := os.ReadFile(l.Path); err != nil || string(b) != src.content {
					t.Errorf("in use, and %s holds %d bytes, %v", l.Path, len(b), err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, name := range names(t, dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("left behind: %s", name)
		}
	}
}

// TestCacheOneFetches: of several that want the same artifact one fetches it,
// and each has it although the others do not let go of it.
func TestCacheOneFetches(t *testing.T) {
	dir, src := t.TempDir(), &source{content: strings.Repeat("x", 8<<20)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg, have sync.WaitGroup
	have.Add(8)
	for range 8 {
		c := openCache(t, dir, 0)
		wg.Go(func() {
			want := contentOf(src.content)
			l, err := c.Get(ctx, want.Digest, want.Size, src.fetch)
			have.Done()
			have.Wait()
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := src.asked.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// TestCacheBound: what was not used for the longest time goes first, what is in
// use never.
func TestCacheBound(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 3000)
	var srcs []*source
	for i := range 5 {
		srcs = append(srcs, &source{content: strings.Repeat(fmt.Sprint(i), 1000)})
	}
	inUse := cached(t, c, srcs[0])
	for _, i := range []int{1, 2, 1, 3} { // 2 was used before 1
		letGo(t, cached(t, c, srcs[i]))
		time.Sleep(10 * time.Millisecond) // modification times have a grain
	}
	for i, want := range []int32{1, 1, 1, 1} {
		if n := srcs[i].asked.Load(); n != want {
			t.Errorf("%d was fetched %d times", i, n)
		}
	}
	letGo(t, cached(t, c, srcs[1]))
	letGo(t, cached(t, c, srcs[0]))
	if srcs[1].asked.Load() != 1 || srcs[0].asked.Load() != 1 {
		t.Error("what was used lately, or is in use, was removed")
	}
	letGo(t, cached(t, c, srcs[2]))
	if srcs[2].asked.Load() != 2 {
		t.Error("what was not used for the longest time was kept")
	}
	letGo(t, inUse)
	want := contentOf(strings.Repeat("x", 3001))
	_, err := c.Get(t.Context(), want.Digest, want.Size, srcs[0].fetch)
	if err == nil || !strings.Contains(err.Error(), "3001") || !strings.Contains(err.Error(), "artifacts.cacheSize") {
		t.Errorf("larger than the cache: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte(strings.Repeat("x", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	letGo(t, cached(t, c, srcs[4]))
	if _, err := os.Stat(filepath.Join(dir, "notes.txt")); err != nil {
		t.Errorf("somebody else's file: %v", err)
	}
}

func TestCacheErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCache(filepath.Join(file, "x"), 0); err == nil || !strings.Contains(err.Error(), "artifacts.cacheDir") {
		t.Errorf("beneath a file: %v", err)
	}
	c := openCache(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	src := &source{content: "content"}
	letGo(t, cached(t, c, src))
	cancel()
	want := contentOf("content")
	if _, err := c.Get(ctx, want.Digest, want.Size, src.fetch); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
