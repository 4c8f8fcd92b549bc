package server

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// Artifacts are the plane's large files. Methods may be called from any
// goroutine; their errors are those of package artifact, and of the persisted
// state where the node may not read or write it.
type Artifacts interface {
	List(ctx context.Context) ([]artifact.Entry, error)
	Get(ctx context.Context, name string) (artifact.Entry, error)
	// Open returns the content from an offset on, not verified.
	Open(ctx context.Context, e artifact.Entry, offset int64) (io.ReadCloser, error)
	// Push stores content; without a digest whatever comes is right.
	Push(ctx context.Context, name string, c artifact.Content) (artifact.Entry, error)
	Remove(ctx context.Context, name string) error
}

// transferIdle is how long a client may take to send the next part of a body
// that has no limit, and finishLimit how long the store may take to finish
// with it.
const (
	transferIdle = time.Minute
	finishLimit  = 10 * time.Minute
)

// idling reads a body that may be long: its client has time as long as it goes
// on sending.
type idling struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (b idling) Read(p []byte) (int, error) {
	now := time.Now()
	_ = b.control.SetReadDeadline(now.Add(transferIdle)) // not every ResponseWriter has deadlines
	n, err := b.ReadCloser.Read(p)
	_ = b.control.SetWriteDeadline(time.Now().Add(finishLimit))
	return n, err
}

func wireArtifact(e artifact.Entry) v1.Artifact {
	return v1.Artifact{Name: e.Name, SHA256: string(e.Digest), Size: e.Size, Pushed: e.Pushed}
}

func noArtifacts() response {
	return failure(http.StatusPreconditionFailed, ha.ErrNoState.Error(), "")
}

// artifactRefusal turns an error into an answer.
func (s *server) artifactRefusal(r *request, err error) response {
	trouble := artifact.TroubleOf(err)
	switch {
	case errors.Is(err, artifact.ErrNone):
		return failure(http.StatusNotFound, err.Error(), "")
	case errors.Is(err, artifact.ErrName):
		return failure(http.StatusBadRequest, err.Error(), "")
	case errors.Is(err, artifact.ErrUndecided):
		return failure(http.StatusGatewayTimeout, err.Error(), "")
	case errors.Is(err, artifact.ErrCorrupt) && isWrite(r.Method):
		return failure(http.StatusBadRequest, "the content is not what it was said to be; send it again", err.Error())
	case errors.Is(err, artifact.ErrCorrupt), trouble == artifact.Gone:
		return failure(http.StatusInternalServerError, "the store does not have the content any more; push the artifact again", err.Error())
	case errors.Is(err, ha.ErrNoState):
		return noArtifacts()
	case errors.Is(err, ha.ErrNotMaster):
		return s.notMaster(r)
	case errors.Is(err, ha.ErrNotHot):
		return s.notHere(r, err.Error())
	case trouble == artifact.Full:
		return failure(http.StatusInsufficientStorage, err.Error(), "")
	case trouble == artifact.Unavailable, errors.Is(err, ha.ErrClosed):
		return failure(http.StatusServiceUnavailable, err.Error(), "").with("Retry-After", "1")
	}
	return s.refusal(r, "do that with the artifact", err)
}

func listArtifacts(s *server, r *request) response {
	if s.opt.Artifacts == nil {
		return noArtifacts()
	}
	all, err := s.opt.Artifacts.List(r.Context())
	if err != nil {
		return s.artifactRefusal(r, err)
	}
	out := v1.ArtifactList{Artifacts: make([]v1.Artifact, 0, len(all))}
	for _, e := range all {
		out.Artifacts = append(out.Artifacts, wireArtifact(e))
	}
	return asJSON(http.StatusOK, out)
}

