package election

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Random supplies chance, so that the machine has none of its own.
type Random interface {
	WriteID() lease.WriteID // 128 fresh random bits
	PlaneID() lease.PlaneID
	Jitter(limit time.Duration) time.Duration // in [0, limit)
}

// Former is a run of this node that is proven to be over, its service tree
// included (R10). The runtime checks the local record; the machine only uses
// what it proves.
type Former struct {
	Term        lease.Term
	Incarnation lease.Incarnation
}

// Config is what a Machine is made of.
type Config struct {
	Node        lease.NodeID
	Incarnation lease.Incarnation
	Timing      Timing
	Mode        lease.Mode
	HotStandby  bool // AUTO shows HOT_STANDBY rather than STANDBY
	Priority    int
	Version     string
	DrainDelay  time.Duration // of planned ends, before the service is stopped
	AutoInit    bool          // this node may make the register (R0)
	Persist     bool          // each reign begins by reading the persisted state
	Failback    Failback
	AntiFlap    AntiFlap

	// What the local disk remembers: which plane this node belongs to and the
	// highest term it has acted on. Empty and 0 for a node that never ran.
	Plane   lease.PlaneID
	MaxTerm lease.Term
	Former  *Former // nil: no former run, or nothing proven about it

	// Fencible are the nodes whose machines this node can power off with proof,
	// by its own local configuration, and FenceLimit is how long that may take
	// (R6b). 0: nobody is fenced before the lease has ended.
	Fencible   []lease.NodeID
	FenceLimit time.Duration

	Random  Random
	Without Rules // tests only
}

// Machine is one node's part in the election. It is not safe for concurrent
// use; one goroutine owns it.
type Machine struct {
	cfg   Config
	now   lease.Instant
	stood time.Duration // by how much this Step came after the Deadline of the one before
	wake  time.Duration // from now to the earliest instant that can change anything
	out   []Action

	plane   lease.PlaneID
	durable memory // what the local disk is known to hold
	keeping bool   // a Remember is under way
	keepErr lease.Instant

	watch     watch         // the register as it was last read
	high      Position      // highest value ever seen
	highLease time.Duration // longest lease ever seen
	w         writer        // own attempts
	reign     *reign        // nil while this node does not hold the register
	claim     claim         // the claim being prepared or made

	reading   bool
	readSent  lease.Instant // start of the read under way, or of the last one
	everRead  bool          // readSent means something
	needRead  bool          // somebody waits for a read
	urgent    bool          // and has not had one yet
	lastRead  lease.Instant // completion of the last read that succeeded
	readOK    bool          // lastRead means something
	answered  lease.Instant // when the store last answered at all, if only that there is no register
	storeDown string        // why the last read failed; empty if it did not
	writeDown string        // why the last write was not confirmed; empty if it was

	off     lease.NodeID // the node whose power-off was confirmed last
	birth   birth
	trusted bool // R18
	trouble trouble
	mistrust,
	pausedWish string
	peers       []Candidate
	prefer      lease.NodeID    // an operator wants this one to claim first
	better      better          // of the candidates, for failbacks
	acked       lease.Instant   // when an operator last said that it may move again
	changes     []lease.Instant // the role changes that nobody asked for, oldest first
	maintenance string          // why this node is not to be master; empty: it may
	resumed     string          // the version whose pause an operator has ended

	decided  bool          // the starting mode has been honoured
	since    lease.Instant // when the machine was started
	begun    bool
	holdOff  until // not electable before
	failed   until // FAILED before, with a reason
	failures int   // promotions in a row that came to nothing
	ending   bool
	endingAt lease.Instant
	endWhy   string
	ended    bool
}

type memory struct {
	plane lease.PlaneID
	term  lease.Term
	claim lease.Term // the term whose R10 record is durable
}

// until is something that ends after a while on the own clock.
type until struct {
	from lease.Instant
	d    time.Duration
	why  string
	code string // reason code, where there is a choice
}

// trouble is a reason code and a sentence with the remedy.
type trouble struct{ code, detail string }

// Position is a place in the register's chain of values.
type Position = lease.Position

// Reason codes of a FAILED or not electable node.
const (
	ReasonUnreadable    = "REGISTER_UNREADABLE"
	ReasonVanished      = "REGISTER_VANISHED"
	ReasonNoRegister    = "NO_REGISTER"
	ReasonPlaneMismatch = "PLANE_MISMATCH"
	ReasonStore         = "STORE_UNREACHABLE"
	ReasonUntrusted     = "STORE_NOT_VERIFIED"
	ReasonFencingFailed = "FENCING_FAILED"
	ReasonServiceFailed = "SERVICE_FAILED"
	ReasonPromotion     = "PROMOTION_FAILED"
	ReasonState         = "STATE_UNREADABLE"
	ReasonLeaseLost     = "LEASE_LOST"
	ReasonDisabled      = "DISABLED"
	ReasonHeldOff       = "HELD_OFF"
	ReasonBackup        = "HOT_BACKUP"
	ReasonStarting      = "STARTING"
	ReasonStopping      = "STOPPING"
	ReasonPaused        = "PAUSED"
	ReasonForgetful     = "DATA_DIR_FAILED"
	ReasonMaintenance   = "MAINTENANCE"
	ReasonFlapping      = "FLAPPING"
)

