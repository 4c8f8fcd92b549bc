package server

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/understudy-ha/understudy/api/v1"
)

// Content saves and restores what the plane persists, as a whole. Methods may
// be called from any goroutine; their errors are those of State and Artifacts.
type Content interface {
	// Export takes what there is at this moment and returns what writes it as
	// an archive.
	Export() (func(ctx context.Context, w io.Writer) error, error)
	// Import merges an archive. *ArchiveError: it is refused, and nothing was
	// changed.
	Import(ctx context.Context, archive io.Reader) (v1.Imported, error)
}

// ArchiveError says why an archive is refused.
type ArchiveError struct{ Err error }

func (e *ArchiveError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *ArchiveError) Unwrap() error { return e.Err }

const typeZip = "application/zip"

// origins are where a Brooklyn client may want an export to come from. Here all
// of these mean the state that this node holds.
var origins = map[string]bool{"": true, "AUTO": true, "LOCAL": true}

func exportContent(s *server, r *request) response {
	if s.opt.Content == nil {
		return *noState()
	}
	if origin := r.URL.Query().Get("origin"); !origins[origin] {
		return failure(http.StatusBadRequest, "origin is AUTO or LOCAL, what this node holds; to read the store itself: understudy export FILE --store LOCATION", "")
	}
	write, err := s.opt.Content.Export()
	if err != nil {
		return s.stateRefusal(r, err)
	}
	resp := response{status: http.StatusOK, contentType: typeZip, stream: nothing}.
		with("Content-Disposition", `attachment; filename="understudy-state.zip"`)
	if r.Method == http.MethodHead {
		return resp
	}
	resp.stream = func(ctx context.Context, w io.Writer) error {
		if err := write(ctx, w); err != nil {
			// As with an artifact: the status is sent.
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	return resp
}

func importContent(s *server, r *request) response {
	if s.opt.Content == nil {
		return *noState()
	}
	done, err := s.opt.Content.Import(r.Context(), r.Body)
	var refused *ArchiveError
	switch {
	case errors.As(err, &refused):
		return failure(http.StatusBadRequest, refused.Error(), "")
	case err != nil && s.stateRefusal(r, err).status != http.StatusInternalServerError:
		return s.stateRefusal(r, err)
	case err != nil:
		return s.artifactRefusal(r, err)
	}
	return asJSON(http.StatusOK, done)
}
