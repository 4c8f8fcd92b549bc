package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	v1 "github.com/understudy-ha/understudy/api/v1"
)

// format is the flag -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// defaultFormat is UNDERSTUDY_OUTPUT, or a table.
func defaultFormat() format {
	f := formatTable
	_ = f.Set(os.Getenv("UNDERSTUDY_OUTPUT")) // what is not a format changes nothing
	return f
}

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch v := format(strings.ToLower(s)); v {
	case formatTable, formatJSON, formatYAML:
		*f = v
		return nil
	default:
		return fmt.Errorf("%q is not table, json or yaml", s)
	}
}

// Type implements pflag.Value.
func (*format) Type() string { return "format" }

// print writes v as asked for: as JSON or YAML with the names of the wire, or
// as the table for people.
func (g *globals) print(cmd *cobra.Command, v any, table func(w *screen)) error {
	out := cmd.OutOrStdout()
	switch g.output {
	case formatJSON:
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", b)
		return err
	case formatYAML:
		b, err := asYAML(v)
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	case formatTable:
	}
	s := newScreen(out)
	table(s)
	return s.err
}

// asYAML goes by way of JSON, so that both have the same names and order.
func asYAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var n yaml.Node // JSON is YAML in flow style
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, err
	}
	block(&n)
	return yaml.Marshal(&n)
}

// block turns flow style into the style people write; strings keep quotes
// only where they need them.
func block(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		block(c)
	}
}

// screen is text for people, in colour on a terminal only.
type screen struct {
	w      io.Writer
	colour bool
	err    error // the first that writing met
}

func newScreen(w io.Writer) *screen {
	return &screen{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor is small
}

func (s *screen) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
}

// cell is one word of a table with the colour it may have.
type cell struct {
	text string
	sgr  string // e.g. "32"; empty: none
}

func plainCells(words ...string) []cell {
	cells := make([]cell, len(words))
	for i, w := range words {
		cells[i].text = w
	}
	return cells
}

// stateCell colours a state: green serves, red needs a look.
func stateCell(s v1.State) cell {
	c := cell{text: string(s)}
	switch s {
	case v1.StateMaster:
		c.sgr = "1;32"
	case v1.StateFailed:
		c.sgr = "1;31"
	case v1.StateInitializing, v1.StateTerminated:
		c.sgr = "2"
	case v1.StateStandby, v1.StateHotStandby, v1.StateHotBackup:
	}
	return c
}

// table writes aligned columns; the last is not padded.
func (s *screen) table(rows [][]cell) {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range rows {
		var b bytes.Buffer
		for i, c := range r {
			text := printable(c.text)
			pad := width[i] - utf8.RuneCountInString(text)
			if s.colour && c.sgr != "" {
				text = "\x1b[" + c.sgr + "m" + text + "\x1b[0m"
			}
			b.WriteString(text)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", pad+2))
			}
		}
		s.printf("%s\n", strings.TrimRight(b.String(), " "))
	}
}

// printable keeps what other nodes say from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// deref is what p points to, or a dash.
func deref(p *string) string {
	if p == nil || *p == "" {
		return "-"
	}
	return *p
}
