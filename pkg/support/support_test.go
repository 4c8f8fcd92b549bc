package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestScrub(t *testing.T) {
	s := NewScrubber("hunter-22", `quote"and\slash`, "short", "hunter-22-and-more")
	for _, c := range []struct{ in, want string }{
		{"the password is hunter-22.", "the password is *****."},
		{"hunter-22-and-more", "*****"},
		{`{"x":"quote\"and\\slash"}`, `{"x":"*****"}`},
		{"aHVudGVyLTIy", "*****"},
		{"https://u:pw@host/x", "https://*****host/x"},
		{"short", "short"}, // too short to be looked for everywhere
		{"Authorization: Bearer abcdef.ghi", "Authorization: *****"},
		{"got Basic YWRtaW46eA==", "got Basic *****"},
		{"db_password=tops3cret next", "db_password=***** next"},
		{`"apiKey": "tops3cret", "port": 8`, `"apiKey": *****, "port": 8`},
		{"run --db-password tops3cret --port 8", "run --db-password ***** --port 8"},
		{`["--token","tops3cret","--port","8"]`, `["--token","*****","--port","8"]`},
		{"ann:$2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234", "ann:*****"},
		{"token ust_abcdefgh_abcdefghijklmnop ends", "token ***** ends"},
		{"AKIAABCDEFGHIJKLMNOP", "*****"},
		{"a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb", "a\n*****\nb"},
		{"-----BEGIN PRIVATE KEY-----\ncut off", "*****"},
		{"heartbeatTimeout: 30s, term 7, state MASTER", "heartbeatTimeout: 30s, term 7, state MASTER"},
	} {
		if got := string(s.Scrub([]byte(c.in))); got != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long.log")
	if err := os.WriteFile(long, append(bytes.Repeat([]byte("x"), 2<<20), "the end"...), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := NewBundle(&out, NewScrubber("hunter-22"), time.Unix(0, 0))
	b.Add("a.json", []byte("hunter-22 and others"), nil)
	b.Add("b.json", nil, errors.New("refused for hunter-22"))
	b.AddTail("long.log", long)
	b.AddTail("none.log", filepath.Join(dir, "none"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "understudy-report/")] = string(content)
	}
	if files["a.json"] != "***** and others" || len(files) != 3 || len(files["long.log"]) != tailLimit || !strings.HasSuffix(files["long.log"], "the end") {
		t.Errorf("%d files; a.json is %q", len(files), files["a.json"])
	}
	if list := files["CONTENTS"]; !strings.Contains(list, "a.json") || !strings.Contains(list, "missing  b.json: refused for *****") || len(b.Missing) != 1 {
		t.Errorf("CONTENTS says %s, missing %v", list, b.Missing)
	}
}
