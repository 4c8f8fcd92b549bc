package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-ha/understudy/persistence"
)

// Options adjust a Store; the zero value is AWS with the default credential
// chain, in the region that the environment or the profile names.
type Options struct {
	// Region of the bucket. Empty: that of the environment or the profile,
	// else us-east-1, which most other services take for theirs.
	Region string
	// Endpoint is the URL of another service than AWS. Empty: that of the
	// environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) or the profile.
	Endpoint string
	// PathStyle puts the bucket into the path of a request, not into the name
	// of the host. Nil: when there is an endpoint.
	PathStyle *bool
	// SSE asks for encryption at rest: "AES256" (keys of S3), "aws:kms" or
	// "aws:kms:dsse". Empty: what the bucket does by itself.
	SSE string
	// KMSKeyID is the key for aws:kms. Empty: the account's own for S3.
	KMSKeyID string
	// Profile of the shared AWS configuration. Empty: AWS_PROFILE or default.
	Profile string
	// CAFile is a PEM file of the certificate authorities to trust instead of
	// the system's. Empty: AWS_CA_BUNDLE, else the system's.
	CAFile string
	// Count is told of every request that was sent, by what it asked for:
	// PUT, GET, GET-304 (answered "not modified"), LIST, HEAD, DELETE or POST
	// (of multi-part uploads). It is called from any goroutine and must not
	// block. May be nil.
	Count func(op string)
	// Credentials replace the default chain. May be nil.
	Credentials aws.CredentialsProvider
	// PartSize is the size of the parts of a large object, in bytes, and so
	// the memory that a Put takes. Zero: 8 MiB. S3 takes no less than 5 MiB.
	PartSize int64

	now func() time.Time // of tests
}

// Store is a location in a bucket. Open makes one.
type Store struct {
	*link
	root   string // "prefix/", or empty for a whole bucket; "prefix/.name/" for a Sub
	sub    bool
	closed atomic.Bool
	last   atomic.Pointer[persistence.Snapshot] // what a GET returned, for If-None-Match
}

var (
	_ persistence.Store     = (*Store)(nil)
	_ persistence.Checker   = (*Store)(nil)
	_ persistence.Inspector = (*Store)(nil)
)

// Open returns a handle on the keys beneath prefix in a bucket. It reads the
// local AWS configuration but sends nothing, so it succeeds on a bucket that is
// missing; Check tells. The error is Unsupported: options that can not work.
func Open(bucket, prefix string, opts Options) (*Store, error) {
	if bucket == "" || strings.Contains(bucket, "/") {
		return nil, fmt.Errorf("%w: %q is not the name of a bucket", persistence.Unsupported, bucket)
	}
	if strings.HasPrefix(bucket, "arn:") || strings.HasSuffix(bucket, ".mrap") {
		return nil, fmt.Errorf("%w: %s is an access point; one of several regions has no atomic conditional writes, so name the bucket itself",
			persistence.Unsupported, bucket)
	}
	root := strings.Trim(prefix, "/")
	if root != "" {
		root += "/"
	}
	if len(root) > maxKeyLen/2 {
		return nil, fmt.Errorf("%w: a prefix of %d bytes leaves no room for keys; use a shorter one", persistence.Unsupported, len(root))
	}
	l, err := newLink(bucket, opts)
	if err != nil {
		return nil, err
	}
	return &Store{link: l, root: root}, nil
}

// url names a key of this location for people.
func (s *Store) url(key string) string { return "s3://" + s.bucket + "/" + s.root + key }

// ready fails when the handle is closed or ctx has ended.
func (s *Store) ready(ctx context.Context, what string) error {
	if s.closed.Load() || s.ctx.Err() != nil {
		return fmt.Errorf("%w: the store is closed", persistence.Unknown)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s: %w", persistence.Unknown, what, err)
	}
	return nil
}

