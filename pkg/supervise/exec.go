package supervise

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tryVariable marks what a command of ours starts, by a value that is drawn
// for each.
const tryVariable = "HA_TRY"

// tryExec runs a short command and returns nil when it exits with 0. When it
// returns nothing of the command is alive, except, in a process that is no
// subreaper, what detached itself from it.
func tryExec(ctx context.Context, argv, env []string) error {
	mark := tryVariable + "=" + rand.Text()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(slices.Clone(env), mark)
	var said lastWords
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killTakes // for those who hold its output open
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in its group; ESRCH as a rule
		killStrays(cmd.Process.Pid, mark)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it exited with 0, and what held its output is gone
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if words := said.String(); words != "" {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, words)
	}
	return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
}

// killStrays ends and reaps what a command of ours left and so fell to this
// process as its subreaper: by its process group, or by the mark in its
// environment if it left that. What has both left its group and ended stays a
// zombie, since it could be a child that somebody else here waits for.
func killStrays(group int, mark string) {
	// A stray that is killed may leave strays of its own.
	for range 10 {
		found := false
		for _, pid := range children() {
			if pgrp, err := unix.Getpgid(pid); err != nil || (pgrp != group && !marked(pid, mark)) {
				continue
			}
			found = true
			// Only ours by number: a child can not change its pid unreaped.
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, unix.WALL, nil)
		}
		if !found {
			return
		}
	}
}

func marked(pid int, mark string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(env, []byte(mark))
}

// children lists the children of this process.
func children() []int {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	me := os.Getpid()
	var pids []int
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, err := parentOf(pid); err == nil && parent == me {
			pids = append(pids, pid)
		}
	}
	return pids
}

// lastWords keeps the end of what a command says.
type lastWords struct{ b []byte }

const maxWords = 512 // bytes

func (w *lastWords) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	w.b = w.b[max(0, len(w.b)-maxWords):]
	return len(p), nil
}

func (w *lastWords) String() string {
	return strings.Join(strings.Fields(string(w.b)), " ")
}
