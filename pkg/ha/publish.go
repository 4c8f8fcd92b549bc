package ha

import (
	"maps"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// historyLimit is how many transitions and reigns a status carries.
const historyLimit = 200

// publish replaces the status by a new picture.
func (n *Node) publish(now lease.Instant) {
	v := n.machine.View(now)
	s := &Status{
		Plane: v.Plane, Node: n.opts.Node, Incarnation: n.inc, URI: n.opts.URI, Host: n.recorder.host,
		Version: n.opts.Version, Mode: v.Mode, Priority: v.Priority, Started: n.started,
		Heartbeat: v.Timing.Heartbeat, Timeout: v.Timing.Timeout, Poll: v.Timing.Poll,
		Standing: v.Standing, Why: v.Why, Detail: v.Detail, Warnings: n.warnings,
		Compat: n.opts.StateCompat, Electable: v.Electable, Stopping: v.Ending, Paused: v.Paused,
		Term: v.Term, Holder: v.Holder, HolderOK: v.HolderOK, HolderSeen: v.Since,
		Store: n.storage, Service: n.service.Info(), LoopAt: n.loopAt, LateAt: n.lateAt,
	}
	s.Store.Latency = time.Duration(n.latency.Load())
	if !v.Held {
		s.Holder = ""
	}
	if r := v.Reign; r != nil {
		s.Reign = &ReignStatus{
			Term: r.Term, T0: r.T0, End: r.End, Late: r.Late, Ready: r.Ready, Leading: r.Leading, Ending: r.Ending, Since: n.phases.since,
		}
	}
	s.Persisted = n.keeper.status(v.Head)
	if s.Reign == nil && s.Persisted.Enabled && !s.Persisted.Held && isHot(s.Standing) {
		s.Standing = lease.StateInitializing // it loads the state for the first time
		s.Detail = s.Persisted.Error
	}
	s.Fenced = n.fences.last
	if s.Fencing = n.fences.status(v.Version); s.Fencing != nil && s.Reign != nil && s.Why == "" {
		s.Why, s.Detail = ReasonFencing, s.Fencing.sentence()
	}
	if n.registered = !v.Since.IsZero(); n.registered {
		n.mayVerify()
	}
	s.Operations, s.Flapping, s.Failback, s.Moves = n.ops.list(), v.Flapping, v.Failback, v.Changes
	n.transition(now, s)
	s.History = n.history
	s.Counts = n.sums()
	s.Reigns = n.reigns.list()
	s.Nodes = n.nodes(now, s)
	n.chronicle.seen(n.status.Swap(s), s)
	n.ops.shown(s, now)
	n.recorder.shown(s, now)
	n.recorder.watchHolder(&v)
	n.peers.shown(s, now)
	n.reigns.shown(s)
	n.keeper.shown(&v, s)
	if n.opts.OnStatus != nil {
		n.opts.OnStatus(s, now)
	}
}

// nodes is what is known of the plane's nodes, this one included.
func (n *Node) nodes(now lease.Instant, s *Status) map[lease.NodeID]NodeStatus {
	out := maps.Clone(n.peers.known())
	if out == nil {
		out = map[lease.NodeID]NodeStatus{}
	}
	if h, ok := out[s.Holder]; ok && s.HolderOK {
		// A master writes its record seldom; its renewals are its heartbeat.
		h.SeenAt, h.AgeAtRef = s.HolderSeen, 0
		out[s.Holder] = h
	}
	out[n.opts.Node] = NodeStatus{NodeRecord: n.recorder.record(s, now), SeenAt: n.recorder.wroteAt()}
	return out
}

// transition logs and keeps each change of the node's state: one line at Info
// per change, the rest at Debug.
func (n *Node) transition(now lease.Instant, s *Status) {
	is := shown{state: s.StateAt(now), term: s.Term, why: s.Why}
	if is.state == n.shown.state && (is.why == n.shown.why || is.state != lease.StateFailed) {
		n.shown.term, n.shown.why = is.term, is.why
		return
	}
	before := n.shown
	n.shown = is
	reason, code := n.reason(s, is.state, before.state), n.code(s, is.state, before.state)
	n.counts.changed(Change{To: is.state, Code: code})
	f := []zap.Field{
		zap.String("plane", string(s.Plane)), zap.Uint64("term", uint64(is.term)),
		zap.String("from", string(before.state)), zap.String("to", string(is.state)), zap.String("reason", reason),
	}
	if is.state == lease.StateFailed {
		f = append(f, zap.String("store", s.Store.URL)) // most failures are its
	}
	n.log.Info("state", f...)
	h := append([]Transition{{State: is.state, Term: is.term, Code: code, Reason: reason, At: time.Now()}}, n.history...)
	n.history = h[:min(len(h), historyLimit)]
	n.chronicle.add(PlaneEvent{Type: EventState, Node: s.Node, Term: is.term, From: string(before.state), To: string(is.state), Code: code, Detail: reason})
}

// reason says in words why the state changed.
func (n *Node) reason(s *Status, is, was lease.State) string {
	switch {
	case is == lease.StateMaster:
		return n.phases.reason
	case is == lease.StateFailed && s.Detail != "":
		return s.Why + ": " + s.Detail
	case is == lease.StateInitializing && was == lease.StateMaster && s.Service.Detail != "":
		return "the service is down: " + s.Service.Detail
	case is == lease.StateInitializing && was == lease.StateMaster:
		return "the service is being restarted"
	case was == lease.StateMaster:
		return n.phases.endReason
	case is == lease.StateTerminated:
		return "stopped"
	case s.Holder != "" && s.Holder != n.opts.Node:
		return "held by " + string(s.Holder)
	case is == lease.StateInitializing:
		return "starting"
	}
	return "no master is known"
}

// code says why the state changed, by reason code.
func (n *Node) code(s *Status, is, was lease.State) string {
	switch {
	case is == lease.StateMaster && n.opts.Mode == lease.ModeDisabled:
		return ChangedAlone
	case is == lease.StateMaster && n.ruled == s.Term:
		return ChangedRecovered
	case is == lease.StateMaster:
		n.ruled = s.Term
		return n.phases.code
	case is == lease.StateFailed && s.Why != "":
		return s.Why
	case is == lease.StateFailed:
		return election.ReasonLeaseLost // it ran down before the loop could say why
	case is == lease.StateTerminated:
		return ChangedStopped
	case is == lease.StateInitializing && was == lease.StateMaster:
		return ChangedRestart
	case was == lease.StateMaster:
		return ChangedLeft
	case is == lease.StateInitializing:
		return ChangedStarted
	}
	return ChangedFollows
}

// changed counts a transition. The map is published, so it is replaced.
func (c *Counts) changed(to Change) {
	m := maps.Clone(c.Changes)
	if m == nil {
		m = map[Change]uint64{}
	}
	m[to]++
	c.Changes = m
}

// sums are the counts with those that others keep.
func (n *Node) sums() Counts {
	c := n.counts
	c.Records, c.RecordsFailed = n.recorder.sums()
	c.Commits = n.keeper.commits.Load()
	c.Backups, c.BackupsFailed = n.keeper.backups.Load(), n.keeper.backupsFailed.Load()
	return c
}

// loudness of notes; the rest is for Debug.
var loudness = map[election.NoteKind]zapcore.Level{
	election.NoteAlarm:       zapcore.ErrorLevel,
	election.NoteStuck:       zapcore.ErrorLevel,
	election.NoteRollback:    zapcore.ErrorLevel,
	election.NoteUnreadable:  zapcore.ErrorLevel,
	election.NotePlane:       zapcore.ErrorLevel,
	election.NoteLate:        zapcore.WarnLevel,
	election.NoteLapsed:      zapcore.WarnLevel,
	election.NoteDemoted:     zapcore.WarnLevel,
	election.NoteForgetful:   zapcore.WarnLevel,
	election.NoteGuardSilent: zapcore.WarnLevel,
	election.NoteHeldOff:     zapcore.InfoLevel,
	election.NoteFailback:    zapcore.InfoLevel,
	election.NoteFlapping:    zapcore.WarnLevel,
}

// noted turns a note of the machine into log lines and history.
func (n *Node) noted(now lease.Instant, a election.Note) {
	level, ok := loudness[a.Kind]
	if !ok {
		level = zapcore.DebugLevel
	}
	f := []zap.Field{zap.Uint64("term", uint64(a.Term)), zap.String("detail", a.Detail)}
	if level >= zapcore.WarnLevel {
		f = append(f, zap.String("store", n.storage.URL)) // which is to be looked at, as a rule
	}
	if a.Kind == election.NoteLate {
		f = append(f, zap.String("code", CodeLate))
	}
	n.log.Log(level, string(a.Kind), f...)
	switch a.Kind {
	case election.NoteClaiming:
		v := n.machine.View(now)
		n.phases.claiming(now, n.Status(), &v, a.Detail)
	case election.NoteClaimLost:
		n.phases.claims = false // the next attempt is another claim
	case election.NoteClaimed:
		n.phases.claimed(now)
	case election.NoteServing:
		if n.phases.ready(now) {
			n.reigns.began(ReignRecord{
				Term: a.Term, Node: n.opts.Node, Incarnation: n.inc, From: n.phases.since,
				Code: n.phases.why, Reason: n.phases.reason, Phases: n.phases.ms, Fencing: n.fences.done,
			})
		}
	case election.NoteReleased:
		why := a.Detail
		if why == "" {
			why = n.phases.endReason
		}
		n.reigns.ended(a.Term, n.ops.endCode(a.Term, a.Code), why)
		n.ops.released(now, a.Term)
	case election.NoteDraining:
		n.phases.endReason = a.Detail
		n.ops.leave.draining(now, a.Term)
		if d, ok := n.service.(Demoter); ok {
			d.Demote(a.Term, StopReason(a.Detail))
		}
	case election.NoteStopping:
		n.phases.endReason = a.Detail
		n.ops.leave.stopping(now, a.Term)
	case election.NoteLate:
		n.counts.Late++
		n.lateAt = now
		n.chronicle.add(PlaneEvent{Type: EventNotice, Node: n.opts.Node, Term: a.Term, Code: CodeLate, Detail: a.Detail})
	case election.NoteAlarm, election.NoteStuck, election.NoteRollback, election.NoteUnreadable, election.NotePlane,
		election.NoteLapsed, election.NoteDemoted, election.NoteForgetful, election.NoteGuardSilent,
		election.NoteUnready, election.NoteBorn, election.NoteHolder, election.NoteHeldOff,
		election.NoteTakeover, election.NoteFailback, election.NoteFencing, election.NoteFenced, election.NoteUnfenced:
	case election.NoteFlapping:
		n.chronicle.add(PlaneEvent{Type: EventNotice, Node: n.opts.Node, Term: a.Term, Code: election.ReasonFlapping, Detail: a.Detail})
	}
}

// phaseClock measures the parts of a take-over on the own clock.
type phaseClock struct {
	at        lease.Instant
	claims    bool
	ms        Phases
	reason    string
	code      string // of a Change to MASTER
	why       string // reason code of the reign
	endReason string
	since     time.Time
	open      bool
}

func (p *phaseClock) claiming(now lease.Instant, s *Status, v *election.View, from string) {
	lastLife := v.Since
	if p.claims {
		return // a repeated attempt belongs to the same claim
	}
	*p = phaseClock{at: now, claims: true, reason: "silent: " + from, code: ChangedSilent, why: claimCode(s.Node, v)}
	if s.Holder == "" {
		p.reason, p.code = from, ChangedReleased
	}
	if !lastLife.IsZero() {
		p.ms.Detected = now.Longest(lastLife).Milliseconds()
	}
}

// claimCode is why a node claims the register as it sees it.
func claimCode(self lease.NodeID, v *election.View) string {
	switch {
	case v.Holder == "":
		return CodeBirth
	case v.Held && v.Holder == self:
		return CodeSameNode
	case v.Held:
		return CodeSilent
	case v.To == self:
		return CodeNamed
	case v.To != "":
		return CodeRollback
	}
	return CodeReleased
}

func (p *phaseClock) lap(now lease.Instant) int64 {
	d := now.Longest(p.at).Milliseconds()
	p.at = now
	return d
}

func (p *phaseClock) claimed(now lease.Instant) {
	p.ms.Claimed, p.since, p.open, p.claims = p.lap(now), time.Now(), true, false
}
func (p *phaseClock) fenced(now lease.Instant) { p.ms.Fenced = p.lap(now) }
func (p *phaseClock) start(now lease.Instant)  { p.ms.Started = p.lap(now) }

// ready reports whether this is the first time in the reign.
func (p *phaseClock) ready(now lease.Instant) bool {
	first := p.open
	if first {
		p.ms.Ready, p.open = p.lap(now), false
	}
	return first
}
