package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// DefaultLimit bounds a check that sets no limit of its own.
const DefaultLimit = 5 * time.Second

// grace is what a check is given to come back once its context has ended.
const grace = 500 * time.Millisecond

// Check is one look at one thing.
type Check struct {
	Name  string        // names the line when there is no answer in time
	Limit time.Duration // 0: DefaultLimit
	// Late is the remedy when there is no answer in time.
	Late string
	// Run makes the lines; none when there is nothing to look at. It should
	// return when ctx ends. Where it hangs all the same, in a file system for
	// example, it is left behind.
	Run func(ctx context.Context) []persistence.Finding
}

// Report is what a run found.
type Report struct {
	OK       bool                  `json:"ok"`      // nothing failed
	Verdict  string                `json:"verdict"` // one line: fit to run or not, and what to look at
	Fails    int                   `json:"fails"`
	Warnings int                   `json:"warnings"`
	Findings []persistence.Finding `json:"findings"`
}

// Watcher is told how a run goes on. Either may be nil.
type Watcher struct {
	Begin func(name string)         // a check begins
	Line  func(persistence.Finding) // a line is known
}

// Run performs the checks one after the other, so that none disturbs another's
// measurements. It returns when all are done or given up, or soon after ctx has
// ended.
func Run(ctx context.Context, checks []Check, w Watcher) Report {
	r := Report{Findings: []persistence.Finding{}}
	for _, c := range checks {
		if ctx.Err() != nil {
			break
		}
		if w.Begin != nil {
			w.Begin(c.Name)
		}
		for _, f := range c.run(ctx) {
			r.Findings = append(r.Findings, f)
			if w.Line != nil {
				w.Line(f)
			}
		}
	}
	r.judge()
	return r
}

func (c Check) run(ctx context.Context) []persistence.Finding {
	limit := c.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []persistence.Finding, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case lines := <-done:
		return lines
	case <-ctx.Done():
	}
	select {
	case lines := <-done:
		return lines
	case <-time.After(grace):
	}
	late := c.Late
	if late == "" {
		late = "a file system it touches may hang: look at 'dmesg' and at processes in state D"
	}
	return []persistence.Finding{fail(c.Name, late, "no answer within %s", limit)}
}

// judge counts, and makes one sentence of the lines.
func (r *Report) judge() {
	var failed, doubtful []string // names, each once
	for _, f := range r.Findings {
		switch f.Status {
		case persistence.GradeFail:
			r.Fails++
			failed = append(failed, f.Name)
		case persistence.GradeWarn:
			r.Warnings++
			doubtful = append(doubtful, f.Name)
		case persistence.GradeOK:
		}
	}
	r.OK = r.Fails == 0
	switch {
	case r.Fails > 0:
		r.Verdict = "not fit to run; failed: " + list(failed)
	case r.Warnings > 0:
		r.Verdict = "fit to run; worth a look: " + list(doubtful)
	default:
		r.Verdict = "fit to run"
	}
}

func list(names []string) string { return strings.Join(slices.Compact(names), ", ") }

func ok(name, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(name, remedy, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeWarn, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

func fail(name, remedy, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeFail, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Failed makes a line of an error. Errors of this project end with the remedy,
// after a semicolon.
func Failed(name string, err error) persistence.Finding {
	return split(persistence.GradeFail, name, err.Error())
}

// Warning makes a line of a warning, which ends with its remedy like an error.
func Warning(name, text string) persistence.Finding {
	return split(persistence.GradeWarn, name, text)
}

var kinds = []error{
	persistence.Conflict, persistence.Unknown, persistence.Absent, persistence.Torn, persistence.Denied,
	persistence.Unsupported, persistence.Full, persistence.ReadOnly, persistence.Throttled,
}

func split(g persistence.Grade, name, text string) persistence.Finding {
	text = strings.Join(strings.Fields(text), " ")
	for _, kind := range kinds { // for callers that branch; what follows says the same in words
		text = strings.TrimPrefix(text, kind.Error()+": ")
	}
	f := persistence.Finding{Name: name, Status: g, Detail: text}
	if i := strings.LastIndex(text, "; "); i > 0 {
		f.Detail, f.Remedy = text[:i], text[i+2:]
	}
	return f
}

// short rounds a duration to what a reader takes in.
func short(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
