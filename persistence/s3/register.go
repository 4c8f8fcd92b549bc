package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/understudy-ha/understudy/persistence"
)

// registerKey is the register's object beneath the location.
const registerKey = "lease"

// Read implements persistence.Register. What a former GET returned is asked
// for by its version: "not modified" is a read like any other, and is what
// nearly all of a standby's reads come to.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	var none persistence.Snapshot
	if err := s.ready(ctx, "read"); err != nil {
		return none, err
	}
	key := s.root + registerKey
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &key}
	last := s.last.Load()
	if last != nil {
		in.IfNoneMatch = aws.String(string(last.Version))
	}
	out, err := s.register.GetObject(ctx, in)
	if last != nil && isNotModified(err, last.Version) {
		return clone(*last), nil
	}
	if err != nil {
		return none, s.fail(ctx, getObject, key, err)
	}
	defer out.Body.Close()
	// One byte more than a value may have tells a longer object; the rest of
	// that one is nothing to wait for.
	val, err := io.ReadAll(io.LimitReader(out.Body, persistence.MaxValueLen+1))
	if err != nil {
		return none, s.fail(ctx, getObject, key, err)
	}
	v, err := version(out.ETag)
	if err != nil {
		return none, fmt.Errorf("%w (reading %s)", err, s.url(registerKey))
	}
	if err := judge(val); err != nil {
		return none, fmt.Errorf("%w: %s", err, s.url(registerKey))
	}
	snap := persistence.Snapshot{Version: v, Value: val}
	s.last.Store(&snap)
	return clone(snap), nil
}

// judge tells what can not be a value, lest somebody else's object, or an error
// that came as a success, passes for one.
func judge(val []byte) error {
	if bytes.HasPrefix(val, []byte("<")) && bytes.Contains(val, []byte("<Error>")) {
		return fmt.Errorf("%w: an error came with the status of a success in place of the register", persistence.Unknown)
	}
	foreign := func(c byte) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '.' && c != '-'
	}
	if len(val) == 0 || len(val) > persistence.MaxValueLen || slices.ContainsFunc(val, foreign) {
		return fmt.Errorf("%w: this object is no register that this version can read; "+
			"look who wrote it; with all nodes stopped, 'understudy store repair' puts a value in its place", persistence.Torn)
	}
	return nil
}

func clone(s persistence.Snapshot) persistence.Snapshot {
	s.Value = slices.Clone(s.Value)
	return s
}

// isNotModified reports whether the server says that the object still has
// version v.
func isNotModified(err error, v persistence.Version) bool {
	re := response(err)
	if re == nil || re.HTTPStatusCode() != http.StatusNotModified {
		return false
	}
	etag := re.Response.Header.Get("ETag")
	return etag == "" || strings.Trim(etag, `"`) == strings.Trim(string(v), `"`)
}

// CAS implements persistence.Register: one PUT with If-Match, sent once.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	// Without a condition, or with one that always holds, it would be an
	// unconditional write.
	if !legal(string(old)) {
		return "", fmt.Errorf("%w: %q is no version of %s", persistence.Conflict, old, s.url(registerKey))
	}
	return s.swap(ctx, val, func(in *s3.PutObjectInput) { in.IfMatch = aws.String(string(old)) })
}

// Init implements persistence.Register: one PUT with If-None-Match: *.
func (s *Store) Init(ctx context.Context, val []byte) error {
	_, err := s.swap(ctx, val, func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") })
	return err
}

// swap writes the register under a condition.
func (s *Store) swap(ctx context.Context, val []byte, condition func(*s3.PutObjectInput)) (persistence.Version, error) {
	if err := s.ready(ctx, "write"); err != nil {
		return "", err
	}
	if len(val) == 0 || len(val) > persistence.MaxValueLen {
		return "", fmt.Errorf("%w: a value of %d bytes", persistence.Unsupported, len(val))
	}
	key := s.root + registerKey
	out, err := s.register.PutObject(ctx, s.write(key, val, condition))
	if err != nil {
		err = s.fail(ctx, putObject, key, err)
		if errors.Is(err, errNoSuchKey) { // If-Match on nothing
			return "", fmt.Errorf("%w: there is no register at %s", persistence.Conflict, s.url(registerKey))
		}
		return "", err
	}
	return version(out.ETag)
}

// write is a PUT of a small object.
func (s *Store) write(key string, content []byte, options ...func(*s3.PutObjectInput)) *s3.PutObjectInput {
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key,
		Body: bytes.NewReader(content), ContentLength: aws.Int64(int64(len(content))),
		ServerSideEncryption: types.ServerSideEncryption(s.sse), SSEKMSKeyId: s.kmsKey, BucketKeyEnabled: s.bucketKey,
	}
	for _, o := range options {
		o(in)
	}
	return in
}

// version is what an ETag says, as it came.
func version(etag *string) (persistence.Version, error) {
	if !legal(aws.ToString(etag)) {
		return "", fmt.Errorf("%w: the reply names no usable ETag (%.80q), so there is nothing to compare with; "+
			"if this lasts, look at what lies between here and the store, or use another store", persistence.Unknown, aws.ToString(etag))
	}
	return persistence.Version(*etag), nil
}

// legal reports whether v can be sent as the one strong ETag of a condition.
func legal(v string) bool {
	if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	return v != "" && v != "*" && len(v) < 256 && !strings.ContainsFunc(v, func(c rune) bool {
		return c <= ' ' || c > '~' || c == '"' || c == ',' || c == '\\'
	}) && !strings.HasPrefix(v, "W/")
}