// getArtifact sends the content. With Range: bytes=N- it sends the rest from
// there, and with If-Match only if the name still means that content, so that a
// transfer that was cut off can be gone on with.
func getArtifact(s *server, r *request) response {
	if s.opt.Artifacts == nil {
		return noArtifacts()
	}
	e, err := s.opt.Artifacts.Get(r.Context(), mux.Vars(r.Request)["name"])
	if err != nil {
		return s.artifactRefusal(r, err)
	}
	tag := `"` + string(e.Digest) + `"`
	if h := r.Header.Get("If-Match"); h != "" && h != "*" && h != tag {
		return failure(http.StatusPreconditionFailed, "the name means other content by now; get all of that", "").with("ETag", tag)
	}
	if r.Header.Get("If-None-Match") == tag {
		return response{status: http.StatusNotModified}.with("ETag", tag)
	}
	offset, partial := rangeFrom(r.Header.Get("Range"), e.Size)
	resp := response{status: http.StatusOK, contentType: typeBytes, stream: nothing}
	if partial {
		resp.status = http.StatusPartialContent
		resp = resp.with("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, e.Size-1, e.Size))
	}
	resp = resp.with("Content-Length", strconv.FormatInt(e.Size-offset, 10)).with("Accept-Ranges", "bytes").
		with("ETag", tag).with("Repr-Digest", reprDigest(e.Digest)).with("Last-Modified", e.Pushed.UTC().Format(http.TimeFormat))
	if r.Method == http.MethodHead {
		return resp
	}
	rc, err := s.opt.Artifacts.Open(r.Context(), e, offset)
	if err != nil {
		return s.artifactRefusal(r, err)
	}
	resp.stream = func(_ context.Context, w io.Writer) error {
		defer rc.Close() // it was only read
		var content io.Reader = rc
		if offset == 0 {
			content = artifact.Verify(rc, e.Digest, e.Size)
		}
		if err := copyBehind(w, content); err != nil {
			// The status is sent: that the answer is not whole is all that can
			// still be said.
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	return resp
}

func nothing(context.Context, io.Writer) error { return nil }

// copyBehind copies and keeps one piece back until it knows that more follows
// or that all was right: a receiver never has all of something that is wrong.
func copyBehind(w io.Writer, r io.Reader) error {
	var bufs [2][]byte
	for i := range bufs {
		bufs[i] = make([]byte, 256<<10)
	}
	var kept []byte
	for i := 0; ; i ^= 1 {
		n, err := io.ReadFull(r, bufs[i])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if len(kept) > 0 {
			if _, err := w.Write(kept); err != nil {
				return err
			}
		}
		kept = bufs[i][:n]
		if last {
			_, err = w.Write(kept)
			return err
		}
	}
}

// rangeFrom reads "bytes=N-". Any other range is answered with everything,
// which is legal.
func rangeFrom(h string, size int64) (offset int64, ok bool) {
	digits, isBytes := strings.CutPrefix(h, "bytes=")
	digits, toEnd := strings.CutSuffix(digits, "-")
	if !isBytes || !toEnd {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n >= size {
		return 0, false
	}
	return n, true
}

// reprDigest writes a digest as RFC 9530 does.
func reprDigest(d artifact.Digest) string {
	b, err := hex.DecodeString(string(d))
	if err != nil {
		return ""
	}
	return "sha-256=:" + base64.StdEncoding.EncodeToString(b) + ":"
}

// announced is the digest that a client gives: ?sha256=HEX, or Repr-Digest of
// RFC 9530. Empty: none.
func announced(r *request) (artifact.Digest, error) {
	if q := r.URL.Query().Get("sha256"); q != "" {
		return artifact.ParseDigest(q)
	}
	for part := range strings.SplitSeq(r.Header.Get("Repr-Digest"), ",") {
		text, ok := strings.CutPrefix(strings.TrimSpace(part), "sha-256=:")
		if !ok {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, ":"))
		if err != nil {
			return "", fmt.Errorf("the header Repr-Digest: %w", err)
		}
		return artifact.ParseDigest(hex.EncodeToString(b))
	}
	return "", nil
}

func putArtifact(s *server, r *request) response {
	if s.opt.Artifacts == nil {
		return noArtifacts()
	}
	digest, err := announced(r)
	if err != nil {
		return failure(http.StatusBadRequest, err.Error(), "")
	}
	e, err := s.opt.Artifacts.Push(r.Context(), mux.Vars(r.Request)["name"], artifact.Content{R: r.Body, Digest: digest, Size: r.ContentLength})
	if err != nil {
		return s.artifactRefusal(r, err)
	}
	return asJSON(http.StatusOK, wireArtifact(e)).with("ETag", `"`+string(e.Digest)+`"`)
}

func deleteArtifact(s *server, r *request) response {
	if s.opt.Artifacts == nil {
		return noArtifacts()
	}
	if err := s.opt.Artifacts.Remove(r.Context(), mux.Vars(r.Request)["name"]); err != nil {
		return s.artifactRefusal(r, err)
	}
	return noContent()
}
