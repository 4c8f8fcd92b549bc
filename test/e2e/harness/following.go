package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
)

// FromArtifact are the settings of a node whose service is an artifact of the
// plane's, as Following wants them: with a lease that no busy machine lets run out.
func FromArtifact() map[string]any {
	s := Preset("default")
	s["service.command"], s["service.startTimeout"] = []string{"{artifact:recorder}"}, "60s"
	return s
}

// Following holds a plane of two nodes that has not been started, with the
// settings FromArtifact, to what a hot standby is for, on whatever it shares: the
// standby has what the master persists, and the artifact that the service is,
// before it needs them; and goes on with both. Each wait lasts within.
func Following(t *testing.T, p *Plane, within time.Duration) {
	t.Helper()
	const key, value = "followed", "17"
	p.Start()
	p.OnLeader(within, "artifact", "push", "recorder", Recorder())
	p.OnLeader(within, "state", "put", key, value)

	var master, standby *Node
	why := ""
	if !Poll(within, func() bool {
		masters := p.Masters() // a term may move on on a busy machine
		if len(masters) != 1 {
			why = fmt.Sprintf("%d masters", len(masters))
			return false
		}
		master = masters[0]
		standby = p.Standby(master)
		why = follows(master, standby, "/v1/state/"+key, value)
		return why == ""
	}) {
		t.Fatalf("the standby does not follow: %s", why)
	}

	at := master.Kill(Daemon) // its guard releases
	next := p.WaitStart(at, within)
	if p.NodeOf(next) != standby {
		t.Fatalf("%s serves, want %s", p.NodeOf(next).Name, standby.Name)
	}
	Note(t, fmt.Sprintf("kill -9 of the daemon to the next start, of an artifact fetched ahead: %v", next.Start.Sub(at).Round(time.Millisecond)))
	if !Poll(within, standby.IsMaster) {
		t.Fatalf("%s is %s", standby.Name, standby.State())
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", standby.Find(Service).Pid))
	if err != nil || filepath.Dir(exe) != filepath.Join(standby.DataDir, "artifacts") {
		t.Errorf("the service runs from %s, %v", exe, err)
	}
	if r, err := standby.Get("/v1/state/" + key); err != nil || r.Body != value || r.Header.Get(v1.HeaderState) != "MASTER" {
		t.Errorf("the new master has %+v, %v", r, err)
	}
}

// follows says what a standby lacks of what its master has; nothing: "".
func follows(master, standby *Node, path, value string) string {
	here, err := master.Get(path)
	if err != nil || here.Body != value {
		return fmt.Sprintf("the master has %+v, %v", here, err)
	}
	there, err := standby.Get(path)
	seq := there.Header.Get(v1.HeaderStateSeq)
	if err != nil || there.Body != value || there.Header.Get(v1.HeaderState) != string(v1.StateHotStandby) || seq == "" || seq != here.Header.Get(v1.HeaderStateSeq) {
		return fmt.Sprintf("it has %+v, %v", there, err)
	}
	copies, err := filepath.Glob(filepath.Join(standby.DataDir, "artifacts", "[0-9a-f]*"))
	if err != nil || len(copies) != 1 {
		return fmt.Sprintf("its copies of artifacts: %q, %v", copies, err)
	}
	return ""
}

// OnLeader runs a command of the CLI on the node that holds the term, its service
// running or not, and returns what it prints; on the next one if that ceased to
// hold it. It tries for that long.
func (p *Plane) OnLeader(within time.Duration, args ...string) []byte {
	p.t.Helper()
	var out, said bytes.Buffer
	err := errors.New("nobody holds the term")
	if !Poll(within, func() bool {
		for _, n := range p.Nodes {
			if r, perr := n.Probe("/leader"); perr != nil || r.Code != http.StatusOK {
				continue
			}
			out.Reset()
			said.Reset()
			ctx, cancel := context.WithTimeout(p.t.Context(), within)
			defer cancel()
			cmd := n.Command(ctx, append([]string{"--config", n.ConfigFile()}, args...)...)
			cmd.Stdout, cmd.Stderr = &out, &said
			err = cmd.Run()
			return err == nil
		}
		return false
	}) {
		p.t.Fatalf("understudy %s: %v\n%s", strings.Join(args, " "), err, said.Bytes())
	}
	return out.Bytes()
}
