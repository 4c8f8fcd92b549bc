package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/pkg/config"
)

// What opens the store is not the service's, unless it was given it.
func TestServiceEnvironmentWithoutStoreSecrets(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "of the store")
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	looked := []string{"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"}
	own := map[string]string{"AWS_ACCESS_KEY_ID": "of the service"}
	for scheme, want := range map[string][]string{
		"s3":   {"AWS_ACCESS_KEY_ID=of the service", "AWS_REGION=eu-west-1"},
		"file": {"AWS_ACCESS_KEY_ID=of the service", "AWS_REGION=eu-west-1", "AWS_SECRET_ACCESS_KEY=of the store", "AWS_SESSION_TOKEN=of the store", "AWS_WEB_IDENTITY_TOKEN_FILE=of the store"},
	} {
		var got []string
		for _, kv := range serviceEnv(own, storeSecrets(config.Location{Scheme: scheme})) {
			if name, _, _ := strings.Cut(kv, "="); slices.Contains(looked, name) {
				got = append(got, kv)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", scheme, got, want)
		}
	}
}
