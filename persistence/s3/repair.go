package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	_ persistence.Surveyor = (*Store)(nil)
	_ persistence.Repairer = (*Store)(nil)
)

// maxForeign is how much is kept of what somebody put in the register's place.
const maxForeign = 64 << 10

// Survey implements persistence.Surveyor. A scratch area was modified when the
// newest object in it was, as far as one page of a listing tells.
func (s *Store) Survey(ctx context.Context) ([]persistence.Entry, error) {
	if err := s.ready(ctx, "list"); err != nil {
		return nil, err
	}
	var entries []persistence.Entry
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &s.root, Delimiter: aws.String("/")}
	for {
		out, err := s.objects.ListObjectsV2(ctx, in)
		if err != nil {
			return nil, s.fail(ctx, listBucket, s.root, err)
		}
		for _, o := range out.Contents {
			if name := strings.TrimPrefix(aws.ToString(o.Key), s.root); name != "" {
				entries = append(entries, persistence.Entry{Name: name, Modified: aws.ToTime(o.LastModified)})
			}
		}
		for _, p := range out.CommonPrefixes {
			e := persistence.Entry{Name: strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), s.root), "/")}
			if hidden(e.Name) {
				if e.Modified, err = s.newest(ctx, aws.ToString(p.Prefix)); err != nil {
					return nil, err
				}
			}
			entries = append(entries, e)
		}
		if !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextContinuationToken) == "" {
			return entries, nil
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

func (s *Store) newest(ctx context.Context, prefix string) (at time.Time, err error) {
	out, err := s.objects.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
	if err != nil {
		return at, s.fail(ctx, listBucket, prefix, err)
	}
	for _, o := range out.Contents {
		if m := aws.ToTime(o.LastModified); m.After(at) {
			at = m
		}
	}
	return at, nil
}

// Parts implements persistence.Repairer: the object in the register's place.
func (s *Store) Parts(ctx context.Context) ([][]byte, error) {
	content, _, err := s.foreign(ctx)
	if err != nil {
		return nil, err
	}
	return [][]byte{content}, nil
}

// foreign reads whatever lies in the register's place.
func (s *Store) foreign(ctx context.Context) ([]byte, persistence.Version, error) {
	if err := s.ready(ctx, "read"); err != nil {
		return nil, "", err
	}
	key := s.root + registerKey
	out, err := s.register.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		err = s.fail(ctx, getObject, key, err)
		if errors.Is(err, errNoSuchKey) {
			err = fmt.Errorf("%w: there is no register at %s", persistence.Absent, s.url(registerKey))
		}
		return nil, "", err
	}
	defer out.Body.Close()
	content, err := io.ReadAll(io.LimitReader(out.Body, maxForeign))
	if err != nil {
		return nil, "", s.fail(ctx, getObject, key, err)
	}
	v, err := version(out.ETag)
	return content, v, err
}

// Replace implements persistence.Repairer: a copy is kept, and the object is
// swapped on the version that was read.
func (s *Store) Replace(ctx context.Context, val []byte) (aside string, err error) {
	content, v, err := s.foreign(ctx)
	if errors.Is(err, persistence.Absent) {
		return "", s.Init(ctx, val)
	}
	if err != nil {
		return "", err
	}
	aside = ".repair-" + strings.ToLower(rand.Text()[:16])
	key := s.root + aside + "/" + registerKey
	if _, err := s.register.PutObject(ctx, s.write(key, content)); err != nil {
		return "", s.fail(ctx, putObject, key, err)
	}
	_, err = s.CAS(ctx, v, val)
	return aside, err
}
