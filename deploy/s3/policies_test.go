// Package s3_test holds the policies of this directory against what nodes
// really ask of a bucket, and against what must be refused to everybody.
package s3_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

const (
	bucket = "planes"
	prefix = "prod/web"
)

// asked is a request as S3's authorisation sees it.
type asked struct {
	action, resource string
	context          map[string]string // condition keys; those missing are null
}

// settings are the bucket's settings by the query that asks for them.
var settings = map[string]string{
	"versioning":  "s3:GetBucketVersioning",
	"lifecycle":   "s3:GetLifecycleConfiguration",
	"object-lock": "s3:GetBucketObjectLockConfiguration",
	"replication": "s3:GetReplicationConfiguration",
	"encryption":  "s3:GetEncryptionConfiguration",
}

// translate says what a request needs, after "Required permissions" of the S3
// API reference.
func translate(t *testing.T, r *http.Request) asked {
	t.Helper()
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name != bucket {
		t.Errorf("%s %s goes to another bucket", r.Method, r.URL)
	}
	q := r.URL.Query()
	a := asked{resource: "arn:aws:s3:::" + bucket, context: map[string]string{"aws:SecureTransport": "true"}}
	for header, condition := range map[string]string{"If-Match": "s3:if-match", "If-None-Match": "s3:if-none-match"} {
		if v := r.Header.Get(header); v != "" && r.Method == http.MethodPut {
			a.context[condition] = v
		}
	}
	if key == "" {
		for query, action := range settings {
			if r.Method == http.MethodGet && q.Has(query) {
				a.action = action
			}
		}
		if r.Method == http.MethodHead || q.Get("list-type") == "2" {
			a.action = "s3:ListBucket"
		}
		if r.Method == http.MethodGet && q.Has("uploads") {
			a.action = "s3:ListBucketMultipartUploads"
		}
		if r.Method == http.MethodHead || r.Method == http.MethodGet {
			if q.Has("prefix") {
				a.context["s3:prefix"] = q.Get("prefix")
			}
		}
	} else {
		a.resource += "/" + key
		switch {
		case r.Method == http.MethodGet, r.Method == http.MethodHead:
			a.action = "s3:GetObject"
		case r.Method == http.MethodPut, r.Method == http.MethodPost && (q.Has("uploads") || q.Has("uploadId")):
			a.action = "s3:PutObject"
		case r.Method == http.MethodDelete && q.Has("uploadId"):
			a.action = "s3:AbortMultipartUpload"
		case r.Method == http.MethodDelete:
			a.action = "s3:DeleteObject"
		}
	}
	if a.action == "" {
		t.Errorf("%s %s: which permission that needs is not known here", r.Method, r.URL)
	}
	return a
}

// failing is content that breaks off.
type failing struct{ left int }

func (f *failing) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, errors.New("broke off")
	}
	n := min(len(p), f.left)
	f.left -= n
	return n, nil
}

// record does everything that nodes do with a bucket, and what store verify
// and doctor do besides, and returns the requests of both.
func record(t *testing.T) (nodes, inspection []asked) {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	backend := s3mem.New()
	must(t, backend.CreateBucket(bucket))
	fake := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.StdLog(log.New(io.Discard, "", 0)))).Server()
	var mu sync.Mutex
	into := &nodes
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		*into = append(*into, translate(t, r))
		mu.Unlock()
		fake.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	store, err := s3.Open(bucket, prefix, s3.Options{
		Endpoint: srv.URL, Region: "us-east-1", PartSize: 5 << 20,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
	})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })

	ctx := t.Context()
	must(t, store.Check(ctx))
	if _, err := store.Read(ctx); !errors.Is(err, persistence.Absent) {
		t.Fatalf("an empty location: %v", err)
	}
	use(t, store)
	scratch, err := store.Sub(".verify-1")
	must(t, err)
	use(t, scratch)
	must(t, scratch.RemoveAll(ctx))

	const large = 6 << 20
	must(t, store.Put(ctx, "artifacts/large", strings.NewReader(strings.Repeat("x", large)), large))
	if err := store.Put(ctx, "artifacts/broken", &failing{left: large}, -1); err == nil {
		t.Fatal("content that broke off was stored")
	}

	sweep, err := store.Sweep(ctx, "artifacts/", 0, true)
	must(t, err)
	if len(sweep) != 0 {
		t.Fatalf("swept %v: an upload has a day", sweep)
	}

	mu.Lock()
	into = &inspection
	mu.Unlock()
	store.Inspect(ctx)
	mu.Lock()
	defer mu.Unlock()
	return nodes, inspection
}

