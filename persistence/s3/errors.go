package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/understudy-ha/understudy/persistence"
)

// action is what a request asked for, in the words of a policy.
type action string

const (
	getObject    action = "s3:GetObject"
	putObject    action = "s3:PutObject"
	deleteObject action = "s3:DeleteObject"
	listBucket   action = "s3:ListBucket"
	listUploads  action = "s3:ListBucketMultipartUploads"
)

var (
	// errNoSuchKey marks an Absent that is about one object.
	errNoSuchKey = errors.New("no such object")
	// errSkew marks a refusal that the SDK has learnt from: it signs with the
	// server's time from then on.
	errSkew = errors.New("clocks differ")

	// Kinds that are two: both decide nothing, and waiting helps.
	errThrottled = fmt.Errorf("%w: %w", persistence.Throttled, persistence.Unknown)
	errSkewed    = fmt.Errorf("%w: %w", persistence.Unknown, errSkew)
)

// Remedies that several codes share.
const (
	checkKeys    = "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or the role) and that they belong to this endpoint"
	renewKeys    = "renew them (log in again, or look at the role); they are read anew by themselves"
	waitAndSee   = "this passes by itself as a rule; if it lasts, look at the service's state"
	fewer        = "raise ha.heartbeatInterval and ha.standbyHeartbeatInterval, or the service's limit"
	otherService = "use a service that has conditional writes (see docs), or a shared directory"
	checkKMS     = "check store.s3.kmsKeyId and that these credentials may use the key (kms:GenerateDataKey, kms:Decrypt)"
	makeRoom     = "raise the quota, or remove what is not needed"
)

// verdict is what a code means to a caller and to an operator.
type verdict struct {
	kind   error
	remedy string
}

// verdicts has the codes of Amazon S3 and of services that speak its protocol.
var verdicts = map[string]verdict{
	"NoSuchBucket":                   {persistence.Absent, "create the bucket, or correct persistenceDir (understudy never creates one)"},
	"InvalidBucketName":              {persistence.Unsupported, "correct persistenceDir"},
	"AccessDenied":                   {persistence.Denied, ""}, // see denied
	"AccessForbidden":                {persistence.Denied, ""},
	"Forbidden":                      {persistence.Denied, ""},
	"AllAccessDisabled":              {persistence.Denied, "ask the service's support why the bucket is disabled"},
	"AccountProblem":                 {persistence.Denied, "look at the state of the account"},
	"InvalidAccessKeyId":             {persistence.Denied, checkKeys},
	"XAdminUserNotFound":             {persistence.Denied, checkKeys}, // Versity
	"SignatureDoesNotMatch":          {persistence.Denied, checkKeys},
	"InvalidToken":                   {persistence.Denied, checkKeys},
	"InvalidSecurity":                {persistence.Denied, checkKeys},
	"ExpiredToken":                   {persistence.Denied, renewKeys},
	"ExpiredTokenException":          {persistence.Denied, renewKeys},
	"TokenRefreshRequired":           {persistence.Denied, renewKeys},
	"RequestTimeTooSkewed":           {errSkewed, "have this machine's clock set by NTP"},
	"RequestExpired":                 {errSkewed, "have this machine's clock set by NTP"},
	"SlowDown":                       {errThrottled, fewer},
	"TooManyRequests":                {errThrottled, fewer},
	"TooManyRequestsException":       {errThrottled, fewer},
	"Throttling":                     {errThrottled, fewer},
	"ThrottlingException":            {errThrottled, fewer},
	"RequestLimitExceeded":           {errThrottled, fewer},
	"BandwidthLimitExceeded":         {errThrottled, fewer},
	"XMinioServerNotInitialized":     {persistence.Unknown, waitAndSee},
	"PreconditionFailed":             {persistence.Conflict, ""},
	"ConditionalRequestConflict":     {persistence.Conflict, ""},
	"OperationAborted":               {persistence.Conflict, ""},
	"NotImplemented":                 {persistence.Unsupported, otherService},
	"MethodNotAllowed":               {persistence.Unsupported, "check store.s3.endpoint: this server does not take what S3 takes"},
	"KMS.DisabledException":          {persistence.Denied, checkKMS},
	"KMS.NotFoundException":          {persistence.Denied, checkKMS},
	"KMS.KMSInvalidStateException":   {persistence.Denied, checkKMS},
	"QuotaExceeded":                  {persistence.Full, makeRoom},
	"XMinioStorageFull":              {persistence.Full, makeRoom},
	"XMinioAdminBucketQuotaExceeded": {persistence.Full, makeRoom},
	"InsufficientStorage":            {persistence.Full, makeRoom},
}

// fail puts into words what became of a request, with its kind and a remedy.
// The SDK's own error stays out: it may quote what was signed.
func (s *Store) fail(ctx context.Context, do action, key string, err error) error {
	target := fmt.Sprintf("%s on s3://%s/%s", do, s.bucket, key)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %s: no answer in time: %w", persistence.Unknown, target, ctx.Err())
	}
	var ke *keyError
	if errors.As(err, &ke) {
		return s.noKeys(ke, target)
	}
	re := response(err)
	if re == nil {
		return fmt.Errorf("%w: %s: %s; %s", persistence.Unknown, target, s.text(err), unreached(err))
	}
	code, said := re.Response.Status, ""
	var ae smithy.APIError
	if errors.As(err, &ae) {
		code, said = ae.ErrorCode(), ae.ErrorMessage()
	}
	v := s.verdictOn(do, key, re, code)
	what := s.describe(re, code, said)
	if v.remedy == "" {
		return fmt.Errorf("%w: %s: %s", v.kind, target, what)
	}
	return fmt.Errorf("%w: %s: %s; %s", v.kind, target, what, v.remedy)
}

