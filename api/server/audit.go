package server

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"
)

// audit is the log of who did what, from where, and what came of it: each
// write, each failed login, each refusal for want of a role.
func (s *server) audit(hr *http.Request, c caller, status int, took time.Duration) {
	fields := []zap.Field{
		zap.String("user", c.user), zap.Stringer("role", c.role), zap.String("remote", hr.RemoteAddr),
		zap.String("method", hr.Method), zap.String("path", hr.URL.Path), zap.Int("status", status),
	}
	if c.node != "" {
		fields = append(fields, zap.String("via", string(c.node)))
	}
	if asked := spoken(hr.Form); asked != "" {
		fields = append(fields, zap.String("asked", asked))
	}
	if took > 0 {
		fields = append(fields, zap.Duration("took", took.Round(time.Millisecond)))
	}
	s.auditLog.Info("request", fields...)
}

// loginFailed counts and logs one.
func (s *server) loginFailed(hr *http.Request, addr netip.Addr, user, why string) {
	s.logins.add(addr, user, s.node.Now())
	s.auditLog.Warn("login failed", zap.String("user", strings.TrimPrefix(user, "\x00")), zap.String("remote", hr.RemoteAddr),
		zap.String("method", hr.Method), zap.String("path", hr.URL.Path), zap.String("why", why))
}

// maxAsked bounds how much of a form is logged, in bytes.
const maxAsked = 256

// spoken is a form for the log: shortened, and without secrets.
func spoken(form url.Values) string {
	if len(form) == 0 {
		return ""
	}
	shown := url.Values{}
	for k, v := range form {
		if Sensitive(k) {
			v = []string{"*****"}
		}
		shown[k] = v
	}
	out := shown.Encode()
	if len(out) > maxAsked {
		out = out[:maxAsked] + "…"
	}
	return out
}
