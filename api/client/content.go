package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/understudy-ha/understudy/api/v1"
)

// Export copies what the plane persists, as a zip file. Only the MASTER and hot
// standbys have it; others refuse with a *StatusError (403) that names the
// MASTER. What came before an error is not the whole of it.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	return c.stream(ctx, "/v1/server/ha/persist/export", w)
}

// Import merges an exported file into what the plane persists. Only the MASTER
// does it. It takes as long as it takes: bound it by ctx.
func (c *Client) Import(ctx context.Context, content Content) (v1.Imported, error) {
	var out v1.Imported
	const path = "/v1/server/ha/persist/import"
	a, err := c.each(ctx, func(endpoint string) (*answer, error) {
		body, err := content.Open()
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+path, body) // which closes it
		if err != nil {
			return nil, err
		}
		req.ContentLength = content.Size
		req.Header.Set("Content-Type", "application/zip")
		req.Header.Set("Expect", "100-continue")
		return c.answerTo(req, endpoint)
	})
	if err == nil {
		err = a.refused()
	}
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("%s%s sent no answer of the expected form; is it Understudy? %w", a.endpoint, path, err)
	}
	return out, nil
}
