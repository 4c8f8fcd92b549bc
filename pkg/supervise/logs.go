package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	// MaxTail is how many lines Logs shows at most before it follows.
	MaxTail = 10_000

	tailBytes  = 8 << 20 // read back at most
	followTick = 200 * time.Millisecond
)

// Logs writes the last lines of a log that LogMain keeps, its older files
// included, and with follow whatever comes after them until ctx ends, which is
// not an error. At most MaxTail lines and 8 MiB are read back.
func Logs(ctx context.Context, path string, w io.Writer, lines int, follow bool) error {
	f, err := os.Open(path)
	if err != nil && (!follow || !errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("the service's log: %w", err)
	}
	r := &reader{path: path, f: f}
	defer r.close()
	if f != nil {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("the service's log: %w", err)
		}
		text, err := tail(path, f, end, min(lines, MaxTail))
		if err != nil {
			return fmt.Errorf("the service's log: %w", err)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	return r.follow(ctx, w)
}

// tail returns the last lines before the offset end of f, which is the log at
// path, and of the files before it.
func tail(path string, f *os.File, end int64, lines int) ([]byte, error) {
	text, err := lastBytes(f, end, tailBytes)
	if err != nil {
		return nil, err
	}
	for i := 1; bytes.Count(text, []byte{'\n'}) < lines && len(text) < tailBytes; i++ {
		old, err := os.Open(older(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		st, err := old.Stat()
		var more []byte
		if err == nil {
			more, err = lastBytes(old, st.Size(), tailBytes-int64(len(text)))
		}
		old.Close()
		if err != nil {
			return nil, err
		}
		text = append(more, text...)
	}
	return lastLines(text, lines), nil
}

func lastBytes(f *os.File, end, limit int64) ([]byte, error) {
	from := max(end-limit, 0)
	text := make([]byte, end-from)
	n, err := f.ReadAt(text, from)
	if errors.Is(err, io.EOF) {
		err = nil // cut off meanwhile
	}
	return text[:n], err
}

// lastLines is the end of text that holds so many lines; one that is not
// complete yet counts.
func lastLines(text []byte, lines int) []byte {
	if lines <= 0 {
		return nil
	}
	at := len(text)
	if at > 0 && text[at-1] == '\n' {
		at--
	}
	for range lines {
		i := bytes.LastIndexByte(text[:at], '\n')
		if i < 0 {
			return text
		}
		at = i
	}
	return text[at+1:]
}

// reader follows a log over its rotations.
type reader struct {
	path string
	f    *os.File
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

func (r *reader) follow(ctx context.Context, w io.Writer) error {
	for ctx.Err() == nil {
		if r.f != nil {
			if _, err := io.Copy(w, r.f); err != nil {
				return err
			}
		}
		if next, err := r.next(); err != nil || next != nil {
			if err != nil {
				return err
			}
			if r.f != nil { // its last lines came before the rename
				if _, err := io.Copy(w, r.f); err != nil {
					return err
				}
				r.f.Close()
			}
			r.f = next
			continue
		}
		_ = pause(ctx, followTick)
	}
	return nil
}

// next opens the file that follows the one that is read, nil if that is the
// latest. A reader who was slow may be several files behind.
func (r *reader) next() (*os.File, error) {
	var own os.FileInfo
	if r.f != nil {
		var err error
		if own, err = r.f.Stat(); err != nil {
			return nil, err
		}
	}
	name := r.path
	for i := 0; ; i++ {
		at := r.path
		if i > 0 {
			at = older(r.path, i)
		}
		st, err := os.Stat(at)
		switch {
		case i == 0 && errors.Is(err, fs.ErrNotExist):
			return nil, nil // between a rename and the new file
		case err != nil:
			return os.Open(r.path) // ours is gone: what it held is lost to us
		case own == nil:
			return os.Open(at)
		case os.SameFile(st, own) && i == 0:
			return nil, r.rewind(st)
		case os.SameFile(st, own):
			return os.Open(name)
		}
		name = at
	}
}

// rewind starts over in a file that was cut off.
func (r *reader) rewind(st os.FileInfo) error {
	at, err := r.f.Seek(0, io.SeekCurrent)
	if err == nil && at > st.Size() {
		_, err = r.f.Seek(0, io.SeekStart)
	}
	return err
}
