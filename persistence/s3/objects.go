package s3

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	pageSize     = 1000
	maxKeyLen    = 1024
	maxParts     = 10000   // of one upload, S3's limit
	defaultPart  = 8 << 20 // bytes
	abortTimeout = 10 * time.Second
)

func legalSegment(seg string) bool {
	return seg != "" && !strings.ContainsFunc(seg, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-'
	})
}

// isKey reports whether key can name an object of ours.
func isKey(key string) bool {
	first := true
	for seg := range strings.SplitSeq(key, "/") {
		if !legalSegment(seg) || hidden(seg) || (first && seg == registerKey) {
			return false
		}
		first = false
	}
	return true
}

func (s *Store) checkKey(key string) error {
	if !isKey(key) || len(s.root)+len(key) > maxKeyLen {
		return fmt.Errorf("%w: %.200q is not the key of an object", persistence.Unsupported, key)
	}
	return nil
}

// Put implements persistence.Objects. What fits into one part is one PUT; more
// is a multi-part upload, one part in memory at a time, which shows once it is
// complete and is removed if it does not get there.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := s.ready(ctx, "put "+key); err != nil {
		return err
	}
	if err := s.checkKey(key); err != nil {
		return err
	}
	p := newParts(key, r, size, s.partSize)
	data, last, err := p.next()
	if err != nil {
		return err
	}
	full := s.root + key
	if !last {
		return s.upload(ctx, full, p, data)
	}
	if _, err := s.writes.PutObject(ctx, s.write(full, data)); err != nil {
		return s.fail(ctx, putObject, full, err)
	}
	return nil
}

// upload stores an object of several parts, the first of which is data.
func (s *Store) upload(ctx context.Context, key string, p *parts, data []byte) error {
	created, err := s.writes.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: &key,
		ServerSideEncryption: types.ServerSideEncryption(s.sse), SSEKMSKeyId: s.kmsKey, BucketKeyEnabled: s.bucketKey,
	})
	if err != nil {
		return s.fail(ctx, putObject, key, err)
	}
	id := aws.ToString(created.UploadId)
	done, err := s.sendParts(ctx, key, id, p, data)
	if err == nil {
		_, err = s.writes.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.bucket, Key: &key, UploadId: &id,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
		})
		if err == nil {
			return nil
		}
		err = s.fail(ctx, putObject, key, err)
	}
	s.abort(ctx, key, id)
	return err
}

func (s *Store) sendParts(ctx context.Context, key, id string, p *parts, data []byte) (done []types.CompletedPart, err error) {
	for last := false; ; {
		n := aws.Int32(int32(len(done) + 1)) //nolint:gosec // at most maxParts
		if *n > maxParts {
			return nil, fmt.Errorf("%w: %s has more than %d parts of %d bytes; announce its size, so that parts are made larger",
				persistence.Unsupported, p.key, maxParts, p.size)
		}
		out, err := s.writes.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.bucket, Key: &key, UploadId: &id, PartNumber: n,
			Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		})
		if err != nil {
			return nil, s.fail(ctx, putObject, key, err)
		}
		done = append(done, types.CompletedPart{ETag: out.ETag, PartNumber: n})
		if last {
			return done, nil
		}
		if data, last, err = p.next(); err != nil {
			return nil, err
		}
	}
}

// abort removes the parts of an upload, which would be paid for but not seen.
// It is waited for while the caller has time; what it misses is left to the
// bucket's lifecycle rule, see docs.
func (s *Store) abort(ctx context.Context, key, id string) {
	s.behind(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, abortTimeout)
		defer cancel()
		_, _ = s.objects.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: &id})
	})
}

// parts cuts what a Put is given into parts.
type parts struct {
	key  string
	r    *bufio.Reader
	want int64 // size of the whole, -1 when unknown
	got  int64
	size int64 // of a part
	buf  bytes.Buffer
}

func newParts(key string, r io.Reader, want, size int64) *parts {
	const mib = 1 << 20
	if least := (want/maxParts + mib) / mib * mib; least > size {
		size = least
	}
	p := &parts{key: key, r: bufio.NewReader(r), want: want, size: size}
	if want >= 0 {
		p.buf.Grow(int(min(want, size)) + bytes.MinRead) // or it would double
	}
	return p
}

// next returns the next part, valid until the next call; the last may be
// shorter, or empty when it is the only one.
func (p *parts) next() (data []byte, last bool, err error) {
	p.buf.Reset()
	n, err := io.CopyN(&p.buf, p.r, p.size)
	if err == nil {
		_, err = p.r.Peek(1)
	}
	last = errors.Is(err, io.EOF)
	if err != nil && !last {
		return nil, false, fmt.Errorf("put %s: read its content: %w", p.key, err)
	}
	if p.got += n; p.want >= 0 && (p.got > p.want || (last && p.got < p.want)) {
		return nil, false, fmt.Errorf("put %s: its size was announced as %d bytes, but %d came", p.key, p.want, p.got)
	}
	return p.buf.Bytes(), last, nil
}

