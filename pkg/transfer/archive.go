package transfer

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// What an archive holds, and nothing else: no name in it is ever used as a path.
const (
	manifestName = "data/manifest.json"
	keysName     = "data/keys.jsonl"
	filesPrefix  = "data/artifacts/" // and the SHA-256
	archiveForm  = "understudy archive 1"
)

// Limits of an archive, whatever it says of itself.
const (
	maxManifest = 64 << 20
	maxFiles    = 100_000
	maxLine     = 2 * (journal.MaxValue + journal.MaxKey) // base64 and quotes
)

// ErrArchive says that a file is no archive, or a damaged or a hostile one.
var ErrArchive = errors.New("not an archive of understudy that can be trusted")

// manifest says what is in an archive.
type manifest struct {
	Format    string           `json:"format"`
	Plane     lease.PlaneID    `json:"planeId"`
	Term      lease.Term       `json:"term"`
	Seq       uint64           `json:"seq"`
	Created   time.Time        `json:"created"`
	Keys      int              `json:"keys"`
	Digest    string           `json:"digest"` // see Content.Digest
	Artifacts []artifact.Entry `json:"artifacts"`
}

// keyLine is one line of the keys.
type keyLine struct {
	Key     string `json:"key"`
	Version uint64 `json:"version"`
	Value   []byte `json:"value"` // base64
}

// WriteArchive writes the content as a zip file.
func (c *Content) WriteArchive(ctx context.Context, w io.Writer, now time.Time) error {
	z := zip.NewWriter(w)
	m := manifest{
		Format: archiveForm, Plane: c.Plane, Term: c.Term, Seq: c.State.Seq(), Created: now.UTC(),
		Keys: c.Keys(), Digest: c.Digest(), Artifacts: c.Artifacts,
	}
	f, err := z.Create(manifestName)
	if err == nil {
		err = json.NewEncoder(f).Encode(m)
	}
	if err != nil {
		return err
	}
	if f, err = z.Create(keysName); err != nil {
		return err
	}
	lines := json.NewEncoder(f)
	for e := range c.State.List("", "") {
		if strings.HasPrefix(e.Key, artifact.KeyPrefix) {
			continue
		}
		if err := lines.Encode(keyLine{e.Key, e.Version, e.Value}); err != nil {
			return err
		}
	}
	written := map[artifact.Digest]bool{}
	for _, e := range c.Artifacts {
		if written[e.Digest] {
			continue
		}
		written[e.Digest] = true
		// Stored as it is: what is large is compressed already, as a rule.
		f, err := z.CreateHeader(&zip.FileHeader{Name: filesPrefix + string(e.Digest), Method: zip.Store})
		if err != nil {
			return err
		}
		rc, err := c.Open(ctx, e, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, artifact.Verify(rc, e.Digest, e.Size))
		if err = errors.Join(err, rc.Close()); err != nil {
			return fmt.Errorf("artifact %s: %w", e.Name, err)
		}
	}
	return z.Close()
}

func hostile(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrArchive, fmt.Sprintf(format, args...))
}

// ReadArchive reads an archive of size bytes. Its keys are read and compared
// with its digest; its artifacts are verified as they are read, by Open. r must
// stay open as long as the content is used. ErrArchive: it is damaged, holds
// anything that WriteArchive does not write, or more than it says.
func ReadArchive(r io.ReaderAt, size int64) (*Content, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, hostile("%v", err)
	}
	files, err := listed(z)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(files)
	if err != nil {
		return nil, err
	}
	state, err := readKeys(files[keysName], m)
	if err != nil {
		return nil, err
	}
	c := &Content{Plane: m.Plane, Term: m.Term, State: state, Artifacts: m.Artifacts}
	c.Open = func(_ context.Context, e artifact.Entry, offset int64) (io.ReadCloser, error) {
		f := files[filesPrefix+string(e.Digest)]
		if f == nil {
			return nil, hostile("it lacks the content of artifact %s", e.Name)
		}
		rc, err := f.Open()
		if err != nil {
			return nil, hostile("artifact %s: %v", e.Name, err)
		}
		_, err = io.CopyN(io.Discard, rc, offset)
		return rc, err
	}
	if d := c.Digest(); d != m.Digest {
		return nil, hostile("its content has the digest %s, it says %s", d, m.Digest)
	}
	return c, nil
}

