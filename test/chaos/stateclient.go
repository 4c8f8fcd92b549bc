package chaos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/understudy-ha/understudy/test/chaos/history"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// DoState performs an operation on the plane's own persisted state, by REST,
// and fills in what became of it. What any node says counts as openapi.yaml has
// it: a write was made after 204 and may have been after 504 or no answer at
// all; with any other nothing was changed. A read counts if a master answered.
func (c *Client) DoState(ctx context.Context, n *harness.Node, o *history.Op) {
	method, body := http.MethodGet, []byte(nil)
	if o.Write {
		method, body = http.MethodPut, []byte(o.Value)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, n.URL("/v1/state/"+o.Key), bytes.NewReader(body))
	if err != nil {
		panic(err) // our own URL
	}
	user, password, err := n.Credentials()
	if err != nil {
		o.Outcome = history.Failed // it has not started yet
		return
	}
	req.SetBasicAuth(user, password)
	o.Call = int64(intervals.Now())
	res, err := c.http.Do(req)
	code, value := 0, []byte(nil)
	if err == nil {
		code = res.StatusCode
		value, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	o.Return = int64(intervals.Now())
	switch {
	case err == nil && o.Write && code == http.StatusNoContent:
		o.Outcome = history.OK
	case err == nil && !o.Write && res.Header.Get("X-HA-State") == "MASTER" && (code == http.StatusOK || code == http.StatusNotFound):
		o.Outcome = history.OK
		if code == http.StatusOK {
			o.Value = string(value)
		}
	case !o.Write, err == nil && code != http.StatusGatewayTimeout && code != http.StatusInternalServerError, errors.Is(err, syscall.ECONNREFUSED):
		o.Outcome = history.Failed
		return
	default:
		o.Outcome = history.Unknown
		return
	}
	o.Term, _ = strconv.ParseUint(res.Header.Get("X-HA-Term"), 10, 64)                  // 0 is no term
	o.Version, _ = strconv.ParseUint(strings.Trim(res.Header.Get("ETag"), `"`), 10, 64) // 0 is that of a key that is not there
}