// unreached says what to do about a request that was not answered.
func unreached(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return "name the authority's certificate in store.s3.caFile"
	case errors.As(err, &name), errors.As(err, &invalid):
		return "name the server in store.s3.endpoint as its certificate does, or renew the certificate"
	}
	return "check store.s3.endpoint, the network and the service"
}

// verdictOn is what a reply means.
func (s *Store) verdictOn(do action, key string, re *awshttp.ResponseError, code string) verdict {
	status := re.HTTPStatusCode()
	if v, ok := s.wrongRegion(re, code); ok {
		return v
	}
	v, known := verdicts[code]
	switch {
	case code == "NoSuchKey" || (code == "NotFound" && do == deleteObject):
		return verdict{fmt.Errorf("%w: %w", persistence.Absent, errNoSuchKey), ""}
	case errors.Is(v.kind, persistence.Denied):
		switch v.remedy {
		case "":
			v.remedy = s.denied(do, key)
		case checkKeys, renewKeys:
			s.keys.reject()
		}
		if why := s.keys.trouble(); why != "" {
			v.remedy += " (the last renewal failed: " + s.short(why) + ")"
		}
		return v
	case errors.Is(v.kind, errSkew):
		if why := s.clock.complaint(); why != "" {
			v.remedy = why
		}
		return v
	case known:
		return v
	}
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		return verdict{persistence.Denied, s.denied(do, key)}
	case http.StatusPreconditionFailed, http.StatusConflict:
		return verdict{persistence.Conflict, ""}
	case http.StatusTooManyRequests:
		return verdict{errThrottled, fewer}
	case http.StatusNotImplemented:
		return verdict{persistence.Unsupported, otherService}
	case http.StatusInsufficientStorage:
		return verdict{persistence.Full, makeRoom}
	case http.StatusNotFound:
		return verdict{persistence.Unknown, "this is not the answer of a store; check store.s3.endpoint and what lies between"}
	}
	return verdict{persistence.Unknown, waitAndSee}
}

// wrongRegion recognises the several ways to be told so.
func (s *Store) wrongRegion(re *awshttp.ResponseError, code string) (verdict, bool) {
	status := re.HTTPStatusCode()
	right := re.Response.Header.Get("X-Amz-Bucket-Region")
	moved := status == http.StatusMovedPermanently || status == http.StatusPermanentRedirect || code == "PermanentRedirect"
	switch {
	case code == "AuthorizationHeaderMalformed", code == "IllegalLocationConstraintException", moved:
		remedy := fmt.Sprintf("set store.s3.region to that of the bucket (it is %s)", s.region)
		if right != "" && right != s.region {
			remedy = fmt.Sprintf("the bucket is in the region %s, not %s: set store.s3.region: %s", right, s.region, right)
		}
		return verdict{persistence.Unsupported, remedy}, true
	case status == http.StatusTemporaryRedirect:
		return verdict{persistence.Unknown, "a new bucket takes minutes to be known everywhere; wait, or set store.s3.region to that of the bucket"}, true
	}
	return verdict{}, false
}

// denied says what to allow, on what.
func (s *Store) denied(do action, key string) string {
	arn := "arn:aws:s3:::" + s.bucket
	if do == listBucket || do == listUploads {
		return fmt.Sprintf("allow these credentials %s on %s for the prefix %s", do, arn, s.root)
	}
	if do == getObject {
		return fmt.Sprintf("allow these credentials %s on %s/%s, and %s on %s, without which what is missing looks forbidden",
			do, arn, key, listBucket, arn)
	}
	return fmt.Sprintf("allow these credentials %s on %s/%s*", do, arn, s.root)
}

// noKeys explains that there are no credentials to sign with.
func (s *Store) noKeys(ke *keyError, target string) error {
	kind, remedy := persistence.Unknown, "look at where they come from: the profile's command, the role, the identity provider"
	if text := ke.Error(); strings.Contains(text, "no EC2 IMDS role found") || strings.Contains(text, "failed to load credentials") {
		kind, remedy = persistence.Denied, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or store.s3.profile, or give this machine a role"
	}
	return fmt.Errorf("%w: %s: no credentials: %s; %s", kind, target, s.text(ke), remedy)
}

// describe quotes the server.
func (s *Store) describe(re *awshttp.ResponseError, code, said string) string {
	text := code
	if said != "" {
		text = s.short(said) + " (" + code + ")"
	}
	if id := re.ServiceRequestID(); id != "" {
		text += ", request " + s.short(id)
	}
	return text
}

// text is an error in one line, without credentials.
func (s *Store) text(err error) string {
	t := err.Error()
	// "operation error S3: PutObject, https response error StatusCode: 0, RequestID: , HostID: , request send failed, Put "URL": dial tcp …"
	if _, cause, ok := strings.Cut(t, "request send failed, "); ok {
		t = cause
	}
	return s.short(t)
}

func (s *Store) short(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(s.keys.scrub(text)), " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// response returns the reply that err is about, nil if there was none.
func response(err error) *awshttp.ResponseError {
	var re *awshttp.ResponseError
	if !errors.As(err, &re) || re.Response == nil || re.Response.Response == nil || re.HTTPStatusCode() == 0 {
		return nil
	}
	return re
}