// use calls each method of the contract.
func use(t *testing.T, store persistence.Store) {
	t.Helper()
	ctx := t.Context()
	_, err := store.Empty(ctx)
	must(t, err)
	must(t, store.Init(ctx, []byte("u1.a")))
	snap, err := store.Read(ctx)
	must(t, err)
	_, err = store.Read(ctx) // not modified
	must(t, err)
	_, err = store.CAS(ctx, snap.Version, []byte("u1.b"))
	must(t, err)
	must(t, store.Put(ctx, "nodes/n1aaaaaa", strings.NewReader("{}"), 2))
	rc, err := store.Get(ctx, "nodes/n1aaaaaa")
	must(t, err)
	must(t, rc.Close())
	_, err = store.List(ctx, "nodes/", "nodes/n0")
	must(t, err)
	must(t, store.Delete(ctx, "nodes/n1aaaaaa"))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A policy, as far as ours use the language.
type policy struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid, Effect, Principal string
	Action, Resource       words
	Condition              map[string]map[string]words
}

// words is a string or a list of them.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// matches reports whether one of the words, in which * is any text, is s.
func (w words) matches(s string) bool {
	return slices.ContainsFunc(w, func(pattern string) bool {
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(s)
	})
}

// applies evaluates a statement. Several keys, and several operators, are all
// to hold; several values are alternatives.
func (s statement) applies(t *testing.T, a asked) bool {
	t.Helper()
	if !s.Action.matches(a.action) || !s.Resource.matches(a.resource) {
		return false
	}
	for op, keys := range s.Condition {
		for key, values := range keys {
			got, there := a.context[key]
			var holds bool
			switch op {
			case "Null":
				holds = values.matches(map[bool]string{true: "false", false: "true"}[there])
			case "StringLike", "Bool":
				holds = there && values.matches(got)
			default:
				t.Fatalf("%s: the operator %s is not known here", s.Sid, op)
			}
			if !holds {
				return false
			}
		}
	}
	return true
}

// decide returns the Sid of the statement that has the effect on a request.
func (p policy) decide(t *testing.T, effect string, a asked) string {
	t.Helper()
	for _, s := range p.Statement {
		if s.Effect == effect && s.applies(t, a) {
			return s.Sid
		}
	}
	return ""
}