// Get implements persistence.Objects.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return s.get(ctx, key, 0)
}

func (s *Store) get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := s.ready(ctx, "get "+key); err != nil {
		return nil, err
	}
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	full := s.root + key
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &full}
	if offset > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.objects.GetObject(ctx, in)
	if re := response(err); offset > 0 && re != nil && re.HTTPStatusCode() == http.StatusRequestedRangeNotSatisfiable {
		return http.NoBody, nil // offset is the end of the object, or beyond
	}
	if err != nil {
		return nil, s.fail(ctx, getObject, full, err)
	}
	if offset > 0 && !strings.HasPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-", offset)) {
		_ = out.Body.Close()
		return nil, fmt.Errorf("%w: %s does not give parts of objects", persistence.Unsupported, s.url(""))
	}
	if aws.ToString(out.ETag) == "" { // every object has one; an error page has not
		_ = out.Body.Close()
		return nil, fmt.Errorf("%w: %s came without an ETag, so it is no object; look at what lies between here and the store",
			persistence.Unknown, s.url(key))
	}
	return &reader{s: s, ctx: ctx, key: full, body: out.Body}, nil
}

// reader is an open object.
type reader struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // the contract bounds each read by it
	key  string
	body io.ReadCloser
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil { // also for what has arrived already
		return 0, r.s.fail(r.ctx, getObject, r.key, err)
	}
	n, err := r.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.s.fail(r.ctx, getObject, r.key, err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error {
	_ = r.body.Close() // it was only read
	return nil
}

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	var page persistence.Page
	if err := s.ready(ctx, "list"); err != nil {
		return page, err
	}
	if hidden(prefix) || strings.HasPrefix(prefix, "/") || strings.Contains(prefix, "/.") || strings.Contains(prefix, "//") {
		return page, nil // no key of ours, and some servers refuse to look for one
	}
	if s.express {
		return s.listExpress(ctx, prefix, after)
	}
	for {
		out, err := s.objects.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
			Bucket: &s.bucket, Prefix: aws.String(s.root + prefix), StartAfter: aws.String(s.root + after),
		})
		if err != nil {
			return persistence.Page{}, s.fail(ctx, listBucket, s.root+prefix, err)
		}
		for _, o := range out.Contents {
			page.Items = s.collect(page.Items, o)
		}
		page.More = aws.ToBool(out.IsTruncated)
		if !page.More || len(page.Items) > 0 {
			return page, nil
		}
		if len(out.Contents) == 0 {
			return page, fmt.Errorf("%w: %s: an empty listing that says there is more", persistence.Unknown, s.url(prefix))
		}
		// Nothing but scratch areas and foreign keys: go on behind them.
		after = skip(strings.TrimPrefix(aws.ToString(out.Contents[len(out.Contents)-1].Key), s.root))
	}
}

// collect adds o if it is an object of ours.
func (s *Store) collect(items []persistence.Item, o types.Object) []persistence.Item {
	key, ok := strings.CutPrefix(aws.ToString(o.Key), s.root)
	if !ok || !isKey(key) {
		return items
	}
	return append(items, persistence.Item{Key: key, Size: aws.ToInt64(o.Size)})
}

// skip returns where to go on listing behind key: behind the whole of its
// scratch area if it lies in one.
func skip(key string) string {
	if area, _, ok := strings.Cut(key, "/"); ok && hidden(area) {
		return area + "0" // which is what comes after '/'
	}
	return key
}

// listExpress lists a directory bucket, which knows no order and no StartAfter,
// and only prefixes that end in a slash: everything is listed, then cut.
func (s *Store) listExpress(ctx context.Context, prefix, after string) (persistence.Page, error) {
	var page persistence.Page
	dir := s.root + prefix[:strings.LastIndexByte(prefix, '/')+1]
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &dir}
	for {
		out, err := s.objects.ListObjectsV2(ctx, in)
		if err != nil {
			return page, s.fail(ctx, listBucket, dir, err)
		}
		for _, o := range out.Contents {
			if key := strings.TrimPrefix(aws.ToString(o.Key), s.root); strings.HasPrefix(key, prefix) && key > after {
				page.Items = s.collect(page.Items, o)
			}
		}
		if !aws.ToBool(out.IsTruncated) || out.NextContinuationToken == nil {
			break
		}
		in.ContinuationToken = out.NextContinuationToken
	}
	slices.SortFunc(page.Items, func(a, b persistence.Item) int { return strings.Compare(a.Key, b.Key) })
	if len(page.Items) > pageSize {
		page.Items, page.More = page.Items[:pageSize], true
	}
	return page, nil
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.ready(ctx, "delete "+key); err != nil {
		return err
	}
	if err := s.checkKey(key); err != nil {
		return err
	}
	return s.remove(ctx, s.root+key)
}