const never = time.Hour // a bound for Deadline when nothing is due

// New returns a machine that has not read anything yet. The first Step starts
// its clock.
func New(cfg Config) *Machine {
	m := &Machine{
		cfg:     cfg,
		plane:   cfg.Plane,
		durable: memory{plane: cfg.Plane, term: cfg.MaxTerm},
		wake:    0,
	}
	m.high.Term = cfg.MaxTerm
	return m
}

// Step tells the machine what happened at now and returns what to do. It first
// ends whatever now has ended, then looks at the event.
func (m *Machine) Step(now lease.Instant, ev Event) []Action {
	if m.begun {
		m.stood = max(0, now.Longest(m.now)-m.wake)
		if r := m.reign; r != nil && r.owed {
			r.quiet = r.quiet.Add(m.stood) // the guard's answer may have been waiting for us
		}
	}
	m.now, m.out = now, nil
	if !m.begun {
		m.begun, m.since = true, now
	}
	if m.ended {
		m.wake = never
		return nil
	}
	m.wake = never
	m.expire()
	m.handle(ev)
	m.wake = never
	m.expire()
	m.progress()
	return m.out
}

// Deadline is the earliest instant at which a Tick can change anything.
func (m *Machine) Deadline() lease.Instant { return m.now.Add(m.wake) }

func (m *Machine) handle(ev Event) {
	switch ev := ev.(type) {
	case Tick:
	case ReadDone:
		m.readDone(ev)
	case WriteDone:
		switch {
		case ev.Applied:
			m.answered, m.writeDown = m.now, ""
		case !ev.Unsent:
			m.writeDown = ev.Detail
		}
		m.writeDone(ev)
	case Listed:
		m.listed(ev)
	case BirthDone:
		m.birth = birth{}
		m.wantRead()
	case Remembered:
		m.remembered(ev)
	case Armed:
		m.armed(ev)
	case Ready:
		m.ready(ev.Term)
	case Unready:
		if r := m.reignOf(ev.Term); r != nil && r.ready {
			r.ready = false
			m.note(NoteUnready, r.term, "the service is being restarted")
		}
	case ServiceFailed:
		m.serviceFailed(ev)
	case GuardStopping:
		if r := m.reignOf(ev.Term); r != nil && !m.cfg.Without.off(WithoutG2) {
			m.giveUp(r, ReasonLeaseLost, "the guard began the stop: "+ev.Why)
		}
	case TreeStuck:
		if r := m.reignOf(ev.Term); r != nil && !r.empty {
			m.giveUp(r, ReasonFencingFailed, ev.Why)
			r.stuck = true
			m.note(NoteStuck, r.term, ev.Why)
		}
	case TreeEmpty:
		if r := m.reignOf(ev.Term); r != nil {
			m.giveUpQuietly(r)
			r.empty, r.stuck = true, false
		}
	case GuardLost:
		if r := m.reignOf(ev.Term); r != nil {
			m.giveUp(r, ReasonLeaseLost, "the guard died")
		}
	case Fenced:
		m.fenced(ev)
	case Loaded:
		m.stateLoaded(ev)
	case Commit:
		m.commit(ev)
	case Peers:
		m.peers, m.prefer = ev.Candidates, ev.Prefer
		m.weigh()
	case Nudged:
		m.wantNewRead()
	case Trust:
		m.trusted, m.mistrust = ev.OK, ev.Why
	case SetMode:
		m.setMode(ev)
	case SetPriority:
		m.cfg.Priority = ev.Priority
		m.weigh()
	case SetMaintenance:
		m.maintenance = ev.Why
	case Moves:
		m.told(ev.Ages)
	case Ack:
		m.changes, m.acked = nil, m.now
	case StepDown:
		if r := m.reign; r != nil {
			m.leave(r, leaving{why: ev.Why, end: EndAsked, to: ev.To, holdOff: ev.HoldOff})
		}
	case SetPaused:
		m.setPaused(ev.Paused)
	case SetTimeout:
		m.cfg.Timing = ev.Timing
		if r := m.reign; r != nil && m.cfg.Without.off(WithoutR13) {
			r.timing = ev.Timing
		}
	case Shutdown:
		if !m.ending {
			m.ending, m.endingAt, m.endWhy = true, m.now, ev.Why
			if r := m.reign; r != nil {
				m.leave(r, leaving{why: ev.Why, end: EndShutdown})
			}
		}
	}
}

