package guard

import (
	"os"
	"testing"
	"time"
)

// What a command has written is kept however late its reader comes, as on a busy
// machine: also when there is no more time, and others hold the pipe open.
func TestOutputThatIsReadTooLate(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	out := &tail{r: r, done: make(chan struct{})}
	if err := r.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	out.read()
	if got := out.last(); got != "last words" {
		t.Errorf("%q is kept", got)
	}
}
