package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// brisk has children built with -race end at once: they would otherwise sleep
// for a second, each of the hundreds of commands that are run here.
const brisk = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", brisk)
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main() // a child of what is run in this process: not all the tests again
	}
	testscript.Main(m, map[string]func(){"understudy": main})
}

// The command line as users see it. Each script runs with a node of its own
// that answers what the script's files say; see fakeNode.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"rc": exitsWith},
		Setup: func(env *testscript.Env) error {
			node := httptest.NewUnstartedServer(fakeNode(env.WorkDir))
			node.Config.ErrorLog = log.New(io.Discard, "", 0) // some scripts trust nobody
			node.StartTLS()
			env.Defer(node.Close)
			ca := filepath.Join(env.WorkDir, "fake-ca.pem")
			if err := os.WriteFile(ca, certificate(node.Certificate()), 0o600); err != nil {
				return err
			}
			dead, err := freeAddress()
			if err != nil {
				return err
			}
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", brisk)
			env.Setenv("NODE", node.URL)
			env.Setenv("CA", ca)
			env.Setenv("DEAD", "https://"+dead)
			return nil
		},
	})
}

// exitsWith is the script command "rc CODE ARGS...": understudy ARGS ends with
// that code.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: rc CODE ARGS...")
	}
	err := ts.Exec("understudy", args[1:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("understudy %q: %v", args[1:], err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("understudy %q ended with %d, want %s", args[1:], code, args[0])
	}
}

func certificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// freeAddress is an address of this host where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binds and returns at once
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// note writes down what a node was asked to do.
func note(dir string, r *http.Request) {
	f, err := os.OpenFile(filepath.Join(dir, "asked"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer func() { _ = f.Close() }()
	_ = r.ParseForm()
	_, _ = fmt.Fprintf(f, "%s %s %s\n", r.Method, r.URL.Path, r.PostForm.Encode())
}

// fakeNode answers with files of dir: states.json, history.json and so on, to
// the user op with the password secret, or the token ust_good; /master is 200 if the file master is
// there.
func fakeNode(dir string) http.Handler {
	file := map[string]string{
		"/v1/server/ha/state":               "state.json",
		"/v1/server/ha/priority":            "priority.json",
		"/v1/server/ha/fence/confirm":       "confirm.json",
		"/v1/server/ha/states":              "states.json",
		"/v1/server/ha/history":             "history.json",
		"/v1/server/ha/metrics":             "metrics.json",
		"/v1/server/up/extended":            "up.json",
		"/v1/server/service":                "service.json",
		"/v1/server/service/logs":           "service.log",
		"/v1/server/service/stop":           "stop.json",
		"/v1/server/service/reset-failures": "service.json",
	}
	for _, name := range []string{"switchover", "failover", "step-down", "pause", "resume", "ack", "nodes/n1aaaaaa/maintenance", "nodes/n2bbbbbb/maintenance"} {
		file["/v1/server/ha/"+name] = "operation.json"
	}
	file["/v1/server/ha/operations/7-a"] = "ended.json"
	file["/v1/server/ha/events"] = "events"
	var moves sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/master" {
			h := w.Header()
			h.Set("X-HA-Node", "n1aaaaaa")
			h.Set("X-HA-Term", "7")
			h.Set("X-HA-Lease-Remaining-Ms", "0")
			h.Set("X-HA-State", "STANDBY")
			if _, err := os.Stat(filepath.Join(dir, "master")); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			h.Set("X-HA-State", "MASTER")
			h.Set("X-HA-Lease-Remaining-Ms", "4321")
			return
		}
		if user, password, _ := r.BasicAuth(); (user != "op" || password != "secret") && r.Header.Get("Authorization") != "Bearer ust_good" {
			w.Header().Set("WWW-Authenticate", `BASIC realm="understudy"`)
			http.Error(w, "Authentication is required", http.StatusUnauthorized)
			return
		}
		if r.Method != http.MethodGet {
			moves.Lock()
			note(dir, r)
			moves.Unlock()
		}
		b, err := os.ReadFile(filepath.Join(dir, file[r.URL.Path]))
		if err != nil {
			http.Error(w, `{"message":"no such path: `+r.URL.Path+`","error":404}`, http.StatusNotFound)
			return
		}
		if strings.HasPrefix(string(b), "#412") {
			http.Error(w, `{"message":"would leave the plane with no master","error":412}`, http.StatusPreconditionFailed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	})
}
