package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReportHoldsNoSecret plants secrets wherever one may be: in the
// configuration, in files of the data directory and beside it, in the
// environment, in what the node answers, in logs and in the store. None is in
// the bundle, in no form; what an operator needs is.
func TestReportHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	n := 0
	var planted []string
	plant := func() string {
		n++
		s := fmt.Sprintf("pl4nted/%02d+\"s3cret\"", n)
		planted = append(planted, s)
		return s
	}
	plain := func() string { // where quotes have no place
		n++
		s := fmt.Sprintf("pl4nted-%02d-s3cret", n)
		planted = append(planted, s)
		return s
	}
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", plain())
	t.Setenv("UNDERSTUDY_TOKEN", "")
	t.Setenv("MY_DB_PASSWORD", plant())
	fromEnv := planted[len(planted)-1]
	password := plant()
	file("data/credentials", "admin:"+plain()+"\n")
	inCredentials := planted[len(planted)-1]
	key := "-----BEGIN PRIVATE KEY-----\n" + plain() + "-0123456789\n-----END PRIVATE KEY-----\n"
	file("data/tls.key", key)
	file("data/tokens", "# Bearer tokens\nabcdefgh operator - "+plain()+"\n")
	inTokens := planted[len(planted)-1]
	inServiceEnv := plain()
	file("data/service.log", strings.Join([]string{
		"connected with password=" + plain(), "token: " + inTokens, "env " + inServiceEnv, "postgres://app:" + plain() + "@db/x",
		`{"apiKey":"` + plain() + `"}`, "Authorization: Bearer " + plain(), key, "from the environment: " + fromEnv, "an ordinary line",
	}, "\n"))
	file("data/guard.log", "the guard says "+inCredentials+"\n")
	file("data/hooks.json", fmt.Sprintf(`{"seq":1,"runs":[{"output":%q}]}`, "hook says "+password))
	file("store/history/000000000001", fmt.Sprintf(`{"term":1,"node":"naaaa234","reason":"birth by %s","phasesMs":{}}`, inTokens))
	file("data/htpasswd", "ann:$2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234\n")
	config := file("understudy.yaml", fmt.Sprintf(`
persistenceDir: %s
dataDir: %s
server: {auth: {user: admin, password: %q}, tls: {disabled: true}}
service:
  command: [/usr/bin/app, --db-password, %s]
  env: {SETTING: %s}
store: {allowLocal: true}
`, filepath.Join(dir, "store"), filepath.Join(dir, "data"), password, plain(), inServiceEnv))

	asked := map[string]bool{}
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path] = true
		if user, pw, _ := r.BasicAuth(); user != "admin" || pw != password {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprintf(w, `{"path":%q,"said":%q,"header":%q}`, r.URL.Path, password, r.Header.Get("Authorization"))
	}))
	defer node.Close()

	bundle := filepath.Join(dir, "bundle.tar.gz")
	var stdout, stderr bytes.Buffer
	if code := execute(t.Context(), []string{"--config", config, "--endpoint", node.URL, "report", bundle}, &stdout, &stderr); code != exitOK {
		t.Fatalf("report ended with %d: %s%s", code, stdout.String(), stderr.String())
	}
	if st, err := os.Stat(bundle); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the bundle: %v, %v", st.Mode(), err)
	}
	files := unpack(t, bundle)
	for name, content := range files {
		for _, s := range planted {
			for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte("admin:" + s)), strings.Trim(fmt.Sprintf("%q", s), `"`)} {
				if strings.Contains(content, form) {
					t.Errorf("%s holds %q:\n%s", name, form, content)
				}
			}
		}
		if strings.Contains(content, "$2y$") || strings.Contains(content, "PRIVATE KEY") || strings.Contains(content, "pl4nted") {
			t.Errorf("%s holds a hash, a key or a part of a secret:\n%s", name, content)
		}
	}
	for name, want := range map[string]string{
		"config.yaml": "allowLocal: true", "rest/states.json": `"path":"/v1/server/ha/states"`, "rest/metrics.txt": "/metrics", "rest/history.json": "history",
		"rest/events.txt": "events", "data/service.log": "an ordinary line", "data/guard.log": "the guard says", "store.json": "naaaa234", "doctor.json": "configuration",
		"version.json": "{", "CONTENTS": "rest/states.json",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %q: %s", name, want, files[name])
		}
	}
	if !asked["/v1/server/ha/metrics"] {
		t.Errorf("asked %v", asked)
	}
	// What is there already is not overwritten, and a node that is down costs
	// what it would have said and no more.
	if code := execute(t.Context(), []string{"--config", config, "report", bundle}, &stdout, &stderr); code != exitUsage {
		t.Errorf("over a file that is there: %d", code)
	}
	node.Close()
	second := filepath.Join(dir, "second.tar.gz")
	stdout.Reset()
	if code := execute(t.Context(), []string{"--config", config, "--endpoint", node.URL, "report", second}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "missing: rest/up.json: no node could be reached") {
		t.Errorf("with the node down: %d %s", code, stdout.String())
	}
	if files := unpack(t, second); files["store.json"] == "" || files["config.yaml"] == "" {
		t.Error("the rest is not there")
	}
}

// unpack reads an archive, by name.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "understudy-report/")] = string(b)
	}
}