// listed accepts the names that an archive may hold, each once.
func listed(z *zip.Reader) (map[string]*zip.File, error) {
	if len(z.File) > maxFiles {
		return nil, hostile("%d entries, at most %d are possible", len(z.File), maxFiles)
	}
	files := map[string]*zip.File{}
	for _, f := range z.File {
		digest, isFile := strings.CutPrefix(f.Name, filesPrefix)
		if isFile {
			d, err := artifact.ParseDigest(digest)
			isFile = err == nil && string(d) == digest
		}
		switch {
		case f.Name != manifestName && f.Name != keysName && !isFile:
			return nil, hostile("unknown entry %.200q", f.Name)
		case !f.Mode().IsRegular():
			return nil, hostile("%.200q is no file", f.Name)
		case files[f.Name] != nil:
			return nil, hostile("two entries are named %.200q", f.Name)
		}
		files[f.Name] = f
	}
	return files, nil
}

func readManifest(files map[string]*zip.File) (manifest, error) {
	var m manifest
	f := files[manifestName]
	if f == nil || files[keysName] == nil {
		return m, hostile("it lacks %s or %s", manifestName, keysName)
	}
	rc, err := f.Open()
	if err != nil {
		return m, hostile("%v", err)
	}
	defer rc.Close() // it was only read
	b, err := io.ReadAll(io.LimitReader(rc, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("more than %d bytes", maxManifest)
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, hostile("%s: %v", manifestName, err)
	}
	if m.Format != archiveForm {
		return m, hostile("its format is %.100q, not %q", m.Format, archiveForm)
	}
	if m.Term > lease.MaxTerm/2 || m.Seq >= 1<<47 {
		return m, hostile("term %d or sequence %d leave no room to go on", m.Term, m.Seq)
	}
	named := map[string]bool{}
	for _, e := range m.Artifacts {
		if err := e.Check(); err != nil || named[e.Name] {
			return m, hostile("artifact %.200q: its entry is wrong or there twice", e.Name)
		}
		if files[filesPrefix+string(e.Digest)] == nil {
			return m, hostile("it lacks the content of artifact %s", e.Name)
		}
		named[e.Name] = true
	}
	slices.SortFunc(m.Artifacts, func(a, b artifact.Entry) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

// readKeys reads line by line and stops as soon as there is more than the
// manifest, or any state, may hold.
func readKeys(f *zip.File, m manifest) (*journal.State, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, hostile("%v", err)
	}
	defer rc.Close() // it was only read
	lines := bufio.NewScanner(rc)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var all []journal.Entry
	var bytes int64
	for lines.Scan() {
		var k keyLine
		if err := json.Unmarshal(lines.Bytes(), &k); err != nil {
			return nil, hostile("%s: %v", keysName, err)
		}
		bytes += int64(len(k.Key) + len(k.Value))
		switch err := journal.CheckKey(k.Key); {
		case err != nil:
			return nil, hostile("%v", err)
		case journal.Reserved(k.Key), len(k.Value) > journal.MaxValue, k.Version == 0, k.Version > m.Seq:
			return nil, hostile("key %.100q can not be so", k.Key)
		case len(all) > 0 && all[len(all)-1].Key >= k.Key:
			return nil, hostile("key %.100q is out of order or there twice", k.Key)
		case len(all) >= m.Keys, bytes > journal.MaxState:
			return nil, hostile("more keys than the %d that it says, or more than can be persisted", m.Keys)
		}
		all = append(all, journal.Entry{Key: k.Key, Value: k.Value, Version: k.Version})
	}
	if err := lines.Err(); err != nil {
		return nil, hostile("%s: %v", keysName, err)
	}
	return journal.FromEntries(lease.Head{Seq: m.Seq}, m.Term, all), nil
}
