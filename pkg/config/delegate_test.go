package config

import (
	"strings"
	"testing"
)

// TestDelegates: a command that has others do its work is told by its name or
// path, behind what runs it in its place, and in a shell's script.
func TestDelegates(t *testing.T) {
	for _, tt := range []struct {
		argv string // words between bars
		want string // the word it is told by; empty: it does not delegate
	}{
		{"docker|run|x", "docker"},
		{"/usr/bin/podman|run|x", "/usr/bin/podman"},
		{"nerdctl|run|x", "nerdctl"},
		{"/bin/systemctl|start|--wait|x", "/bin/systemctl"},
		{"machinectl|shell", "machinectl"},
		{"kubectl|run|x", "kubectl"},
		{"ssh|b|x", "ssh"},
		{"sudo|-u|app|/usr/bin/x", "sudo"},
		{"env|A=1|B=2|ssh|b", "ssh"},
		{"/usr/bin/env|-i|-u|HOME|--|/usr/bin/ssh|b", "/usr/bin/ssh"},
		{"nice|-n|10|docker|run|x", "docker"},
		{"timeout|--signal|INT|1h|docker|run|x", "docker"},
		{"nohup|setsid|ionice|-c|3|docker|run", "docker"},
		{"sh|-c|exec docker run x", "docker"},
		{"/bin/bash|-euo|pipefail|-c|cd /srv && A=1 docker run x", "docker"},
		{"env|A=1|sh|-ec|trap : TERM\nif true; then\n ssh b x\nfi", "ssh"},
		{"sh|-c|id=$(docker run -d x); wait", "docker"},
		{`sh|-c|"/usr/bin/docker" run x`, "/usr/bin/docker"},

		{"/usr/bin/prog|docker", ""},
		{"env|A=1|/usr/bin/prog|ssh", ""},
		{"sh|-c|exec prog --with docker", ""},
		{"sh|script.sh|docker", ""},
		{"sshd|-D", ""},
		{"dockerd", ""},
		{"env", ""},
		{"sh|-c", ""},
		{"", ""},
	} {
		word, yes := Service{Command: strings.Split(tt.argv, "|")}.Delegates()
		if !yes {
			word = ""
		}
		if word != tt.want {
			t.Errorf("%s: told by %q, want %q", tt.argv, word, tt.want)
		}
	}
	if _, yes := (Service{Command: []string{"/start.sh"}, HandsOn: true}).Delegates(); !yes {
		t.Error("service.delegates is not believed")
	}
}
