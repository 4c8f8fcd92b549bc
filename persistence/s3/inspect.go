package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/understudy-ha/understudy/persistence"
)

// What looking at a bucket's settings needs, beside what a node needs.
const (
	getVersioning  action = "s3:GetBucketVersioning"
	getLifecycle   action = "s3:GetLifecycleConfiguration"
	getObjectLock  action = "s3:GetBucketObjectLockConfiguration"
	getReplication action = "s3:GetReplicationConfiguration"
	getEncryption  action = "s3:GetEncryptionConfiguration"
)

// Inspect implements persistence.Inspector: the way to the bucket, the clocks,
// and the settings that make a bucket costly or unfit.
func (s *Store) Inspect(ctx context.Context) []persistence.Finding {
	if err := s.ready(ctx, "inspect"); err != nil {
		return []persistence.Finding{{Name: "bucket", Status: persistence.GradeFail, Detail: err.Error()}}
	}
	found := []persistence.Finding{s.inspectEndpoint(), s.inspectBucket(ctx)}
	found = append(found, s.inspectClock()) // known once something was answered
	rules, unknown := s.lifecycle(ctx)
	found = append(found, s.inspectVersioning(ctx, rules))
	if unknown != nil {
		found = append(found, *unknown)
	} else {
		found = append(found, s.inspectExpiry(rules))
	}
	return append(found, s.inspectLock(ctx), s.inspectReplication(ctx), s.inspectEncryption(ctx))
}

