package faults_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// The table lives between these lines of the document.
const (
	document  = "../../docs/safety.md"
	tableFrom = "<!-- written by FAULTS=update go test ./test/faults -->\n"
	tableTo   = "<!-- end of what is written -->\n"
)

// nothing stands in a cell that the fault can not strike.
const nothing = "–"

func writeTable(rows []*[columns]cell) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| fault | %s |\n|---|%s\n", strings.Join(columnNames[:], " | "), strings.Repeat("---|", int(columns)))
	for i, f := range faults {
		if rows[i] == nil {
			return fmt.Errorf("%q was not played, so the table can not be written; run all of TestTable", f.name)
		}
		fmt.Fprintf(&b, "| %s |", f.name)
		for _, c := range rows[i] {
			fmt.Fprintf(&b, " %v |", c)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, table, after, err := split(text)
	if err != nil {
		return err
	}
	if string(table) == b.String() {
		return nil
	}
	return os.WriteFile(document, bytes.Join([][]byte{before, []byte(b.String()), after}, nil), 0o644)
}

// split cuts the document in three; the markers go with what is around.
func split(text []byte) (before, table, after []byte, err error) {
	from, to := bytes.Index(text, []byte(tableFrom)), bytes.Index(text, []byte(tableTo))
	if from < 0 || to < from {
		return nil, nil, nil, fmt.Errorf("%s has no lines %q and %q; put them where the table belongs", document, tableFrom, tableTo)
	}
	from += len(tableFrom)
	return text[:from], text[from:to], text[to:], nil
}

// figure is a duration in a cell.
var figure = regexp.MustCompile(`, [0-9.]+m?s(;|$)`)

// readTable returns the documented classes by fault.
func readTable() (map[string][columns]string, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	_, table, _, err := split(text)
	if err != nil {
		return nil, err
	}
	out := map[string][columns]string{}
	for line := range strings.Lines(string(table)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != int(columns)+1 {
			continue
		}
		var row [columns]string
		for c := range columns {
			text := figure.ReplaceAllString(strings.TrimSpace(cells[c+1]), "$1")
			outcome, state, _ := strings.Cut(text, "; ")
			row[c] = cell{outcome: outcome, state: strings.Trim(state, "`")}.class()
		}
		out[strings.TrimSpace(cells[0])] = row
	}
	return out, nil
}
