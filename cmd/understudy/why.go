package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// sentences say who is master, who would take over next, and what prevents
// whom, each with what to do about it.
func (r statusReport) sentences() []string {
	out := append(r.whoIsMaster(), r.whatStands()...)
	out = append(out, r.whoWouldBe()...)
	for _, n := range sortedNodes(r.Plane) {
		if !n.Electable && n.NodeID != deref(r.Plane.LeaderID) {
			out = append(out, fmt.Sprintf("%s would not take over: %s.", n.NodeID, whyNot(n)))
		}
	}
	return out
}

func (r statusReport) whoIsMaster() []string {
	p := r.Plane
	switch {
	case p.MasterID != nil:
		return []string{fmt.Sprintf("%s is master in term %d.", *p.MasterID, p.Term)}
	case p.LeaderID != nil:
		return []string{fmt.Sprintf("%s holds term %d, and its service is not ready: nobody serves. See its log, and understudy service status there.", *p.LeaderID, p.Term)}
	}
	return []string{fmt.Sprintf("Nobody is master; the highest term was %d.", p.Term)}
}

// whatStands tells of what operators asked for, and of what is held.
func (r statusReport) whatStands() []string {
	var out []string
	p := r.Plane
	for _, op := range p.Operations {
		out = append(out, operationSentence(op))
	}
	if p.Paused {
		out = append(out, "The plane is paused: nobody takes over, also not from a master that dies, until understudy resume.")
	}
	if p.Flapping {
		out = append(out, "The mastership has moved too often: it moves no more by itself, except away from a dead master. Look for the cause, then run understudy ack.")
	}
	if p.FailbackTo != "" {
		out = append(out, fmt.Sprintf("%s has a higher priority than the master and could take over: understudy switchover --to %s.", p.FailbackTo, p.FailbackTo))
	}
	return out
}

func operationSentence(op v1.Operation) string {
	what := "A " + op.Kind
	if op.To != nil {
		what += " to " + *op.To
	}
	if op.Node != nil {
		what += " of " + *op.Node
	}
	words := []string{what, "is", op.State}
	if op.State == string(ha.OpRunning) && op.Node != nil {
		words = []string{what, "is in force"}
	}
	if op.At != nil {
		words = append(words, "for", op.At.Local().Format(time.DateTime))
	}
	if op.Until != nil {
		words = append(words, "until", op.Until.Local().Format(time.DateTime))
	}
	if op.Actor != nil {
		words = append(words, "by", *op.Actor)
	}
	if op.Reason != nil {
		words = append(words, "("+*op.Reason+")")
	}
	return strings.Join(words, " ") + "."
}

// whoWouldBe names the candidates in the order in which they would claim.
func (r statusReport) whoWouldBe() []string {
	order := r.order()
	switch {
	case len(order) == 0 && r.Plane.LeaderID != nil:
		return []string{"If it ended now, nobody could take over."}
	case len(order) == 0:
		return []string{"Nobody can take over."}
	}
	next := "The next to take over is " + string(order[0].Node)
	if order[0].Priority != 0 {
		next += fmt.Sprintf(", whose priority is %d", order[0].Priority)
	}
	if len(order) > 1 {
		var rest []string
		for _, c := range order[1:] {
			rest = append(rest, string(c.Node))
		}
		next += "; after it " + strings.Join(rest, ", ")
	}
	t := time.Duration(r.Metrics.HighAvailability.HeartbeatTimeout) * time.Millisecond
	wait := election.Timing{Timeout: t}.ClaimAfter(0)
	return []string{next + ".", fmt.Sprintf("After a clean end it claims at once, after a crash of the whole machine within %s.", words(wait.Milliseconds()))}
}

func (r statusReport) order() []election.Candidate {
	var cs []election.Candidate
	for id, n := range r.Plane.Nodes {
		if !n.Electable || id == deref(r.Plane.LeaderID) {
			continue
		}
		c := election.Candidate{Node: lease.NodeID(id), Version: deref(n.Version), State: lease.State(n.Status)}
		if n.Priority != nil {
			c.Priority = *n.Priority
		}
		cs = append(cs, c)
	}
	election.Order(cs)
	return cs
}

// remedies say what to do about what keeps a node from being master.
var remedies = map[string]string{
	election.ReasonMaintenance:   "it is in maintenance; end it with understudy maintenance off",
	election.ReasonHeldOff:       "it stepped down and is held off for a while; understudy mode AUTO there ends that",
	election.ReasonBackup:        "it is a hot backup, which is never promoted; understudy mode AUTO there makes it a candidate",
	election.ReasonDisabled:      "it is disabled; understudy mode AUTO there brings it back",
	election.ReasonServiceFailed: "its service failed; see understudy service status there, then understudy service reset-failures",
	election.ReasonPromotion:     "its last promotion failed; see its log, it tries again after a while",
	election.ReasonUntrusted:     "its store has not passed verification; see understudy doctor there",
	election.ReasonStore:         "it can not reach the store; see understudy doctor there",
	election.ReasonFencingFailed: "its former service can not be stopped; see its log",
	election.ReasonStarting:      "it is starting",
	election.ReasonStopping:      "it is stopping",
	election.ReasonForgetful:     "its data directory takes nothing; free space there",
	"SILENT":                     "it has not been heard of lately; is the machine up, and the daemon running?",
}

func whyNot(n v1.Node) string {
	if n.Status == v1.StateTerminated {
		return "it was stopped; start it there"
	}
	why := deref(n.Why)
	words := cmp.Or(remedies[why], "it is "+string(n.Status)+" and says "+why)
	if n.AgeMs != nil && why == "SILENT" {
		words += " Last heard of " + time.Duration(*n.AgeMs*int64(time.Millisecond)).Round(time.Second).String() + " ago"
	}
	return words
}