func ok(name, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(name, remedy, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeWarn, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

func bad(name, remedy, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeFail, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

// unset are the codes that say that a setting was never made, or that the
// service does not have it.
var unset = map[string]bool{
	"NoSuchLifecycleConfiguration":                   true,
	"ObjectLockConfigurationNotFoundError":           true,
	"ReplicationConfigurationNotFoundError":          true,
	"ServerSideEncryptionConfigurationNotFoundError": true,
	"NotImplemented":                                 true,
	"MethodNotAllowed":                               true,
}

// setting looks at what a request for one of the bucket's settings came to:
// set says that it is made. The finding is what there is to say otherwise.
func (s *Store) setting(ctx context.Context, name string, do action, err error) (set bool, f persistence.Finding) {
	if err == nil {
		return true, f
	}
	var ae smithy.APIError
	if re := response(err); errors.As(err, &ae) && unset[ae.ErrorCode()] || (re != nil && re.HTTPStatusCode() == http.StatusNotImplemented) {
		return false, ok(name, "none")
	}
	return false, warn(name, fmt.Sprintf("allow %s on arn:aws:s3:::%s for as long as you look, or look yourself", do, s.bucket),
		"could not be found out: %v", s.fail(ctx, do, "", err))
}

func (s *Store) inspectEndpoint() persistence.Finding {
	const name = "endpoint"
	switch {
	case s.endpoint == nil:
		return ok(name, "Amazon S3, region %s", s.region)
	case knownBad(s.endpoint) != "":
		return bad(name, "", "%s", knownBad(s.endpoint))
	case s.endpoint.Scheme == "http" && !isLoopback(s.endpoint.Hostname()):
		return warn(name, "use https", "%s is not encrypted", s.endpoint.Host)
	}
	return ok(name, "%s", s.endpoint)
}

func (s *Store) inspectBucket(ctx context.Context) persistence.Finding {
	const name = "bucket"
	empty, err := s.Empty(ctx)
	if err != nil {
		return bad(name, "", "%v", err)
	}
	what := "holds something"
	if empty {
		what = "is empty"
	}
	return ok(name, "%s can be listed and %s", s.url(""), what)
}

func (s *Store) inspectClock() persistence.Finding {
	const name = "clock"
	switch off := s.clock.String(); {
	case off == "":
		return warn(name, "", "the store does not say what time it is")
	case s.clock.complaint() != "":
		return warn(name, "have it set by NTP; the SDK corrects for it, certificates and logs do not", "this machine's clock is %s that of the store", off)
	default:
		return ok(name, "this machine's clock is %s that of the store", off)
	}
}

// lifecycle returns the rules that are in force for this location. unknown
// says why they could not be found out.
func (s *Store) lifecycle(ctx context.Context) (rules []types.LifecycleRule, unknown *persistence.Finding) {
	out, err := s.objects.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &s.bucket})
	set, f := s.setting(ctx, "lifecycle", getLifecycle, err)
	if !set {
		if f.Status == persistence.GradeOK {
			return nil, nil
		}
		return nil, &f
	}
	for _, r := range out.Rules {
		if r.Status == types.ExpirationStatusEnabled && s.covered(r) {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// covered reports whether a rule can apply to objects of this location.
func (s *Store) covered(r types.LifecycleRule) bool {
	prefix := aws.ToString(r.Prefix) //nolint:staticcheck // deprecated, but servers return it
	if f := r.Filter; f != nil {
		switch {
		case f.Tag != nil, f.And != nil && len(f.And.Tags) > 0:
			return false // our objects have no tags
		case f.Prefix != nil:
			prefix = *f.Prefix
		case f.And != nil && f.And.Prefix != nil:
			prefix = *f.And.Prefix
		}
	}
	return strings.HasPrefix(s.root, prefix) || strings.HasPrefix(prefix, s.root)
}

func (s *Store) inspectVersioning(ctx context.Context, rules []types.LifecycleRule) persistence.Finding {
	const name = "versioning"
	out, err := s.objects.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &s.bucket})
	set, f := s.setting(ctx, name, getVersioning, err)
	if !set {
		return f
	}
	if out.Status != types.BucketVersioningStatusEnabled {
		return ok(name, "off")
	}
	for _, r := range rules {
		if e := r.NoncurrentVersionExpiration; e != nil {
			return ok(name, "on; what was overwritten is removed after %d days", aws.ToInt32(e.NoncurrentDays))
		}
	}
	return warn(name, "add a lifecycle rule that removes noncurrent versions after a day, or suspend versioning",
		"on, and nothing removes what was overwritten: each heartbeat leaves an object that is paid for, 86400 a day and node at one per second")
}

// inspectExpiry looks for rules that remove what is current.
func (s *Store) inspectExpiry(rules []types.LifecycleRule) persistence.Finding {
	const name = "lifecycle"
	cleans := false
	for _, r := range rules {
		cleans = cleans || r.AbortIncompleteMultipartUpload != nil
		if e := r.Expiration; e != nil && (e.Days != nil || e.Date != nil) {
			return bad(name, "exclude "+s.url("")+" from it",
				"the rule %q removes objects of the plane: history and artifacts by their age, and the register when the plane rests for so long", aws.ToString(r.ID))
		}
	}
	if !cleans {
		return ok(name, "nothing removes the plane's objects (nor the parts of interrupted uploads: a rule for that after a day saves a little)")
	}
	return ok(name, "nothing removes the plane's objects; the parts of interrupted uploads are removed")
}

func (s *Store) inspectLock(ctx context.Context) persistence.Finding {
	const name = "object lock"
	out, err := s.objects.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
	set, f := s.setting(ctx, name, getObjectLock, err)
	switch {
	case !set:
		return f
	case out.ObjectLockConfiguration == nil || out.ObjectLockConfiguration.ObjectLockEnabled != types.ObjectLockEnabledEnabled:
		return ok(name, "off")
	case out.ObjectLockConfiguration.Rule != nil:
		return bad(name, "use a bucket without Object Lock", "on, with a retention by default: what every heartbeat overwrites can not be removed")
	}
	return warn(name, "use a bucket without Object Lock, or never give it a default retention", "on (without a retention by default), which keeps versioning on for good")
}

func (s *Store) inspectReplication(ctx context.Context) persistence.Finding {
	const name = "replication"
	out, err := s.objects.GetBucketReplication(ctx, &s3.GetBucketReplicationInput{Bucket: &s.bucket})
	set, f := s.setting(ctx, name, getReplication, err)
	if !set {
		if f.Status == persistence.GradeOK {
			f.Detail = "none from here (none must lead here either, which can not be seen from this bucket)"
		}
		return f
	}
	var rules []types.ReplicationRule
	if out.ReplicationConfiguration != nil {
		rules = out.ReplicationConfiguration.Rules
	}
	for _, r := range rules {
		if r.Status == types.ReplicationRuleStatusEnabled {
			return warn(name, "exclude "+s.url("")+" from it; never have two buckets replicate to one another, nor a node use the copy",
				"the rule %q copies this bucket elsewhere", aws.ToString(r.ID))
		}
	}
	return ok(name, "off")
}

func (s *Store) inspectEncryption(ctx context.Context) persistence.Finding {
	const name = "encryption"
	if s.sse != "" {
		return ok(name, "%s, as store.s3.sse says", s.sse)
	}
	out, err := s.objects.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &s.bucket})
	set, f := s.setting(ctx, name, getEncryption, err)
	if !set {
		return f
	}
	var rules []types.ServerSideEncryptionRule
	if out.ServerSideEncryptionConfiguration != nil {
		rules = out.ServerSideEncryptionConfiguration.Rules
	}
	for _, r := range rules {
		d := r.ApplyServerSideEncryptionByDefault
		if d == nil {
			continue
		}
		if strings.HasPrefix(string(d.SSEAlgorithm), "aws:kms") && !aws.ToBool(r.BucketKeyEnabled) {
			return warn(name, "turn on the bucket key", "%s without a bucket key: each write of the register is a request to KMS as well", d.SSEAlgorithm)
		}
		return ok(name, "%s", d.SSEAlgorithm)
	}
	return ok(name, "none")
}
