package transfer

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/artifact"
)

func archive(t *testing.T, c *Content) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.WriteArchive(t.Context(), &b, time.Now()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestArchive: what was saved is restored, versions included, and has the same
// digest; an empty state too.
func TestArchive(t *testing.T) {
	for _, src := range []*Content{
		content(t, written(t, 40, map[string]string{"app.jar": "a jar", "same": "a jar", "empty": ""})),
		content(t, written(t, 0, nil)),
	} {
		b := archive(t, src)
		c, err := ReadArchive(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		dst := directory(t)
		if err := moveTo(t, c, dst); err != nil {
			t.Fatal(err)
		}
		if got := content(t, dst); got.Digest() != src.Digest() || got.Term <= src.Term {
			t.Errorf("%d keys, %d artifacts, term %d", got.Keys(), len(got.Artifacts), got.Term)
		}
	}
}

// entry is one entry of a zip file to be made.
type entry struct {
	name    string
	content string
	mode    fs.FileMode
}

func zipped(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(0o644 | e.mode)
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(w, e.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostileArchive: whatever a zip file can do, it is refused in words before
// anything is written.
func TestHostileArchive(t *testing.T) {
	good := map[string]string{}
	b := archive(t, content(t, written(t, 6, map[string]string{"a": "x"})))
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		good[f.Name] = string(text)
	}
	file := filesPrefix + string(sumOf(t, "x"))
	with := func(more ...entry) []entry {
		var out []entry
		for _, name := range slices.Sorted(maps.Keys(good)) {
			out = append(out, entry{name: name, content: good[name]})
		}
		return append(out, more...)
	}
	changed := func(name, text string) []entry {
		out := with()
		for i := range out {
			if out[i].name == name {
				out[i].content = text
			}
		}
		return out
	}
	said := func(change func(m map[string]any)) []entry {
		var m map[string]any
		if err := json.Unmarshal([]byte(good[manifestName]), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return changed(manifestName, string(text))
	}
	without := func(name string) []entry {
		return slices.DeleteFunc(with(), func(e entry) bool { return e.name == name })
	}
	line := func(key, value string, version int) string {
		b, err := json.Marshal(keyLine{key, uint64(version), []byte(value)}) //nolint:gosec // small
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	if b := zipped(t, with()); len(b) == 0 {
		t.Fatal("nothing")
	} else if _, err := ReadArchive(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatalf("what is not hostile: %v", err)
	}
	for name, entries := range map[string][]entry{
		"nothing":             nil,
		"foreign":             {{name: "word/document.xml", content: "x"}},
		"parent":              with(entry{name: "../../etc/passwd", content: "x"}),
		"absolute":            with(entry{name: "/etc/passwd", content: "x"}),
		"backslash":           with(entry{name: `data\..\x`, content: "x"}),
		"hidden parent":       with(entry{name: filesPrefix + "../../x", content: "x"}),
		"directory":           with(entry{name: "data/more/"}),
		"symbolic link":       append(without(file), entry{name: file, content: "/etc/passwd", mode: fs.ModeSymlink}),
		"device":              append(without(file), entry{name: file, mode: fs.ModeDevice}),
		"twice":               with(entry{name: keysName, content: good[keysName]}),
		"file twice":          with(entry{name: file, content: "x"}),
		"no manifest":         without(manifestName),
		"no keys":             without(keysName),
		"no file":             without(file),
		"manifest no JSON":    changed(manifestName, "x"),
		"another format":      said(func(m map[string]any) { m["format"] = "understudy archive 9" }),
		"wrong digest":        said(func(m map[string]any) { m["digest"] = strings.Repeat("0", 64) }),
		"no room for terms":   said(func(m map[string]any) { m["term"] = 1<<48 - 1 }),
		"no room for numbers": said(func(m map[string]any) { m["seq"] = 1<<48 - 1 }),
		"fewer keys":          changed(keysName, line("jobs/000000", "", 1)),
		"more keys":           changed(keysName, good[keysName]+line("jobs/999999", "", 1)),
		"bad key":             changed(keysName, line("../x", "", 1)),
		"reserved key":        changed(keysName, line(".artifacts/a", "{}", 1)),
		"version ahead":       changed(keysName, line("a", "", 999)),
		"no version":          changed(keysName, line("a", "", 0)),
		"twice the key":       changed(keysName, line("a", "", 1)+line("a", "", 2)),
		"out of order":        changed(keysName, line("b", "", 1)+line("a", "", 2)),
		"value too long":      changed(keysName, line("a", strings.Repeat("x", 1<<20+1), 1)),
		"endless line":        changed(keysName, strings.Repeat("x", 8<<20)),
		"bomb of a manifest":  changed(manifestName, strings.Repeat(" ", maxManifest+1)),
		"another value":       changed(keysName, strings.Replace(good[keysName], `"eA=="`, `"eQ=="`, 1)),
	} {
		b := zipped(t, entries)
		if _, err := ReadArchive(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, torn := range [][]byte{nil, b[:len(b)/2], []byte("no zip file at all")} {
		if _, err := ReadArchive(bytes.NewReader(torn), int64(len(torn))); !errors.Is(err, ErrArchive) {
			t.Errorf("%d bytes of it: %v", len(torn), err)
		}
	}
}

func sumOf(t *testing.T, s string) artifact.Digest {
	t.Helper()
	d, _, err := artifact.Sum(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestArchiveBomb: an artifact that is other than it says, or larger than it
// says by far, is refused as it is read, and the destination is as it was.
func TestArchiveBomb(t *testing.T) {
	src := content(t, written(t, 3, map[string]string{"a": "x"}))
	file := filesPrefix + string(sumOf(t, "x"))
	for name, text := range map[string]string{"other content": "y", "bomb": strings.Repeat("x", 64<<20), "nothing": ""} {
		b := archive(t, src)
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		var entries []entry
		for _, f := range z.File {
			rc, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(rc)
			if err = errors.Join(err, rc.Close()); err != nil {
				t.Fatal(err)
			}
			e := entry{name: f.Name, content: string(got)}
			if f.Name == file {
				e.content = text
			}
			entries = append(entries, e)
		}
		b = zipped(t, entries)
		c, err := ReadArchive(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		dst := directory(t)
		if err := moveTo(t, c, dst); !errors.Is(err, artifact.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if got := content(t, dst); got.Keys()+len(got.Artifacts) != 0 {
			t.Errorf("%s: %s", name, fmt.Sprint(got.Keys()))
		}
	}
}