// progress does everything that can be done now.
func (m *Machine) progress() {
	if m.reign != nil {
		m.progressReign(m.reign)
	}
	if m.reign == nil {
		m.decide()
		m.progressBirth()
		m.progressClaim()
		m.progressFence()
	}
	m.progressMemory()
	m.progressEnd()
	m.progressRead()
}

// progressRead sends a read when one is due. At most one is under way.
func (m *Machine) progressRead() {
	if m.ended || m.reading {
		return
	}
	due := m.urgent
	if !due && m.everRead && (m.needRead || m.reign == nil) {
		due = m.spent(m.readSent, m.cfg.Timing.Poll)
	}
	if due || !m.everRead {
		m.reading, m.urgent, m.everRead, m.readSent = true, false, true, m.now
		m.act(Read{})
	}
}

// wantRead asks for a read. The first one goes out at once, repetitions at the
// pace of polls.
func (m *Machine) wantRead() {
	if !m.needRead {
		m.needRead, m.urgent = true, true
	}
}

// wantNewRead asks for a read that begins after this moment: one that is under
// way already may be too old for the question.
func (m *Machine) wantNewRead() { m.needRead, m.urgent = true, true }

// progressMemory keeps the local disk's {plane, highest term} up to date with
// what was seen (R0). A claim asks for its own term itself.
func (m *Machine) progressMemory() {
	if m.ended || m.plane == "" || m.keeping {
		return
	}
	if m.durable.plane == m.plane && m.durable.term >= m.high.Term && m.trouble.code != ReasonForgetful {
		return
	}
	m.remember(Remember{Plane: m.plane, Term: max(m.high.Term, m.durable.term)})
}

func (m *Machine) remember(a Remember) {
	if m.keeping || (!m.keepErr.IsZero() && !m.spent(m.keepErr, m.cfg.Timing.Heartbeat)) {
		return
	}
	m.keeping, m.keepErr = true, lease.Instant{}
	m.act(a)
}

func (m *Machine) remembered(ev Remembered) {
	m.keeping = false
	if ev.Failed != "" {
		m.keepErr, m.claim.keeping = m.now, 0
		detail := "the data directory does not take what this node must remember before it may claim: " + ev.Failed + "; free space there or put it right, and it is tried again"
		if m.trouble.code != ReasonForgetful {
			m.note(NoteForgetful, ev.Term, ev.Failed)
		}
		m.trouble = trouble{ReasonForgetful, detail}
		return
	}
	if m.trouble.code == ReasonForgetful {
		m.trouble = trouble{}
	}
	m.durable.plane, m.durable.term = ev.Plane, max(m.durable.term, ev.Term)
	if m.claim.keeping == ev.Term && ev.Term != 0 {
		m.durable.claim, m.claim.keeping = ev.Term, 0
	}
}

// progressEnd ends the process once nothing is left to settle.
func (m *Machine) progressEnd() {
	if !m.ending || m.ended {
		return
	}
	if r := m.reign; r != nil {
		// Once the lease has run out by anybody's count a release saves
		// nobody any time, so a dead store does not keep us for ever.
		if !r.empty || !m.spent(later(r.t0, m.endingAt), m.cfg.Timing.ClaimAfter(r.timing.Timeout)) {
			return
		}
	} else if len(m.w.open) > 0 && !m.spent(m.endingAt, 2*(m.cfg.Timing.Heartbeat+m.cfg.Timing.Operation)) {
		m.wantRead() // a claim may have landed; if so it is released first
		return
	}
	m.quit(0, m.endWhy)
}

func (m *Machine) quit(code int, why string) {
	m.ended = true
	m.act(Quit{Code: code, Reason: why})
}

func (m *Machine) act(a Action) { m.out = append(m.out, a) }

func (m *Machine) note(k NoteKind, t lease.Term, detail string) {
	m.act(Note{Kind: k, Term: t, Detail: detail})
}

// spent reports whether d has passed since t by the serving side's count, and
// otherwise makes sure that a Tick comes when it has.
func (m *Machine) spent(t lease.Instant, d time.Duration) bool {
	left := d - m.now.Longest(t)
	if left > 0 {
		m.wake = min(m.wake, left)
	}
	return left <= 0
}

// waited is spent by the observing side's count.
func (m *Machine) waited(t lease.Instant, d time.Duration) bool {
	left := d - m.now.Shortest(t)
	if left > 0 {
		m.wake = min(m.wake, left)
	}
	return left <= 0
}

func (m *Machine) over(u until) bool { return u.d == 0 || m.waited(u.from, u.d) }

func later(a, b lease.Instant) lease.Instant {
	if b.Boot > a.Boot {
		return b
	}
	return a
}
