package s3_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

// settings answers requests for a bucket's settings with these bodies; what is
// not among them was never made.
func settings(bodies map[string]string) func(http.ResponseWriter, *http.Request, http.Handler) {
	none := map[string]string{
		"lifecycle": "NoSuchLifecycleConfiguration", "object-lock": "ObjectLockConfigurationNotFoundError",
		"replication": "ReplicationConfigurationNotFoundError", "encryption": "ServerSideEncryptionConfigurationNotFoundError",
	}
	return func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		for name, body := range bodies {
			if r.URL.Query().Has(name) {
				_, _ = io.WriteString(w, body)
				return
			}
		}
		for name, code := range none {
			if r.URL.Query().Has(name) {
				reply(404, code, "none", nil)(w, r, s3)
				return
			}
		}
		if r.URL.Query().Has("versioning") {
			_, _ = io.WriteString(w, "<VersioningConfiguration/>")
			return
		}
		s3.ServeHTTP(w, r)
	}
}

func rule(inside string) string {
	return "<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status>" + inside + "</Rule></LifecycleConfiguration>"
}

const (
	versioned  = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
	noncurrent = "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>"
)

func TestInspect(t *testing.T) {
	s := serve(t)
	for name, tc := range map[string]struct {
		bodies map[string]string
		of     string // the finding that differs from a plain bucket's
		want   persistence.Grade
		words  string
	}{
		"plain":             {nil, "versioning", persistence.GradeOK, "off"},
		"versioning":        {map[string]string{"versioning": versioned}, "versioning", persistence.GradeWarn, "nothing removes what was overwritten"},
		"versions removed":  {map[string]string{"versioning": versioned, "lifecycle": rule("<Filter/>" + noncurrent)}, "versioning", persistence.GradeOK, "removed after 1 days"},
		"removed elsewhere": {map[string]string{"versioning": versioned, "lifecycle": rule("<Filter><Prefix>b/</Prefix></Filter>" + noncurrent)}, "versioning", persistence.GradeWarn, "nothing removes"},
		"only what is tagged": {
			map[string]string{"versioning": versioned, "lifecycle": rule("<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>" + noncurrent)},
			"versioning", persistence.GradeWarn, "nothing removes",
		},
		"expiry":           {map[string]string{"lifecycle": rule("<Filter><Prefix>a/</Prefix></Filter><Expiration><Days>30</Days></Expiration>")}, "lifecycle", persistence.GradeFail, `"old" removes objects of the plane`},
		"expiry elsewhere": {map[string]string{"lifecycle": rule("<Prefix>logs/</Prefix><Expiration><Days>30</Days></Expiration>")}, "lifecycle", persistence.GradeOK, "nothing removes"},
		"retention": {
			map[string]string{"object-lock": "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>7</Days></DefaultRetention></Rule></ObjectLockConfiguration>"},
			"object lock", persistence.GradeFail, "retention by default",
		},
		"object lock": {map[string]string{"object-lock": "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"}, "object lock", persistence.GradeWarn, "without a retention"},
		"replication": {
			map[string]string{"replication": "<ReplicationConfiguration><Role>r</Role><Rule><ID>copy</ID><Status>Enabled</Status></Rule></ReplicationConfiguration>"},
			"replication", persistence.GradeWarn, `"copy" copies this bucket elsewhere`,
		},
		"kms": {
			map[string]string{"encryption": "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"},
			"encryption", persistence.GradeWarn, "without a bucket key",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.through(settings(tc.bodies))
			seen := map[string]bool{}
			for _, f := range s.open(t, s3.Options{}).Inspect(t.Context()) {
				seen[f.Name] = true
				want, words := persistence.GradeOK, ""
				if f.Name == tc.of {
					want, words = tc.want, tc.words
				}
				if f.Status != want || !strings.Contains(f.Detail, words) {
					t.Errorf("%s: %s, %q, %q; want %s, %q", f.Name, f.Status, f.Detail, f.Remedy, want, words)
				}
				if f.Status != persistence.GradeOK && f.Remedy == "" {
					t.Errorf("%s: %q without a remedy", f.Name, f.Detail)
				}
			}
			for _, want := range []string{"endpoint", "bucket", "clock", "versioning", "lifecycle", "object lock", "replication", "encryption"} {
				if !seen[want] {
					t.Errorf("nothing about %s", want)
				}
			}
		})
	}
}

// Settings that may not be seen are findings as well, and say what to allow.
func TestInspectDenied(t *testing.T) {
	s := serve(t)
	s.through(reply(403, "AccessDenied", "Access Denied", nil))
	warned := 0
	for _, f := range s.open(t, s3.Options{}).Inspect(t.Context()) {
		if f.Status == persistence.GradeWarn && strings.Contains(f.Remedy, "allow s3:Get") {
			warned++
		}
		if f.Name == "bucket" && f.Status != persistence.GradeFail {
			t.Errorf("bucket: %+v", f)
		}
		noSecrets(t, &finding{f})
	}
	if warned != 5 {
		t.Errorf("%d settings could not be seen, want 5", warned)
	}
}

type finding struct{ persistence.Finding }

func (f *finding) Error() string { return f.Detail + f.Remedy }
