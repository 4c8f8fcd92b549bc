package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

// LogMain is the process that writes the service's log: what comes in at
// descriptor 0, until its end, into the file args[0], which is rotated when it
// has args[1] bytes, with args[2] older ones kept. It returns the exit code.
func LogMain(args []string) int {
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(16 << 20)
	// What stops a node must not cost the last words of its service. The end of
	// the input ends this process.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	if len(args) != 3 {
		fmt.Fprintf(os.Stderr, "usage: %s FILE MAXSIZE KEEP\n", LogCommand)
		return 2
	}
	maxSize, err := strconv.ParseInt(args[1], 10, 64)
	keep, err2 := strconv.Atoi(args[2])
	if err = errors.Join(err, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	w := &rotating{path: args[0], maxSize: maxSize, keep: keep}
	defer w.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := os.Stdin.Read(buf)
		w.write(buf[:n])
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// rotating is a log file of bounded size with older ones beside it: path,
// path.1, path.2 and so on, the higher the older. Files end with whole lines,
// unless a line is longer than maxSize. What the disk does not take is dropped
// and counted, and the log says so once there is room again: the service must
// never wait for, or die of, a full disk.
type rotating struct {
	path    string
	maxSize int64 // bytes; 0: never rotated
	keep    int   // older files; 0: none

	f      *os.File
	size   int64
	looked time.Time // when path was last seen to be f
	lost   int       // lines that were dropped
	why    error
}

func (r *rotating) write(b []byte) {
	for len(b) > 0 {
		r.look()
		part := b
		if room := r.maxSize - r.size; r.maxSize > 0 && int64(len(b)) > room {
			part = b[:r.cut(b, room)]
		}
		if len(part) == 0 {
			r.rotate()
			continue
		}
		r.put(part)
		b = b[len(part):]
	}
}

// cut is how much of b still goes into the present file, which has room for so
// many bytes: whole lines; 0 asks for the next file.
func (r *rotating) cut(b []byte, room int64) int {
	if room > 0 {
		if i := bytes.LastIndexByte(b[:room], '\n'); i >= 0 {
			return i + 1
		}
	}
	if r.size > 0 && r.endsLine() {
		return 0
	}
	// Within a line: up to its end, if that comes before the file is twice as
	// large as it should be.
	limit := int(min(int64(len(b)), max(2*r.maxSize-r.size, 0)))
	if i := bytes.IndexByte(b[:limit], '\n'); i >= 0 {
		return i + 1
	}
	return limit
}

// endsLine reports whether the present file ends with a whole line.
func (r *rotating) endsLine() bool {
	if r.f == nil {
		return true
	}
	last := []byte{'\n'}
	_, err := r.f.ReadAt(last, r.size-1)
	return err != nil || last[0] == '\n'
}

// put writes whole, or drops whole and counts.
func (r *rotating) put(b []byte) {
	err := r.open()
	if err == nil && r.lost > 0 {
		note := fmt.Sprintf("understudy: %d lines of output are missing here: %v\n", r.lost, r.why)
		if _, err = r.f.WriteString(note); err == nil {
			r.lost, r.size = 0, r.size+int64(len(note))
		}
	}
	if err == nil {
		var n int
		if n, err = r.f.Write(b); err == nil {
			r.size += int64(n)
		} else if st, serr := r.f.Stat(); serr == nil && n > 0 {
			_ = r.f.Truncate(st.Size() - int64(n)) // no half lines
		}
	}
	if err != nil {
		r.lost += max(1, bytes.Count(b, []byte{'\n'}))
		r.why = err
	}
}

// open makes sure of a file to write to.
func (r *rotating) open() error {
	if r.f != nil {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the group may read the log
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.f, r.size, r.looked = f, st.Size(), time.Now()
	return nil
}

// look lets go of a file that somebody has removed, renamed or cut off.
func (r *rotating) look() {
	if err := r.open(); err != nil || time.Since(r.looked) < time.Second {
		return
	}
	r.looked = time.Now()
	at, err := os.Stat(r.path)
	own, err2 := r.f.Stat()
	switch {
	case err != nil || err2 != nil || !os.SameFile(at, own):
		r.close()
		_ = r.open() // put tries again, and tells
	default:
		r.size = own.Size()
	}
}

// rotate begins a new file. If that is not possible the present one goes on.
func (r *rotating) rotate() {
	r.close()
	if r.keep == 0 {
		_ = os.Remove(r.path)
	} else {
		for i := r.keep - 1; i > 0; i-- {
			_ = os.Rename(older(r.path, i), older(r.path, i+1)) // a gap is nothing bad
		}
		_ = os.Rename(r.path, older(r.path, 1))
	}
	if r.open() != nil || r.size >= r.maxSize {
		r.size = 0 // for another maxSize: the names can not be changed now
	}
}

func (r *rotating) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// older is the name of the n-th file before the present one.
func older(path string, n int) string { return path + "." + strconv.Itoa(n) }
