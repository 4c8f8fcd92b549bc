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

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

type fakeContent struct {
	err, broken error
	got         string
	writes      atomic.Int32
}

func (f *fakeContent) Export() (func(context.Context, io.Writer) error, error) {
	return func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "a zip file")
		return errors.Join(err, f.broken)
	}, f.err
}

func (f *fakeContent) Import(_ context.Context, r io.Reader) (v1.Imported, error) {
	f.writes.Add(1)
	b, err := io.ReadAll(r)
	f.got = string(b)
	return v1.Imported{Keys: 3, SHA256: string(jarSum)}, errors.Join(err, f.err)
}

func TestContent(t *testing.T) {
	const export, imports = "/v1/server/ha/persist/export", "/v1/server/ha/persist/import"
	zip := []string{"Content-Type", typeZip}
	f := &fakeContent{}
	g := newRig(t, mastering(), Options{Content: f})
	for _, query := range []string{"", "?origin=AUTO", "?origin=LOCAL"} {
		r := g.ask(http.MethodGet, export+query, "")
		if r.code != 200 || r.body != "a zip file" || !strings.HasPrefix(r.header.Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %d %s", query, r.code, r.body)
		}
	}
	if r := g.ask(http.MethodHead, export, ""); r.code != 200 || r.body != "" {
		t.Errorf("HEAD: %d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodGet, export+"?origin=REMOTE", ""); r.code != 400 || !strings.Contains(r.body, "--store") {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodPost, imports, "an archive", zip...); r.code != 200 || f.got != "an archive" || !strings.Contains(r.body, `"keys":3`) {
		t.Errorf("%d %s; got %q", r.code, r.body, f.got)
	}
	for _, c := range []struct {
		err  error
		code int
	}{
		{&ArchiveError{errors.New("it is no zip file")}, 400},
		{ha.ErrNotMaster, 403},
		{ha.ErrUnknown, 504},
		{fmt.Errorf("push: %w", artifact.ErrUndecided), 504},
		{&ha.NotStoredError{Err: persistence.Full}, 507},
		{fmt.Errorf("push: %w", persistence.Full), 507},
		{persistence.Unknown, 503},
	} {
		f.err = c.err
		if r := g.ask(http.MethodPost, imports, "an archive", zip...); r.code != c.code {
			t.Errorf("%v: %d %s", c.err, r.code, r.body)
		}
	}
	none := newRig(t, mastering(), Options{})
	if r := none.ask(http.MethodGet, export, ""); r.code != 412 {
		t.Errorf("nothing is persisted: %d %s", r.code, r.body)
	}
	if r := none.ask(http.MethodPost, imports, "x", zip...); r.code != 412 {
		t.Errorf("nothing is persisted: %d %s", r.code, r.body)
	}
	cold := newRig(t, status(lease.StateStandby), Options{Content: &fakeContent{err: ha.ErrNotHot}})
	if r := cold.ask(http.MethodGet, export, ""); r.code != 403 {
		t.Errorf("a node that does not hold the state: %d %s", r.code, r.body)
	}
}
