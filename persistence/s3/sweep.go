package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	_ persistence.Ranger  = (*Store)(nil)
	_ persistence.Sweeper = (*Store)(nil)
)

// uploadTakes is how long an upload may take. The server tells when it was
// begun and not when its last part came; our lifecycle rule gives it as long.
const uploadTakes = 24 * time.Hour

// GetFrom implements persistence.Ranger.
func (s *Store) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("%w: an offset of %d", persistence.Unsupported, offset)
	}
	return s.get(ctx, key, offset)
}

// Sweep implements persistence.Sweeper: multi-part uploads that were neither
// completed nor aborted. None counts as left behind within a day. Credentials
// that may not list uploads leave it to the bucket's lifecycle rule.
func (s *Store) Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]persistence.Entry, error) {
	if err := s.ready(ctx, "sweep"); err != nil {
		return nil, err
	}
	before := time.Now().Add(-max(age, uploadTakes))
	in := &s3.ListMultipartUploadsInput{Bucket: &s.bucket, Prefix: aws.String(s.root + prefix)}
	var found []persistence.Entry
	for {
		out, err := s.objects.ListMultipartUploads(ctx, in)
		if isCode(err, "NoSuchUpload") {
			return found, nil // how some servers say that there is none
		}
		if err = s.listFailed(ctx, err); err != nil {
			return found, err
		}
		for _, u := range out.Uploads {
			key, ok := strings.CutPrefix(aws.ToString(u.Key), s.root)
			if begun := aws.ToTime(u.Initiated); ok && strings.HasPrefix(key, prefix) && begun.Before(before) {
				if remove {
					_, err := s.objects.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: u.Key, UploadId: u.UploadId})
					if err != nil {
						return found, s.fail(ctx, putObject, aws.ToString(u.Key), err)
					}
				}
				found = append(found, persistence.Entry{Name: key, Modified: begun})
			}
		}
		if !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextKeyMarker) == "" {
			return found, nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

func isCode(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}

// listFailed explains why uploads can not be listed.
func (s *Store) listFailed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	err = s.fail(ctx, listUploads, s.root, err)
	if errors.Is(err, persistence.Denied) {
		return fmt.Errorf("%w: unfinished uploads are left to the bucket's lifecycle rule: %w", persistence.Unsupported, err)
	}
	return err
}