func (p policy) actions() []string {
	set := map[string]bool{}
	for _, s := range p.Statement {
		for _, a := range s.Action {
			set[a] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// read decodes a file of this directory strictly, with the placeholders filled in.
func read(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	text := strings.NewReplacer("BUCKET", bucket, "PREFIX", prefix).Replace(string(b))
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func readPolicy(t *testing.T, file string) policy {
	t.Helper()
	var p policy
	read(t, file, &p)
	if p.Version != "2012-10-17" {
		t.Errorf("%s is of version %q", file, p.Version)
	}
	return p
}

func actionsOf(requests []asked) []string {
	set := map[string]bool{}
	for _, a := range requests {
		set[a.action] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func TestNodesMayDoWhatTheyNeedAndNoMore(t *testing.T) {
	nodes, inspection := record(t)
	node, bucketWide := readPolicy(t, "node-policy.json"), readPolicy(t, "bucket-policy.json")
	for _, a := range nodes {
		if node.decide(t, "Allow", a) == "" {
			t.Errorf("node-policy.json does not allow %+v", a)
		}
		if sid := bucketWide.decide(t, "Deny", a); sid != "" {
			t.Errorf("bucket-policy.json: %s denies %+v", sid, a)
		}
	}
	if got, want := node.actions(), actionsOf(nodes); !slices.Equal(got, want) {
		t.Errorf("node-policy.json allows %v; nodes ask for %v", got, want)
	}

	look := readPolicy(t, "inspect-policy.json")
	for _, a := range inspection {
		if node.decide(t, "Allow", a) == "" && look.decide(t, "Allow", a) == "" {
			t.Errorf("looking at the bucket needs %+v, which no policy here allows", a)
		}
	}
	asks := slices.DeleteFunc(actionsOf(inspection), func(a string) bool { return slices.Contains(node.actions(), a) })
	if got := look.actions(); !slices.Equal(got, asks) {
		t.Errorf("inspect-policy.json allows %v; Inspect asks for %v", got, asks)
	}

	// S3 says of a missing object that it is missing only to those who may
	// list it; a node that is told "forbidden" instead never makes a plane.
	missing := asked{"s3:ListBucket", "arn:aws:s3:::" + bucket, map[string]string{"s3:prefix": prefix + "/lease"}}
	if node.decide(t, "Allow", missing) == "" {
		t.Error("a register that is missing would look forbidden")
	}
}

func TestWhatIsRefused(t *testing.T) {
	const arn = "arn:aws:s3:::" + bucket
	node, bucketWide := readPolicy(t, "node-policy.json"), readPolicy(t, "bucket-policy.json")
	secure := func(more ...string) map[string]string {
		m := map[string]string{"aws:SecureTransport": "true"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for name, a := range map[string]asked{
		"an unconditional write of the register": {"s3:PutObject", arn + "/" + prefix + "/lease", secure()},
		"its removal":                            {"s3:DeleteObject", arn + "/" + prefix + "/lease", secure()},
		"the removal of a version of it":         {"s3:DeleteObjectVersion", arn + "/" + prefix + "/lease", secure()},
		"a connection in clear":                  {"s3:GetObject", arn + "/" + prefix + "/lease", map[string]string{"aws:SecureTransport": "false"}},
	} {
		if bucketWide.decide(t, "Deny", a) == "" {
			t.Errorf("bucket-policy.json does not deny %s", name)
		}
	}
	for name, a := range map[string]asked{
		"a renewal":                   {"s3:PutObject", arn + "/" + prefix + "/lease", secure("s3:if-match", `"etag"`)},
		"a birth":                     {"s3:PutObject", arn + "/" + prefix + "/lease", secure("s3:if-none-match", "*")},
		"an object beside it":         {"s3:PutObject", arn + "/" + prefix + "/view", secure()},
		"another plane's register":    {"s3:PutObject", arn + "/other/lease", secure()},
		"the removal of other things": {"s3:DeleteObject", arn + "/" + prefix + "/requests/x", secure()},
	} {
		if sid := bucketWide.decide(t, "Deny", a); sid != "" {
			t.Errorf("bucket-policy.json: %s denies %s", sid, name)
		}
	}
	for name, a := range map[string]asked{
		"another prefix":           {"s3:GetObject", arn + "/other/lease", secure()},
		"a prefix that begins so":  {"s3:PutObject", arn + "/" + prefix + "2/lease", secure()},
		"a listing of everything":  {"s3:ListBucket", arn, secure()},
		"a listing of another one": {"s3:ListBucket", arn, secure("s3:prefix", "other/")},
		"the bucket's policy":      {"s3:PutBucketPolicy", arn, secure()},
	} {
		if sid := node.decide(t, "Allow", a); sid != "" {
			t.Errorf("node-policy.json: %s allows %s", sid, name)
		}
	}
}

// No rule may ever remove a current object: the register looks old to a
// lifecycle rule only if nobody renews it, which is when it is needed.
func TestLifecycleRemovesNothingThatIsCurrent(t *testing.T) {
	var lifecycle struct {
		Rules []struct {
			ID, Status                     string
			Filter                         struct{ Prefix string }
			AbortIncompleteMultipartUpload struct{ DaysAfterInitiation int }
			NoncurrentVersionExpiration    struct{ NoncurrentDays int }
			Expiration                     struct{ ExpiredObjectDeleteMarker bool } // and neither Days nor Date
		}
	}
	read(t, "lifecycle.json", &lifecycle)
	var aborts, expires bool
	for _, r := range lifecycle.Rules {
		if r.Status != "Enabled" || r.Filter.Prefix != prefix+"/" {
			t.Errorf("%s: status %s, prefix %q", r.ID, r.Status, r.Filter.Prefix)
		}
		aborts = aborts || r.AbortIncompleteMultipartUpload.DaysAfterInitiation > 0
		expires = expires || r.NoncurrentVersionExpiration.NoncurrentDays > 0
	}
	if !aborts || !expires {
		t.Errorf("unfinished uploads end: %v; old versions end: %v", aborts, expires)
	}
}

// docs/s3.md explains each statement and rule by its name.
func TestEachStatementIsExplained(t *testing.T) {
	page, err := os.ReadFile("../../docs/s3.md")
	must(t, err)
	explained := func(name string) {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/s3.md does not explain %s", name)
		}
	}
	for _, file := range []string{"node-policy.json", "inspect-policy.json", "bucket-policy.json"} {
		explained("deploy/s3/" + file)
		for _, s := range readPolicy(t, file).Statement {
			explained(s.Sid)
		}
	}
	var lifecycle struct{ Rules []struct{ ID string } }
	b, err := os.ReadFile("lifecycle.json")
	must(t, err)
	must(t, json.Unmarshal(b, &lifecycle))
	explained("deploy/s3/lifecycle.json")
	for _, r := range lifecycle.Rules {
		explained(r.ID)
	}
}
