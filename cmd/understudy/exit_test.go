package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
)

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{runError{errors.New("x")}, 1},
		{errors.New("cobra's: required flag not set"), 2},
		{runError{usagef("x")}, 2},
		{runError{&config.Error{}}, 2},
		{runError{&election.TimingError{}}, 2},
		{runError{fmt.Errorf("x: %w", persistence.ReadOnly)}, 2},
		{runError{fmt.Errorf("x: %w", persistence.Denied)}, 2},
		{runError{&ha.PreconditionError{}}, 3},
		{runError{&client.StatusError{Code: 412}}, 3},
		{runError{&client.StatusError{Code: 409}}, 3},
		{runError{&client.UnreachableError{}}, 4},
		{runError{fmt.Errorf("x: %w", persistence.Unknown)}, 4},
		{runError{&client.StatusError{Code: 401}}, 5},
		{runError{&client.StatusError{Code: 403}}, 5},
		{runError{fmt.Errorf("x: %w", context.DeadlineExceeded)}, 6},
		{runError{&client.StatusError{Code: 504}}, 6},
		{runError{exitf(exitUnsafe, "x")}, 7},
		{runError{silently(125)}, 125},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("%T %v: %d, want %d", tc.err, tc.err, got, tc.want)
		}
	}
}

func TestReportSaysOneLinePerProblem(t *testing.T) {
	var out bytes.Buffer
	report(&out, runError{errors.New("a\nb")})
	report(&out, runError{&config.Error{Problems: []config.Problem{{Where: "f:1", Key: "k", Text: "x\ny"}, {Text: "z"}}}})
	report(&out, runError{silently(1)})
	if want := "understudy: a; b\nunderstudy: f:1: k: x; y\nunderstudy: z\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestColoursStayOffPipes(t *testing.T) {
	var out bytes.Buffer
	rows := [][]cell{plainCells("A", "B"), {{text: "ä", sgr: "31"}, {text: "x"}}}
	s := newScreen(&out)
	s.table(rows)
	if out.String() != "A  B\nä  x\n" {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	s.colour = true
	s.table(rows)
	if want := "A  B\n\x1b[31mä\x1b[0m  x\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	s.table([][]cell{plainCells("\x1b[2Jhost\r\n", "y")})
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("drives the terminal: %q", out.String())
	}
}

func TestYAMLKeepsTypes(t *testing.T) {
	b, err := asYAML(map[string]any{"a": "true", "b": true, "c": "12", "d": 12, "e": nil, "f": "x: y\nz", "g": uint64(1) << 47, "h": ""})
	if err != nil {
		t.Fatal(err)
	}
	want := "a: \"true\"\nb: true\nc: \"12\"\nd: 12\ne: null\nf: |-\n    x: y\n    z\ng: 140737488355328\nh: \"\"\n"
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}
