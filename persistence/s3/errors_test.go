package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

// reply answers every request with an error of S3.
func reply(status int, code, message string, header http.Header) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		// Or the server resets the connection, and the client, which is still
		// writing, may never read the answer.
		_, _ = io.Copy(io.Discard, r.Body)
		for name, values := range header {
			w.Header()[name] = values
		}
		w.Header().Set("X-Amz-Request-Id", "REQ7")
		w.WriteHeader(status)
		if code != "" {
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, message)
		}
	}
}

// noSecrets fails when an error shows what opens the bucket.
func noSecrets(t *testing.T, err error) {
	t.Helper()
	for _, s := range []string{accessKey, secret, session} {
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), s) {
			t.Errorf("an error shows %q: %v", s, err)
		}
	}
}

func TestErrorsInWords(t *testing.T) {
	s := serve(t)
	ahead := http.Header{"Date": {time.Now().Add(20*time.Minute + 30*time.Second).UTC().Format(http.TimeFormat)}}
	region := http.Header{"X-Amz-Bucket-Region": {"eu-central-1"}}
	for _, tc := range []struct {
		status        int
		code, message string
		header        http.Header
		want          error // of a write of the register
		words         []string
	}{
		{404, "NoSuchBucket", "no such bucket", nil, persistence.Absent, []string{"s3://planes/a/plane/lease", "create the bucket, or correct persistenceDir"}},
		{403, "AccessDenied", "Access Denied", nil, persistence.Denied, []string{"s3:PutObject on s3://planes/a/plane/lease", "allow these credentials s3:PutObject on arn:aws:s3:::planes/a/plane/*"}},
		{403, "", "", nil, persistence.Denied, []string{"allow these credentials s3:PutObject"}},
		{403, "InvalidAccessKeyId", "The key " + accessKey + " does not exist.", nil, persistence.Denied, []string{"check the credentials", "The key ***** does not exist"}},
		{403, "SignatureDoesNotMatch", "with secret " + secret + " and token " + session, nil, persistence.Denied, []string{"check the credentials"}},
		{400, "ExpiredToken", "The provided token has expired.", nil, persistence.Denied, []string{"renew them", "request REQ7"}},
		{403, "RequestTimeTooSkewed", "too large", ahead, persistence.Unknown, []string{"this machine's clock is 20m", "behind that of the store", "NTP"}},
		{503, "SlowDown", "Reduce your request rate.", nil, persistence.Throttled, []string{"raise ha.heartbeatInterval"}},
		{503, "SlowDown", "Reduce your request rate.", nil, persistence.Unknown, nil}, // waiting helps
		{429, "", "", nil, persistence.Throttled, []string{"raise ha.heartbeatInterval"}},
		{503, "ServiceUnavailable", "try later", nil, persistence.Unknown, []string{"passes by itself"}},
		{500, "InternalError", "oops", nil, persistence.Unknown, []string{"oops (InternalError)"}},
		{502, "", "", nil, persistence.Unknown, nil},
		{301, "PermanentRedirect", "elsewhere", region, persistence.Unsupported, []string{"the bucket is in the region eu-central-1, not us-west-2: set store.s3.region: eu-central-1"}},
		{301, "", "", region, persistence.Unsupported, []string{"set store.s3.region: eu-central-1"}},
		{400, "AuthorizationHeaderMalformed", "the region 'us-west-2' is wrong; expecting 'eu-central-1'", nil, persistence.Unsupported, []string{"expecting 'eu-central-1'", "set store.s3.region"}},
		{307, "TemporaryRedirect", "elsewhere", nil, persistence.Unknown, []string{"a new bucket"}},
		{501, "NotImplemented", "A header you provided implies functionality that is not implemented", nil, persistence.Unsupported, []string{"conditional writes"}},
		{412, "PreconditionFailed", "did not hold", nil, persistence.Conflict, nil},
		{409, "ConditionalRequestConflict", "a conflicting operation", nil, persistence.Conflict, nil},
		{409, "", "", nil, persistence.Conflict, nil},
		{507, "", "", nil, persistence.Full, []string{"quota"}},
		{403, "QuotaExceeded", "full", nil, persistence.Full, []string{"quota"}},
		{400, "KMS.DisabledException", "key is disabled", nil, persistence.Denied, []string{"store.s3.kmsKeyId"}},
		{404, "", "", nil, persistence.Unknown, []string{"not the answer of a store"}},
		{418, "", "", nil, persistence.Unknown, nil},
	} {
		t.Run(fmt.Sprintf("%d %s", tc.status, tc.code), func(t *testing.T) {
			st := s.open(t, s3.Options{Region: "us-west-2"})
			s.through(reply(tc.status, tc.code, tc.message, tc.header))
			_, err := st.CAS(t.Context(), `"v"`, []byte("u1.1"))
			if !errors.Is(err, tc.want) {
				t.Errorf("CAS: %v; want %v", err, tc.want)
			}
			for _, w := range tc.words {
				if !strings.Contains(fmt.Sprint(err), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			noSecrets(t, err)
			// No reply of these is an outcome that a reader could act upon.
			if _, err := st.Read(t.Context()); errors.Is(err, persistence.Torn) || err == nil || (errors.Is(err, persistence.Absent) && tc.code != "NoSuchBucket") {
				t.Errorf("read: %v", err)
			}
		})
	}
}

// The action and what it was about, for each kind of request.
func TestDeniedActions(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	s.through(reply(403, "AccessDenied", "Access Denied", nil))
	_, readErr := st.Read(t.Context())
	_, listErr := st.List(t.Context(), "nodes/", "")
	_, getErr := st.Get(t.Context(), "nodes/x")
	for want, err := range map[string]error{
		"s3:GetObject on s3://planes/a/plane/lease":      readErr,
		"s3:GetObject on s3://planes/a/plane/nodes/x":    getErr,
		"s3:ListBucket on s3://planes/a/plane/nodes/":    listErr,
		"s3:DeleteObject on s3://planes/a/plane/nodes/x": st.Delete(t.Context(), "nodes/x"),
		"s3:PutObject on s3://planes/a/plane/nodes/x":    st.Put(t.Context(), "nodes/x", strings.NewReader("x"), 1),
		"s3:ListBucket on arn:aws:s3:::planes":           st.Check(t.Context()),
	} {
		if !errors.Is(err, persistence.Denied) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want Denied, %q", err, want)
		}
		noSecrets(t, err)
	}
}

func TestCheck(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	if err := st.Check(t.Context()); err != nil {
		t.Errorf("a good bucket: %v", err)
	}
	if empty, err := st.Empty(t.Context()); !empty || err != nil {
		t.Errorf("check left something: %t, %v", empty, err)
	}
	// Read-only: listing goes, writing does not.
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		if r.Method == http.MethodPut {
			reply(403, "AccessDenied", "Access Denied", nil)(w, r, s3)
			return
		}
		s3.ServeHTTP(w, r)
	})
	if err := st.Check(t.Context()); !errors.Is(err, persistence.Denied) {
		t.Errorf("not writable: %v; want Denied", err)
	}
	// What passes by itself must not end a starting node.
	s.through(reply(503, "SlowDown", "slow", nil))
	if err := st.Check(t.Context()); !errors.Is(err, persistence.Unknown) {
		t.Errorf("throttled: %v; want Unknown", err)
	}
	s.Close()
	if err := st.Check(t.Context()); !errors.Is(err, persistence.Unknown) || !strings.Contains(err.Error(), "check store.s3.endpoint") {
		t.Errorf("nobody there: %v; want Unknown, and what to check", err)
	}
}

