package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	recordFile = "hooks.json"
	keptRuns   = 50
	keptOutput = 512 // bytes of each
)

// Record is what a data directory keeps of the hooks: the last number drawn and
// the latest runs, oldest first.
type Record struct {
	Seq  uint64   `json:"seq"`
	Runs []Result `json:"runs"`
}

// Load reads the record of a data directory; the zero Record if there is none.
func Load(dataDir string) (Record, error) {
	var r Record
	b, err := os.ReadFile(filepath.Join(dataDir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record of hooks: %w; remove %s to begin anew with sequence number 1", err, filepath.Join(dataDir, recordFile))
	}
	return r, nil
}

// set replaces the run of that number, or adds it.
func (r *Record) set(run Result) {
	run.Output = run.Output[max(0, len(run.Output)-keptOutput):]
	if n := len(r.Runs); n > 0 && r.Runs[n-1].Seq == run.Seq {
		r.Runs[n-1] = run
		return
	}
	r.Seq = run.Seq
	r.Runs = append(r.Runs, run)
	r.Runs = r.Runs[max(0, len(r.Runs)-keptRuns):]
}

// save replaces the file as a whole: write beside it, fsync, rename, fsync of
// the directory. Otherwise a power cut could take a number back.
func (r *Record) save(dataDir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dataDir, "."+recordFile+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dataDir, recordFile))
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dataDir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(int(d.Fd())), d.Close())
}
