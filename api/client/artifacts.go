package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/understudy-ha/understudy/api/v1"
)

// Artifacts lists the plane's artifacts. Only the MASTER and hot standbys know
// them; others refuse with a *StatusError (403) that names the MASTER.
func (c *Client) Artifacts(ctx context.Context) ([]v1.Artifact, error) {
	l, err := call[v1.ArtifactList](ctx, c, http.MethodGet, "/v1/artifacts", nil)
	return l.Artifacts, err
}

// Content is what PutArtifact sends.
type Content struct {
	Open   func() (io.ReadCloser, error) // may be called once per endpoint
	Size   int64                         // bytes
	SHA256 string                        // 64 hexadecimal digits
}

// PutArtifact stores content under a name. It takes as long as it takes: bound
// it by ctx. Only the MASTER does it. An *UnreachableError whose last attempt
// may have been sent leaves the outcome open.
func (c *Client) PutArtifact(ctx context.Context, name string, content Content) (v1.Artifact, error) {
	var out v1.Artifact
	path := artifactPath(name) + "?sha256=" + url.QueryEscape(content.SHA256)
	a, err := c.each(ctx, func(endpoint string) (*answer, error) {
		body, err := content.Open()
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, endpoint+path, body) // which closes it
		if err != nil {
			return nil, err
		}
		req.ContentLength = content.Size
		if content.Size == 0 {
			req.Body = http.NoBody
			if err := body.Close(); err != nil {
				return nil, err
			}
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Expect", "100-continue")
		return c.answerTo(req, endpoint)
	})
	if err != nil {
		return out, err
	}
	if err := a.refused(); err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("%s%s sent no answer of the expected form; is it Understudy? %w", a.endpoint, path, err)
	}
	return out, nil
}

// DeleteArtifact takes a name away. Only the MASTER does it.
func (c *Client) DeleteArtifact(ctx context.Context, name string) error {
	a, err := c.each(ctx, func(endpoint string) (*answer, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, endpoint+artifactPath(name), http.NoBody)
		if err != nil {
			return nil, err
		}
		return c.answerTo(req, endpoint)
	})
	if err != nil {
		return err
	}
	return a.refused()
}

// GetArtifact returns the content of a name from the byte at offset on, if it
// still is the content with that digest; otherwise a *StatusError (412). What
// comes is not verified. Close it. ctx bounds all reading of it.
func (c *Client) GetArtifact(ctx context.Context, name, sha256 string, offset int64) (io.ReadCloser, error) {
	var body io.ReadCloser
	a, err := c.each(ctx, func(endpoint string) (*answer, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+artifactPath(name), http.NoBody)
		if err != nil {
			return nil, err
		}
		req.Header.Set("If-Match", `"`+sha256+`"`)
		if offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
		c.authorise(req)
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 != 2 {
			return readAnswer(resp, endpoint)
		}
		if offset > 0 && resp.StatusCode != http.StatusPartialContent { // a node may send everything
			if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
				_ = resp.Body.Close()
				return nil, err
			}
		}
		body = resp.Body
		return &answer{endpoint: endpoint, code: resp.StatusCode}, nil
	})
	if err != nil {
		return nil, err
	}
	if err := a.refused(); err != nil {
		return nil, err
	}
	return body, nil
}

func artifactPath(name string) string { return "/v1/artifacts/" + url.PathEscape(name) }

// each asks one endpoint after the other until one answers.
func (c *Client) each(ctx context.Context, ask func(endpoint string) (*answer, error)) (*answer, error) {
	first := int(c.last.Load())
	var tried []Attempt
	for i := range c.endpoints {
		n := (first + i) % len(c.endpoints)
		a, err := ask(c.endpoints[n])
		if err == nil {
			c.last.Store(int32(n)) //nolint:gosec // a handful of endpoints
			return a, nil
		}
		sent := maybeSent(err)
		tried = append(tried, Attempt{Endpoint: c.endpoints[n], Err: plain(err), MaybeSent: sent})
		if ctx.Err() != nil || sent {
			break
		}
	}
	return nil, &UnreachableError{Attempts: tried}
}

// answerTo sends a request and reads the answer.
func (c *Client) answerTo(req *http.Request, endpoint string) (*answer, error) {
	c.authorise(req)
	// Who asks a node by its address means that node.
	req.Header.Set(v1.HeaderAllowNonMaster, "true")
	resp, err := c.http.Do(req) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		return nil, err
	}
	return readAnswer(resp, endpoint)
}

func readAnswer(resp *http.Response, endpoint string) (*answer, error) {
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &answer{endpoint: endpoint, code: resp.StatusCode, header: resp.Header, body: b}, nil
}
