package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
)

// job is what the state says under jobs/<id>, and who asks for it is told.
type job struct {
	ID       uint64 `json:"id"`
	Artifact string `json:"artifact"` // the script that it runs
	Argument string `json:"argument"`
	Done     bool   `json:"done"`
	Term     uint64 `json:"term,omitempty"` // in which it ended
	Output   string `json:"output,omitempty"`
}

const (
	nextKey   = "next" // the id that the next job gets
	jobPrefix = "jobs/"
)

func jobKey(id uint64) string { return fmt.Sprintf("%s%012d", jobPrefix, id) }

type scheduler struct {
	node      *ha.Node
	depot     artifact.Depot
	submitted chan struct{} // there may be something to do
}

// submit makes a job. The job and the number of the next one are one
// transaction, on condition that the number is still the one that was read: an
// id is given to one job, and never again, whoever is killed whenever.
func (s *scheduler) submit(ctx context.Context, j job) (job, error) {
	state := s.node.Persisted()
	for {
		next, _, err := state.Get(nextKey) // the zero entry if there is none
		if err != nil {
			return job{}, err
		}
		j.ID = 1
		if len(next.Value) > 0 {
			if j.ID, err = strconv.ParseUint(string(next.Value), 10, 64); err != nil {
				return job{}, err
			}
		}
		change, err := j.change()
		if err != nil {
			return job{}, err
		}
		_, err = state.Txn(ctx, journal.Txn{
			If:      []journal.Condition{{Key: nextKey, Version: next.Version}},
			Changes: []journal.Change{change, {Key: nextKey, Value: strconv.AppendUint(nil, j.ID+1, 10)}},
		})
		var conflict *journal.ConflictError
		if errors.As(err, &conflict) {
			continue // somebody else took that id
		}
		if err != nil {
			return job{}, err
		}
		select {
		case s.submitted <- struct{}{}:
		default:
		}
		return j, nil
	}
}

func (j job) change() (journal.Change, error) {
	b, err := json.Marshal(j)
	return journal.Change{Key: jobKey(j.ID), Value: b}, err
}

// work runs the jobs, one after the other, as long as this node is master.
func (s *scheduler) work(ctx context.Context, r ha.Reign) error {
	for ctx.Err() == nil {
		j, found, err := s.waiting()
		switch {
		case err == nil && found:
			err = s.do(ctx, r, j)
		case err == nil:
			select {
			case <-s.submitted:
			case <-ctx.Done():
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		// Of the store, or of the artifact: it may be there later.
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

// waiting returns the first job that is not done.
func (s *scheduler) waiting() (job, bool, error) {
	p, err := s.node.Persisted().Picture()
	if err != nil {
		return job{}, false, err
	}
	for e := range p.List(jobPrefix, "") {
		var j job
		if err := json.Unmarshal(e.Value, &j); err != nil {
			return job{}, false, err
		}
		if !j.Done {
			return j, true, nil
		}
	}
	return job{}, false, nil
}

// do runs a job and commits its end. A job whose end was not committed is run
// again by the next master: its script must bear that, or ask the storage that
// it writes to about the term, which grows with each master and is handed to it.
func (s *scheduler) do(ctx context.Context, r ha.Reign, j job) error {
	script, err := s.depot.Local(ctx, j.Artifact)
	if err != nil {
		return err
	}
	defer script.Close() // it was only read
	cmd := exec.CommandContext(ctx, "/bin/sh", script.Path, strconv.FormatUint(j.ID, 10), j.Argument)
	cmd.Env = append(cmd.Environ(), fmt.Sprint("TERM_NUMBER=", r.Term()))
	// It must not outlive this process, which may be killed (that signal is
	// bound to the thread that started it), nor the reign.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what holds its output open
	if !r.Valid() {
		return nil // the reign has ended: the next master does it
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err() // it was stopped, and so did not end
	}
	j.Done, j.Term, j.Output = true, uint64(r.Term()), string(out)
	if err != nil {
		j.Output += err.Error()
	}
	change, err := j.change()
	if err != nil {
		return err
	}
	_, err = s.node.Persisted().Txn(ctx, journal.Txn{Changes: []journal.Change{change}})
	return err
}

// readIndex and writeIndex keep the names of artifacts in the state.
func (s *scheduler) readIndex() (artifact.View, error) { return s.node.Persisted().Picture() }

func (s *scheduler) writeIndex(ctx context.Context, t journal.Txn) error {
	_, err := s.node.Persisted().OwnTxn(ctx, t)
	if errors.Is(err, ha.ErrUnknown) {
		return fmt.Errorf("%w: %w", artifact.ErrUndecided, err)
	}
	return err
}

// push stores a script under a name.
func (s *scheduler) push(ctx context.Context, name string, c artifact.Content) (artifact.Entry, error) {
	st := s.node.Status()
	if st.Reign == nil {
		return artifact.Entry{}, ha.ErrNotMaster
	}
	return s.depot.Push(ctx, name, artifact.Reign{Plane: st.Plane, Term: st.Reign.Term}, c)
}
