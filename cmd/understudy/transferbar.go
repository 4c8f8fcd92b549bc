package main

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// transferBar is a bar that counts bytes, on a terminal; nothing elsewhere.
type transferBar struct{ bar *progressbar.ProgressBar }

// newTransfer draws on w, which is stderr.
func newTransfer(w io.Writer, what string, total int64) *transferBar {
	if !isTerminal(w) {
		return &transferBar{}
	}
	return &transferBar{progressbar.NewOptions64(max(total, 1),
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

// reader counts what is read of r.
func (t *transferBar) reader(r io.Reader) io.Reader {
	if t.bar == nil {
		return r
	}
	return io.TeeReader(r, t)
}

// Write implements io.Writer, for reader.
func (t *transferBar) Write(p []byte) (int, error) {
	_ = t.bar.Add(len(p)) // drawing is all it does
	return len(p), nil
}

// set says how much is done.
func (t *transferBar) set(done int64) {
	if t.bar != nil {
		_ = t.bar.Set64(done) // drawing is all it does
	}
}

// at shows what is being done, with done of total bytes complete.
func (t *transferBar) at(step string, done, total int64) {
	if t.bar != nil {
		t.bar.ChangeMax64(max(total, 1))
		t.bar.Describe(step)
		_ = t.bar.Set64(min(done, total)) // drawing is all it does
	}
}

func (t *transferBar) reset() { t.set(0) }

// end takes the bar away.
func (t *transferBar) end() {
	if t.bar != nil {
		_ = t.bar.Clear()
	}
}
