package faults_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
)

// putVariable makes this program put one object into the directory that it
// names, and nothing else: a process of its own, which a hang may keep.
const putVariable = "FAULTS_PUT"

// segmentKey is an object as the journal of a persisted state writes them.
const segmentKey = "state/log/000000000001-abcdefghijklmnop"

const segmentText = "one segment of a journal\n"

// outcome of a put.
type outcome struct {
	Kind string        `json:"kind"` // "stored", or the kind of error
	Text string        `json:"text"`
	Took time.Duration `json:"took"`
}

// put is the main program of the other process. Whoever reads its one line will
// miss it if something else goes wrong.
func put(dir string) {
	s, err := posix.Open(dir, posix.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), operation)
	defer cancel()
	from := time.Now()
	err = s.Put(ctx, segmentKey, strings.NewReader(segmentText), int64(len(segmentText)))
	_ = json.NewEncoder(os.Stdout).Encode(outcome{kindOf(err), fmt.Sprint(err), time.Since(from)})
}

func kindOf(err error) string {
	switch {
	case err == nil:
		return "stored"
	case errors.Is(err, persistence.Full):
		return "full"
	case errors.Is(err, persistence.ReadOnly):
		return "read-only"
	case errors.Is(err, persistence.Unknown):
		return "unknown"
	}
	return err.Error()
}

// putFrom has another process put a segment. Its end is waited for by wait,
// since a deaf hang keeps it until the fault is gone.
func putFrom(t *testing.T, dir string) (o outcome, wait func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$") //nolint:noctx // a hang may keep it; it ends by itself
	cmd.Env = append(os.Environ(), putVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		t.Errorf("the other process said %q: %v", line, err)
	}
	return o, func() {
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			t.Error("the process that put a segment does not end")
		}
	}
}