// Check reports whether a plane can live here: the bucket is there, in the
// region that was named, can be listed, and takes a conditional write and a
// removal. See persistence.Checker.
func (s *Store) Check(ctx context.Context) error {
	if err := s.ready(ctx, "check"); err != nil {
		return err
	}
	if why := knownBad(s.endpoint); why != "" {
		return fmt.Errorf("%w: %s", persistence.Unsupported, why)
	}
	if _, err := s.Empty(ctx); err != nil {
		return err
	}
	err := s.probe(ctx)
	if errors.Is(err, errSkew) {
		err = s.probe(ctx) // signed with the server's time now
	}
	return err
}

// probe writes an object and removes it: permissions differ by action, so that
// only doing tells.
func (s *Store) probe(ctx context.Context) error {
	key := s.root + ".check-" + strings.ToLower(rand.Text()[:16])
	_, err := s.register.PutObject(ctx, s.write(key, []byte("understudy\n"), func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") }))
	if err != nil {
		return s.fail(ctx, putObject, key, err)
	}
	return s.remove(ctx, key)
}

// Empty implements persistence.Store. An empty object named like the prefix
// itself, which consoles make for a folder, does not count.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := s.ready(ctx, "list"); err != nil {
		return false, err
	}
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &s.root, Delimiter: aws.String("/")}
	for {
		out, err := s.objects.ListObjectsV2(ctx, in)
		if err != nil {
			return false, s.fail(ctx, listBucket, s.root, err)
		}
		for _, o := range out.Contents {
			if key := strings.TrimPrefix(aws.ToString(o.Key), s.root); key != "" && !hidden(key) {
				return false, nil
			}
		}
		for _, p := range out.CommonPrefixes {
			if !hidden(strings.TrimPrefix(aws.ToString(p.Prefix), s.root)) {
				return false, nil
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return true, nil
		}
		if aws.ToString(out.NextContinuationToken) == "" {
			return false, fmt.Errorf("%w: %s: the listing was cut off and can not be continued", persistence.Unknown, s.url(""))
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

// Sub implements persistence.Store. It shares the connections and credentials
// of the handle it comes from, and ends with it.
func (s *Store) Sub(name string) (persistence.Store, error) {
	if !hidden(name) || !legalSegment(name[1:]) || name == ".." {
		return nil, fmt.Errorf("%w: scratch location %q: the name must be '.' and then one segment of a key",
			persistence.Unsupported, name)
	}
	return &Store{link: s.link, root: s.root + name + "/", sub: true}, nil
}

// RemoveAll implements persistence.Store.
func (s *Store) RemoveAll(ctx context.Context) error {
	if !s.sub {
		return fmt.Errorf("%w: %s is not a scratch location; remove it by hand if you mean to", persistence.Unsupported, s.url(""))
	}
	if err := s.ready(ctx, "remove"); err != nil {
		return err
	}
	for {
		// From the beginning each time: what was listed is gone.
		out, err := s.objects.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &s.root})
		if err != nil {
			return s.fail(ctx, listBucket, s.root, err)
		}
		for _, o := range out.Contents {
			if err := s.remove(ctx, aws.ToString(o.Key)); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
	}
}

// Limits implements persistence.Store.
func (s *Store) Limits() persistence.Limits {
	l := persistence.Limits{URL: strings.TrimSuffix(s.url(""), "/"), Kind: "s3", PollDivisor: 1, Warnings: s.warnings()}
	if s.endpoint != nil {
		l.URL += "?endpoint=" + url.QueryEscape(s.endpoint.String())
		if belongsTo(s.endpoint, "r2.cloudflarestorage.com") {
			l.MinBeat = 2 * time.Second // R2 takes one write per key and second
		}
	}
	return l
}

// Close implements persistence.Store. It ends what is under way in the
// background; closing the handle of a scratch location closes that one only.
func (s *Store) Close() error {
	s.closed.Store(true)
	if !s.sub {
		s.shut()
	}
	return nil
}

// remove deletes one object, ours or not.
func (s *Store) remove(ctx context.Context, key string) error {
	_, err := s.objects.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
	if err == nil {
		return nil
	}
	if err = s.fail(ctx, deleteObject, key, err); errors.Is(err, errNoSuchKey) {
		return nil
	}
	return err
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }
