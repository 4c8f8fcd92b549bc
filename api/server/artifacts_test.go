package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const jar = "the content of a jar"

// jarSum is the SHA-256 of jar.
var jarSum, _, _ = artifact.Sum(strings.NewReader(jar))

var octets = []string{"Content-Type", "application/octet-stream"}

// fakeArtifacts has one artifact, app.jar.
type fakeArtifacts struct {
	err    error
	stored string // what the store really holds
	pushed string
	asked  artifact.Content
	writes atomic.Int32
}

func (f *fakeArtifacts) entry() artifact.Entry {
	return artifact.Entry{Name: "app.jar", Digest: jarSum, Size: int64(len(jar)), Pushed: time.Unix(1_800_000_000, 0).UTC()}
}

func (f *fakeArtifacts) List(context.Context) ([]artifact.Entry, error) {
	return []artifact.Entry{f.entry()}, f.err
}

func (f *fakeArtifacts) Get(_ context.Context, name string) (artifact.Entry, error) {
	if name != "app.jar" {
		return artifact.Entry{}, errors.Join(artifact.CheckName(name), artifact.ErrNone)
	}
	return f.entry(), f.err
}

func (f *fakeArtifacts) Open(_ context.Context, _ artifact.Entry, offset int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.stored[min(int(offset), len(f.stored)):])), nil
}

func (f *fakeArtifacts) Push(_ context.Context, name string, c artifact.Content) (artifact.Entry, error) {
	f.writes.Add(1)
	f.asked = c
	if f.err != nil {
		return artifact.Entry{}, f.err
	}
	if strings.HasPrefix(name, ".") {
		return artifact.Entry{}, artifact.CheckName(name)
	}
	b, err := io.ReadAll(c.R)
	f.pushed = string(b)
	e := f.entry()
	e.Name = name
	return e, err
}

func (f *fakeArtifacts) Remove(context.Context, string) error {
	f.writes.Add(1)
	return f.err
}

func TestArtifacts(t *testing.T) {
	f := &fakeArtifacts{stored: jar}
	g := newRig(t, mastering(), Options{Artifacts: f})
	list := fmt.Sprintf(`{"artifacts":[{"name":"app.jar","sha256":"%s","size":%d,"pushed":"2027-01-15T08:00:00Z"}]}`, jarSum, len(jar))
	if r := g.ask(http.MethodGet, "/v1/artifacts", ""); r.code != 200 || r.body != list {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodPut, "/v1/artifacts/new?sha256="+string(jarSum), jar, octets...); r.code != 200 || f.pushed != jar || f.asked.Digest != jarSum || f.asked.Size != int64(len(jar)) {
		t.Errorf("%d %s; asked for %+v", r.code, r.body, f.asked)
	}
	if r := g.ask(http.MethodPut, "/v1/artifacts/new", jar, octets...); r.code != 200 || f.asked.Digest != "" {
		t.Errorf("%d %s; asked for %+v", r.code, r.body, f.asked)
	}
	for path, part := range map[string]string{"/v1/artifacts/new?sha256=abc": "64 hexadecimal", "/v1/artifacts/.new": "name of an artifact"} {
		if r := g.ask(http.MethodPut, path, jar, octets...); r.code != 400 || !strings.Contains(r.body, part) {
			t.Errorf("%s: %d %s", path, r.code, r.body)
		}
	}
	if r := g.ask(http.MethodDelete, "/v1/artifacts/app.jar", ""); r.code != 204 {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodGet, "/v1/artifacts/none", ""); r.code != 404 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestArtifactRefusals(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{artifact.ErrNone, 404},
		{artifact.ErrUndecided, 504},
		{fmt.Errorf("push: %w", artifact.ErrCorrupt), 400},
		{ha.ErrNoState, 412},
		{ha.ErrNotMaster, 403},
		{ha.ErrNotHot, 403},
		{ha.ErrClosed, 503},
		{persistence.Full, 507},
		{persistence.Unknown, 503},
		{persistence.Absent, 500},
		{errors.New("something else"), 500},
	} {
		g := newRig(t, mastering(), Options{Artifacts: &fakeArtifacts{err: c.err}})
		if r := g.ask(http.MethodPut, "/v1/artifacts/a", ""); r.code != c.code {
			t.Errorf("%v: %d %s", c.err, r.code, r.body)
		}
	}
	if r := newRig(t, mastering(), Options{}).ask(http.MethodGet, "/v1/artifacts", ""); r.code != 412 {
		t.Errorf("nothing is persisted: %d %s", r.code, r.body)
	}
}

// TestArtifactContent: what is sent is whole and right, or visibly cut off.
func TestArtifactContent(t *testing.T) {
	tag := `"` + string(jarSum) + `"`
	f := &fakeArtifacts{stored: jar}
	g := newRig(t, status(lease.StateHotStandby), Options{Artifacts: f})
	for _, c := range []struct {
		header []string
		code   int
		body   string
	}{
		{nil, 200, jar},
		{[]string{"Range", "bytes=4-"}, 206, jar[4:]},
		{[]string{"Range", "bytes=4-", "If-Match", tag}, 206, jar[4:]},
		{[]string{"Range", "bytes=0-"}, 200, jar},
		{[]string{"Range", "bytes=4-8"}, 200, jar},
		{[]string{"Range", "bytes=-4"}, 200, jar},
		{[]string{"Range", "bytes=100-"}, 200, jar},
		{[]string{"If-None-Match", tag}, 304, ""},
	} {
		r := g.ask(http.MethodGet, "/v1/artifacts/app.jar", "", c.header...)
		if r.code != c.code || r.body != c.body || r.header.Get("ETag") != tag {
			t.Errorf("%q: %d %q, %v", c.header, r.code, r.body, r.header)
		}
		if c.code == 206 && r.header.Get("Content-Range") != "bytes 4-19/20" {
			t.Errorf("%q: Content-Range %q", c.header, r.header.Get("Content-Range"))
		}
	}
	if r := g.ask(http.MethodGet, "/v1/artifacts/app.jar", "", "If-Match", `"other"`); r.code != 412 {
		t.Errorf("other content: %d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodHead, "/v1/artifacts/app.jar", ""); r.code != 200 || r.header.Get("Content-Length") != "20" {
		t.Errorf("HEAD: %d %v", r.code, r.header)
	}
	for _, damaged := range []string{"the c0ntent of a jar", jar[:19], jar + "s", ""} {
		f.stored = damaged
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+"/v1/artifacts/app.jar", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // cut off before it began
		}
		b, err := io.ReadAll(resp.Body)
		if err == nil {
			t.Errorf("%q was sent as %q", damaged, b)
		}
		_ = resp.Body.Close() // it was cut off
	}
}

// TestCopyBehind: a receiver never has all of what turns out wrong.
func TestCopyBehind(t *testing.T) {
	for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 1 << 20} {
		content := strings.Repeat("x", size)
		d, n, err := artifact.Sum(strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := copyBehind(&out, artifact.Verify(strings.NewReader(content), d, n)); err != nil || out.String() != content {
			t.Errorf("%d bytes: %d came, %v", size, out.Len(), err)
		}
		out.Reset()
		if err := copyBehind(&out, artifact.Verify(strings.NewReader(content), jarSum, n)); err == nil || (size > 0 && out.Len() >= size) {
			t.Errorf("%d wrong bytes: %d came, %v", size, out.Len(), err)
		}
	}
}
