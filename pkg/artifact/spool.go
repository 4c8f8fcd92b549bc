package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Push is Library.Push, also for content whose digest is not known beforehand:
// that is put by on this machine first, in the cache's directory, where nothing
// is left of it, whatever happens.
func (d Depot) Push(ctx context.Context, name string, in Reign, c Content) (Entry, error) {
	if c.Digest != "" {
		return d.Library.Push(ctx, name, in, c)
	}
	if err := CheckName(name); err != nil {
		return Entry{}, err
	}
	f, err := d.Cache.scratch()
	if err != nil {
		return Entry{}, err
	}
	defer f.Close() // it has no name any more
	digest, size, err := Sum(io.TeeReader(contextReader{ctx, c.R}, f))
	switch {
	case err != nil:
		return Entry{}, fmt.Errorf("push %s: %w", name, d.Cache.explain(err))
	case c.Size >= 0 && size != c.Size:
		return Entry{}, fmt.Errorf("push %s: %w: %d bytes came, %d were announced", name, ErrCorrupt, size, c.Size)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Entry{}, d.Cache.explain(err)
	}
	return d.Library.Push(ctx, name, in, Content{R: f, Digest: digest, Size: size})
}

// PutBy reads r to its end into a file of the cache's directory that has no name:
// nothing is left of it once it is closed, whatever happens.
func (c *Cache) PutBy(ctx context.Context, r io.Reader) (*os.File, int64, error) {
	f, err := c.scratch()
	if err != nil {
		return nil, 0, err
	}
	n, err := io.Copy(f, contextReader{ctx, r})
	if err != nil {
		return nil, 0, c.explain(errors.Join(err, f.Close()))
	}
	return f, n, nil
}

// scratch opens a file without a name.
func (c *Cache) scratch() (*os.File, error) {
	f, err := os.CreateTemp(c.dir, ".spool-*")
	if err != nil {
		return nil, c.explain(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, c.explain(errors.Join(err, f.Close()))
	}
	return f, nil
}
