// Package server runs real S3 servers for tests: versitygw on a scratch
// directory, MinIO where it was built, and gofakes3 within the process.
//
// The real ones are programs that the Makefile builds into bin/ at pinned
// versions and keeps out of go.mod; a test that needs one that is not there is
// skipped, and under CI=true fails.
package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/need"
	"github.com/understudy-ha/understudy/test/port"
)

// The servers that Versity and MinIO know, by the names of their binaries.
const (
	Versity    = "versitygw-v1.8.0"
	OldVersity = "versitygw-v1.7.0" // loses races between conditional writes
	MinIO      = "minio-v0.0.0-20260212201848-7aac2a2c5b7c"
)

const (
	region    = "us-east-1"
	accessKey = "understudytest"
	secret    = "a-secret-of-the-tests"
	bucket    = "plane"

	startWithin = 30 * time.Second
	endWithin   = 15 * time.Second
)

// Server is an S3 server with one bucket.
type Server struct {
	URL    string
	Bucket string
	Secret string // nothing of ours may ever show it
	// Dir is where the server keeps the bucket's objects, one file each: of
	// versitygw only.
	Dir string

	tb    testing.TB
	argv  []string
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd was reaped
	log   string
}

// Start starts a real server with an empty bucket. It ends with the test, and
// its files with it. extra are further flags of versitygw's posix backend.
func Start(tb testing.TB, name string, extra ...string) *Server {
	tb.Helper()
	program := find(tb, name)
	root, err := os.MkdirTemp(scratch(), "understudy-s3-") //nolint:usetesting // disks can stand still, memory does not
	if err != nil {
		tb.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port.S3.Free(tb))
	s := &Server{tb: tb, URL: "http://" + address, Bucket: bucket, Secret: secret, log: filepath.Join(root, "log")}
	tb.Cleanup(func() {
		s.Stop()
		if tb.Failed() {
			tb.Logf("%s says:\n%s", name, s.tail())
		}
		if err := os.RemoveAll(root); err != nil {
			tb.Error(err)
		}
	})
	data := filepath.Join(root, "data")
	if err := os.Mkdir(data, 0o755); err != nil { //nolint:gosec // nothing secret
		tb.Fatal(err)
	}
	if strings.HasPrefix(name, "minio") {
		s.argv = []string{program, "server", "--quiet", "--address", address, data}
	} else {
		s.Dir = filepath.Join(data, bucket)
		s.argv = append([]string{program, "--port", address, "--region", region, "--quiet", "--keep-alive", "posix"}, extra...)
		s.argv = append(s.argv, data)
	}
	s.Start()
	s.makeBucket()
	return s
}

// Fake starts gofakes3 within the test's process, with wrap around it unless
// that is nil.
func Fake(tb testing.TB, wrap func(http.Handler) http.Handler) *Server {
	tb.Helper()
	handler := gofakes3.New(s3mem.New(), gofakes3.WithTimeSkewLimit(0)).Server()
	if wrap != nil {
		handler = wrap(handler)
	}
	h := httptest.NewServer(handler)
	tb.Cleanup(h.Close)
	s := &Server{tb: tb, URL: h.URL, Bucket: bucket, Secret: secret}
	s.makeBucket()
	return s
}

// Location is the URL of a prefix in the bucket, as nodes are given it. via is
// the address under which they reach the server; "": the server's own.
func (s *Server) Location(via, prefix string) string {
	if via == "" {
		via = s.URL
	}
	q := url.Values{"endpoint": {via}, "pathStyle": {"true"}, "region": {region}}
	return "s3://" + s.Bucket + "/" + prefix + "?" + q.Encode()
}

// Env is the environment with the server's credentials.
func (s *Server) Env() []string {
	return append(NoEnv(), "AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+s.Secret)
}

// NoEnv is an environment in which no credentials are found, and none are
// looked for elsewhere on the network.
func NoEnv() []string {
	return []string{"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}

// Keys are the server's credentials, for stores opened in this process.
func (s *Server) Keys() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(accessKey, s.Secret, "")
}

// Client is a client of the server, of the test's own.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.URL), UsePathStyle: true, Region: region,
		Credentials:                s.Keys(),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
}

// Start starts the server again after a Stop, at the same address, and waits
// until it answers.
func (s *Server) Start() {
	s.tb.Helper()
	out, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer out.Close()
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...) //nolint:noctx // ends with the test
	s.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(s.log),
		"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + s.Secret, // versitygw
		"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + s.Secret, "MINIO_BROWSER=off", "MINIO_UPDATE=off",
	}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.Dir = filepath.Dir(s.log)
	started := make(chan error)
	ended := make(chan struct{})
	cmd := s.cmd
	s.ended = ended
	go func() {
		// It dies with this thread, hence with the test's process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the state has it all
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		s.tb.Fatal(err)
	}
	deadline := time.Now().Add(startWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := s.Client().ListBuckets(ctx, nil)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-ended:
			s.tb.Fatalf("%s ended at once:\n%s", s.argv[0], s.tail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("%s does not answer: %v\n%s", s.argv[0], err, s.tail())
		}
	}
}

// Stop kills the server.
func (s *Server) Stop() {
	s.tb.Helper()
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // gone, perhaps
	select {
	case <-s.ended:
	case <-time.After(endWithin):
		s.tb.Errorf("pid %d survives SIGKILL", s.cmd.Process.Pid)
	}
}

func (s *Server) makeBucket() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	if _, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.Bucket}); err != nil {
		s.tb.Fatalf("make the bucket: %v", err)
	}
}

func (s *Server) tail() string {
	const most = 4 << 10
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// find looks for a program in the directory the Makefile builds tools into.
func find(tb testing.TB, name string) string {
	tb.Helper()
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "..", "..", "..", "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	need.Missing(tb, fmt.Sprintf("%s is not there; build it with: make bin/%s", path, name))
	return ""
}

// scratch is a directory in memory, where there is one.
func scratch() string {
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < 1<<30 { //nolint:gosec // a size
		return ""
	}
	return shm
}