// A node whose clock is off is told, and works: the SDK signs with the
// server's time once it was refused.
func TestClockSkew(t *testing.T) {
	s := serve(t)
	const off = 20*time.Minute + 30*time.Second
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		now := time.Now().Add(off)
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || now.Sub(signed).Abs() > 15*time.Minute {
			reply(403, "RequestTimeTooSkewed", "The difference is too large.", nil)(w, r, s3)
			return
		}
		r.Header.Set("X-Amz-Date", time.Now().UTC().Format("20060102T150405Z")) // gofakes3 has a limit too
		s3.ServeHTTP(w, r)
	})
	st := s.open(t, s3.Options{})
	if err := st.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := st.Init(t.Context(), []byte("u1.0")); err != nil {
		t.Errorf("init: %v", err)
	}
	if w := st.Limits().Warnings; len(w) != 1 || !strings.Contains(w[0], "clock is 20m") || !strings.Contains(w[0], "behind") {
		t.Errorf("warnings %q; want one about the clock", w)
	}
}

func TestOptions(t *testing.T) {
	serve(t) // for its environment
	for name, tc := range map[string]struct {
		bucket string
		opts   s3.Options
		want   string
	}{
		"no bucket":           {"", s3.Options{}, "is not the name of a bucket"},
		"multi-region":        {"mfzwi23gnjvgw.mrap", s3.Options{}, "access point"},
		"no URL":              {"b", s3.Options{Endpoint: "minio:9000"}, "is not a URL of a server"},
		"credentials in it":   {"b", s3.Options{Endpoint: "https://" + accessKey + ":" + secret + "@minio"}, "credentials do not belong there"},
		"no such authorities": {"b", s3.Options{CAFile: "/nowhere/ca.pem"}, "correct store.s3.caFile"},
		"no certificate":      {"b", s3.Options{CAFile: "/dev/null"}, "holds no certificate"},
		"no such profile":     {"b", s3.Options{Profile: "nobody"}, "store.s3.profile"},
	} {
		st, err := s3.Open(tc.bucket, prefix, tc.opts)
		if !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want Unsupported, %q", name, err, tc.want)
		}
		if st != nil {
			t.Errorf("%s: opened", name)
			_ = st.Close()
		}
		noSecrets(t, err)
	}
	for endpoint, want := range map[string]string{
		"https://s3.eu-central-003.backblazeb2.com": "Backblaze B2",
		"https://storage.googleapis.com":            "Google Cloud Storage",
	} {
		st, err := s3.Open("b", "p", s3.Options{Endpoint: endpoint, Credentials: keys})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Check(t.Context()); !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", endpoint, err)
		}
		_ = st.Close()
	}
}

func TestLimits(t *testing.T) {
	serve(t)
	for endpoint, want := range map[string]persistence.Limits{
		"": {URL: "s3://b/p", Kind: "s3", PollDivisor: 1},
		"https://0123.r2.cloudflarestorage.com": {
			URL: "s3://b/p?endpoint=https%3A%2F%2F0123.r2.cloudflarestorage.com", Kind: "s3", PollDivisor: 1, MinBeat: 2 * time.Second,
		},
		"http://minio.example.org": {
			URL: "s3://b/p?endpoint=http%3A%2F%2Fminio.example.org", Kind: "s3", PollDivisor: 1,
			Warnings: []string{"minio.example.org is not encrypted: who is on the way can read and change what is stored; use https"},
		},
	} {
		st, err := s3.Open("b", "p", s3.Options{Endpoint: endpoint, Credentials: keys})
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Limits(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %+v, want %+v", endpoint, got, want)
		}
		_ = st.Close()
	}
}
