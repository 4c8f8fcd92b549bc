/*
 * reign.pml: what begins and ends a reign beside the lease: the guard, the
 * release, the successor it names, and a node that comes back. README.md says
 * what is contained and what is left out, and how to read a trail; ./run
 * checks it.
 *
 * Two nodes, each a daemon and a guard, and the register. The daemon decides
 * (pkg/election), the guard alone starts and kills the service (pkg/guard).
 * What the daemon says takes as long as it likes, in order; what the guard says
 * is heard at once, unless the daemon is frozen.
 * A daemon that is started again is a new incarnation with a guard of its own;
 * the former guard may still be there.
 *
 * Reads are fresh and clocks exact here: what stale reads and drift can do is
 * lease.pml's part. There is no slack between E and C, so whatever is a tick
 * late is caught. A process that is not frozen does what is due before the
 * next tick; everything else happens at any time.
 */

#ifndef VERSIONS
#define VERSIONS 6   /* of the register, after the one it is born with */
#endif
#ifndef FAULTS
#define FAULTS 2     /* freezes and deaths of daemons and guards */
#endif

/* Ticks since t0: the stop begins (D), KILL (K), the right to serve ends (E). */
#define D 1
#define K 2
#define E 3
#define C 3          /* watch of a held value before it may be claimed */
#define TAKEOVER 2   /* watch of a release that names another node */
#define NOBODY 2

/* Incarnations of a node are told from the present one backwards. */
#define NOW 0
#define FORMER 1
#define OLDER 2

mtype = { claim, renewal, release };

typedef Guard {
	bit alive;
	bit frozen;
	bit armed;            /* holds the deadline of term, age ticks after its t0 */
	bit stop;             /* G2: the stop of term has begun */
	bit orphan;           /* it knows that its daemon is dead */
	bit tree;             /* the service: a process tree under this guard */
	bit child;            /* its release child's request may still arrive (G3) */
	unsigned age : 2;
	byte term;
	/* in the pipes: to the guard, in this order, */
	bit arm; bit armLate; byte armTerm;
	bit begin; bit halt;
	/* and to the daemon */
	bit ack; unsigned ackAge : 2;
	bit ready; bit gone
}

typedef Daemon {
	bit up;
	bit frozen;
	unsigned record : 2;  /* R10: on disk, the incarnation that claimed last, plus 1 */
	/* the attempt under way, at most one */
	mtype kind; bit open; bit fly; bit done; unsigned sent : 2; unsigned by : 2; /* NOW, FORMER, OLDER */
	/* watching */
	bit seen; unsigned watch : 2;
	/* the reign */
	bit reign; bit acked; bit started; bit ready;
	bit leaving; unsigned to : 2;
	bit over; bit stopped; bit gone; bit foreign;
	bit fresh;            /* its newest value is the one in the register */
	unsigned age : 2;     /* of the deadline that the guard has acknowledged, or of the claim */
	byte term;
	unsigned asked : 1;   /* an acknowledgement is owed */
	Guard g[2]            /* its own, and that of its former incarnation */
}

Daemon d[2];
byte cur;                         /* the register: its version, */
byte term; bit held;              /* term, held or released, */
byte holder = NOBODY; byte hinc;  /* by whom, by which incarnation of it, */
byte to = NOBODY;                 /* and who is meant to claim */
byte faults;
#ifdef NAMED
byte since;                       /* ticks since the present version was written */
#define SINCE(x) since = x
#define NAMEDONLY must(held || to == NOBODY || to == i || since >= TAKEOVER, "VIOLATED: a release that names another node is claimed\n")
#else
#define SINCE(x) skip
#define NAMEDONLY skip
#endif

#ifdef LIVE
bool calm;
#else
#define calm false
#endif

#define G(i) d[i].g[NOW]
#define steps(i) (d[i].up && !d[i].frozen && !lapsed(i))
#define lapsed(i) (d[i].reign && !d[i].over && d[i].age >= D)

/* R4, the truth rule; R11 and the oracle's view: a live tree counts, whatever its daemon believes. */
#ifdef NO_R4
#define truth(i) (d[i].up && d[i].reign && d[i].ready && !d[i].over)
#else
#define truth(i) (d[i].up && d[i].reign && d[i].ready && !d[i].over && d[i].age < E)
#endif
#define trees (d[0].g[0].tree + d[0].g[1].tree + d[1].g[0].tree + d[1].g[1].tree)
#define acts(i) (truth(i) || d[i].g[0].tree || d[i].g[1].tree)
/* must says in words what is violated, before it is. */
#define must(cond, words) if :: !(cond) -> printf(words); assert(false) :: else fi
#define CHECK must(trees <= 1, "VIOLATED: two services live at once\n"); \
	must(!(acts(0) && acts(1)), "VIOLATED: two nodes act as master at once\n")

#if defined(REACH_TERM3)     /* this node serves in term 3 */
#define REACHED assert(!(truth(REACH_TERM3) && d[REACH_TERM3].term == 3))
#elif defined(REACH_RETURN)  /* a restarted node takes its former value over by proof, and serves */
#define REACHED assert(!(truth(0) && byProof))
#elif defined(REACH_CHILD)   /* a release by a guard's child is followed by the other node's reign */
#define REACHED assert(!(truth(1) && byChild))
#elif defined(REACH_SWITCH)  /* a switchover reaches the node that was named */
#define REACHED assert(!(truth(1) && bySwitch))
#elif defined(REACH_AGAIN)   /* a master releases and claims again */
#define REACHED assert(!(truth(0) && d[0].term == 2 && again))
#elif defined(REACH_THAW)    /* the guard stops the service of a frozen daemon, which wakes before the successor starts and would go on */
#define REACHED assert(!woke)
#else
#define REACHED skip
#endif
#ifdef REACH
bit byProof, byChild, bySwitch, again, woke;
#define NOTE(x) x = 1
#define NOTEIF(x, cond) x = (x || (cond))
#else
#define NOTE(x) skip
#define NOTEIF(x, cond) skip
#endif

/* The nodes are alike: of two states that differ only in their names, one is enough. */
#ifdef SYMMETRY
c_code {
	static void canon(void)
	{
		struct Daemon x;
		if (memcmp(&now.d[0], &now.d[1], sizeof x) <= 0)
			return;
		x = now.d[0]; now.d[0] = now.d[1]; now.d[1] = x;
		if (now.d[0].to < 2) now.d[0].to = 1 - now.d[0].to;
		if (now.d[1].to < 2) now.d[1].to = 1 - now.d[1].to;
		if (now.to < 2) now.to = 1 - now.to;
		if (now.holder < 2) now.holder = 1 - now.holder;
	}
}
#define SORTED c_code { canon(); }
#else
#define SORTED skip
#endif

#define DONE CHECK; REACHED; SORTED

/* ------------------------------------------------------------- the store */

/* A write lands: all other requests consumed the version that is gone. */
inline land(i, what, toWhom) {
	cur++;
	SINCE(0);
	if
	:: what == claim -> term++; held = 1; holder = i; hinc = d[i].by; to = NOBODY
	:: what == renewal -> skip
	:: what == release -> held = 0; to = toWhom
	fi;
	printf("store: a %e by node %d makes version %d, term %d\n", what, i, cur, term);
	moved(0); moved(1)
}
inline moved(j) {
	d[j].fly = 0;
	if
	:: !d[j].open -> d[j].kind = 0; d[j].sent = 0; d[j].by = 0
	:: else
	fi;
	d[j].g[0].child = 0; d[j].g[1].child = 0;
	d[j].seen = 0; d[j].watch = 0;
	d[j].fresh = 0
}

/* ------------------------------------------------------------ the daemon */

inline forgetAttempt(i) {
	d[i].open = 0; d[i].done = 0; d[i].sent = 0;
	if
	:: !d[i].fly -> d[i].kind = 0; d[i].by = 0
	:: else
	fi
}
inline finish(i) {
	d[i].reign = 0; d[i].acked = 0; d[i].started = 0; d[i].ready = 0; d[i].leaving = 0; d[i].to = NOBODY;
	d[i].over = 0; d[i].stopped = 0; d[i].gone = 0; d[i].foreign = 0; d[i].fresh = 0; d[i].age = 0;
	d[i].term = 0; d[i].asked = 0;
	forgetAttempt(i)
}
inline send(i, what) {
	d[i].kind = what; d[i].by = NOW; d[i].open = 1; d[i].done = 0; d[i].sent = 0;
	d[i].fly = (what == claim || d[i].fresh);
	printf("node %d: sends a %e\n", i, what)
}
inline sendArm(i) { /* G1: each new deadline goes to the guard */
	if
	:: !d[i].over && G(i).alive -> G(i).arm = 1; G(i).armLate = (d[i].sent >= D); G(i).armTerm = d[i].term; d[i].asked = 1
	:: else
	fi
}
/* The daemon learns that its attempt was applied, by an answer or by a read. */
inline confirm(i) {
	printf("node %d: knows that its %e landed\n", i, d[i].kind);
	if
	:: d[i].kind == claim ->
		d[i].reign = 1; d[i].age = d[i].sent; d[i].seen = 0; d[i].watch = 0;
		if
		:: !G(i).alive -> G(i).alive = 1; G(i).armed = 0; G(i).stop = 0; G(i).term = 0; G(i).age = 0;
			printf("node %d: starts a guard\n", i)
		:: else
		fi;
		sendArm(i)
	:: d[i].kind == renewal ->
		sendArm(i)
#ifdef NO_G1
		; d[i].age = (d[i].over -> d[i].age : d[i].sent) /* without waiting for the guard */
#endif
	:: d[i].kind == release -> finish(i)
	fi;
	forgetAttempt(i)
}
/* R10: the term is over for good; a step of the machine that ends it also asks for the stop. */
inline giveUp(i) {
	d[i].over = 1; d[i].ready = 0; d[i].acked = 0; d[i].asked = 0; d[i].leaving = 0;
	G(i).ack = 0; G(i).ackAge = 0; G(i).ready = 0; /* they would tell it nothing any more */
	if
	:: d[i].kind != release -> d[i].sent = 0
	:: else
	fi;
	if
	:: !d[i].stopped && !d[i].gone && G(i).alive -> d[i].stopped = 1; G(i).halt = 1
	:: else
	fi
}
/* Nothing of the service lives, or ever will. */
inline proveGone(i) {
	giveUp(i); d[i].gone = 1; d[i].age = 0; d[i].stopped = 0; d[i].started = 0; G(i).gone = 0;
	/* the guard would refuse what is still in the pipe */
	G(i).arm = 0; G(i).armLate = 0; G(i).armTerm = 0; G(i).begin = 0; G(i).halt = 0;
	printf("node %d: knows that nothing of its service lives\n", i);
	if
	:: d[i].foreign -> finish(i); printf("node %d: is a standby again\n", i)
	:: else
	fi
}

inline startService(i) {
	d[i].started = 1;
	if
	:: G(i).alive -> G(i).begin = 1; printf("node %d: asks its guard to start the service of term %d\n", i, d[i].term)
	:: else
	fi
}

#define landed(i)  (d[i].open && d[i].done)
/* R10: a former run of this node, provably gone. */
#ifdef NO_R10_PROOF
#define proven(i)  (held && holder == i && hinc != NOW)
#else
#define proven(i)  (held && holder == i && hinc == FORMER && d[i].record == FORMER+1 && \
	!d[i].g[FORMER].alive && !d[i].g[FORMER].tree)
#endif
#ifdef NO_R6
#define waited(i)  (held -> (proven(i) || d[i].watch >= C-1) : (to == NOBODY || to == i || d[i].watch >= TAKEOVER))
#elif defined(NO_TO)
#define waited(i)  (held -> (proven(i) || d[i].watch >= C) : true)
#else
#define waited(i)  (held -> (proven(i) || d[i].watch >= C) : (to == NOBODY || to == i || d[i].watch >= TAKEOVER))
#endif
#define free(i)    (!d[i].open && !d[i].fly)
#ifdef NO_R9
#define mayRelease(i) (d[i].reign && !d[i].foreign && (d[i].gone || d[i].stopped))
#else
#define mayRelease(i) (d[i].reign && !d[i].foreign && d[i].gone)
#endif
#define other(i) (1-(i))

/* G1: no acknowledgement in time; or the service not proven gone at KILL. */
#ifdef NO_G1
#define due(i) false
#else
#define due(i) ((d[i].asked && !calm) || d[i].age >= K)
#endif

inline killGuard(i, x) { /* G4: the tree can not outlive the guard */
	d[i].g[x].alive = 0; d[i].g[x].frozen = 0; d[i].g[x].orphan = 0;
#ifndef NO_G4
	if
	:: d[i].g[x].tree -> d[i].g[x].tree = 0; printf("node %d: the service dies with its guard\n", i)
	:: else
	fi;
#endif
	d[i].g[x].armed = 0; d[i].g[x].stop = 0; d[i].g[x].age = 0; d[i].g[x].term = 0;
	d[i].g[x].arm = 0; d[i].g[x].armLate = 0; d[i].g[x].armTerm = 0; d[i].g[x].begin = 0; d[i].g[x].halt = 0;
	d[i].g[x].ack = 0; d[i].g[x].ackAge = 0; d[i].g[x].ready = 0; d[i].g[x].gone = 0
}

/* What the guard says is heard at once, unless the daemon is frozen. */
inline hear(i) {
	if
	:: steps(i) && G(i).ack ->
		if
		:: d[i].reign && !d[i].over ->
			d[i].acked = 1; d[i].age = G(i).ackAge; d[i].asked = G(i).arm;
			if
			:: !d[i].started && !d[i].leaving && d[i].age < D -> startService(i)
			:: else
			fi
		:: else
		fi;
		G(i).ack = 0; G(i).ackAge = 0
	:: else
	fi;
	if
	:: steps(i) && G(i).ready ->
		G(i).ready = 0;
		if
		:: d[i].reign && !d[i].over && !d[i].leaving -> d[i].ready = 1; printf("node %d: is MASTER of term %d\n", i, d[i].term)
		:: else
		fi
	:: else
	fi;
	if
	:: steps(i) && G(i).gone ->
		G(i).gone = 0;
		if
		:: d[i].reign -> proveGone(i)
		:: else
		fi
	:: else
	fi
}

proctype daemon(byte i)
{
	do
	/* standby */
	:: d_step { steps(i) && !d[i].reign && !d[i].seen && !landed(i) ->
		printf("node %d: reads version %d\n", i, cur);
		d[i].seen = 1; d[i].watch = 0; d[i].term = 0; forgetAttempt(i); DONE }
	:: d_step { steps(i) && !d[i].reign && d[i].seen && waited(i) && free(i) ->
		if
		:: held && proven(i) -> NOTE(byProof); printf("node %d: its former run is proven gone\n", i)
		:: !held && holder == i && hinc == NOW -> NOTE(again)
		:: !held && to == i -> NOTE(bySwitch)
		:: else
		fi;
		NAMEDONLY;
		d[i].record = NOW+1; /* fsynced before the claim */
		d[i].term = term + 1; /* R7 */
		send(i, claim); DONE }
	/* what became of an attempt (R5): an answer, in time or late, or a read */
	:: d_step { steps(i) && landed(i) -> confirm(i); DONE }
	:: d_step { steps(i) && d[i].reign && !d[i].fresh && !landed(i) && !d[i].foreign ->
		printf("node %d: reads version %d: it is demoted\n", i, cur);
		d[i].foreign = 1; forgetAttempt(i);
		if
		:: d[i].gone -> finish(i); printf("node %d: is a standby again\n", i)
		:: else -> giveUp(i)
		fi; DONE }
	/* the reign */
	:: d_step { d[i].up && !d[i].frozen && lapsed(i) ->
		printf("node %d: its lease runs down\n", i); giveUp(i); hear(i); DONE }
	:: d_step { steps(i) && d[i].reign && !d[i].over && free(i) && !calm -> send(i, renewal); DONE }
#ifdef NO_G1
	:: d_step { steps(i) && d[i].reign && !d[i].over && !d[i].leaving && !d[i].started -> startService(i); DONE }
#endif
	:: d_step { steps(i) && d[i].reign && !d[i].over && !d[i].leaving && !calm ->
		printf("node %d: steps down\n", i); d[i].leaving = 1; d[i].ready = 0; DONE }
	:: d_step { steps(i) && d[i].reign && !d[i].over && !d[i].leaving && !calm ->
		printf("node %d: switches over to node %d\n", i, other(i)); d[i].leaving = 1; d[i].to = other(i); d[i].ready = 0; DONE }
	:: d_step { steps(i) && d[i].reign && d[i].leaving && !d[i].over && !d[i].stopped -> /* drained */
		printf("node %d: has the service stopped\n", i);
		d[i].stopped = 1;
		if
		:: G(i).alive -> G(i).halt = 1
		:: else
		fi; DONE }
	:: d_step { steps(i) && mayRelease(i) && free(i) -> send(i, release); DONE }
	/* the guard */
	:: d_step { steps(i) && d[i].reign && !d[i].gone && !G(i).alive ->
		printf("node %d: its guard is dead\n", i); proveGone(i); DONE }
	:: d_step { d[i].up && !d[i].frozen && d[i].reign && !d[i].gone && G(i).alive && due(i) ->
		printf("node %d: kills its guard, which does not answer\n", i);
		killGuard(i, NOW); proveGone(i); DONE }
	od
}
/* ------------------------------------------------------------- the guard */

#define parent(i,x)  (d[i].up && x == NOW)   /* its daemon lives */
#define runs(i,x)    (d[i].g[x].alive && !d[i].g[x].frozen)
#define ended(i,x)   (d[i].g[x].armed && !d[i].g[x].stop && d[i].g[x].age >= D)
#define kills(i,x)   (d[i].g[x].tree && d[i].g[x].stop)

inline sayEmpty(i, x) {
	if
	:: parent(i, x) -> d[i].g[x].gone = 1
	:: else
	fi
}
inline beginStop(i, x) {
	d[i].g[x].stop = 1;
	if
	:: !d[i].g[x].tree -> d[i].g[x].age = 0; sayEmpty(i, x)
	:: else
	fi
}

proctype guard(byte i; byte x)
{
	do
	:: d_step { runs(i, x) && ended(i, x) ->
		printf("guard of node %d: the deadline of term %d: begins the stop\n", i, d[i].g[x].term);
		beginStop(i, x); hear(i); DONE }
	:: d_step { runs(i, x) && kills(i, x) -> /* it ends when it is told to, or is killed */
		printf("guard of node %d: the service of term %d is gone\n", i, d[i].g[x].term);
		d[i].g[x].tree = 0; d[i].g[x].age = 0; sayEmpty(i, x); hear(i); DONE }
	:: d_step { runs(i, x) && !ended(i, x) && d[i].g[x].arm && !d[i].g[x].orphan ->
		if
		:: d[i].g[x].tree && d[i].g[x].term != d[i].g[x].armTerm
#ifndef NO_G2
		:: d[i].g[x].armed && d[i].g[x].stop && d[i].g[x].term == d[i].g[x].armTerm ->
			printf("guard of node %d: refuses a deadline of term %d\n", i, d[i].g[x].armTerm)
#endif
		:: else ->
			d[i].g[x].armed = 1; d[i].g[x].stop = 0;
			d[i].g[x].term = d[i].g[x].armTerm; d[i].g[x].age = d[i].g[x].armLate;
			if
			:: !d[i].g[x].armLate && parent(i, x) -> d[i].g[x].ack = 1; d[i].g[x].ackAge = 0
			:: else
			fi
		fi;
		d[i].g[x].arm = 0; d[i].g[x].armLate = 0; d[i].g[x].armTerm = 0; hear(i); DONE }
	:: d_step { runs(i, x) && !ended(i, x) && d[i].g[x].begin && !d[i].g[x].arm && !d[i].g[x].orphan ->
		d[i].g[x].begin = 0;
		if
#ifdef NO_G2
		:: true ->
#elif defined(NO_G1)
		:: !d[i].g[x].stop ->
#else
		:: d[i].g[x].armed && !d[i].g[x].stop && d[i].g[x].age < D ->
#endif
			d[i].g[x].tree = 1; printf("guard of node %d: the service starts\n", i);
			if
			:: parent(i, x) -> d[i].g[x].ready = 1
			:: else
			fi
		:: else -> printf("guard of node %d: refuses to start the service\n", i)
		fi; hear(i); DONE }
	:: d_step { runs(i, x) && d[i].g[x].halt && !d[i].g[x].begin && !d[i].g[x].arm && !d[i].g[x].orphan ->
		d[i].g[x].halt = 0;
		if
		:: !d[i].g[x].stop -> printf("guard of node %d: stops on request\n", i); beginStop(i, x)
		:: d[i].g[x].stop && !d[i].g[x].tree -> sayEmpty(i, x)
		:: else
		fi; hear(i); DONE }
	/* the daemon is dead, by its pidfd */
#ifdef NO_G3
	:: d_step { runs(i, x) && !d[i].g[x].orphan && (!parent(i, x) || d[i].frozen) ->
#else
	:: d_step { runs(i, x) && !d[i].g[x].orphan && !parent(i, x) ->
#endif
		printf("guard of node %d: its daemon is dead\n", i);
		d[i].g[x].orphan = 1; d[i].g[x].stop = 1;
		d[i].g[x].arm = 0; d[i].g[x].armLate = 0; d[i].g[x].armTerm = 0; d[i].g[x].begin = 0; d[i].g[x].halt = 0; hear(i); DONE }
	/* G3: the release child */
	:: d_step { runs(i, x) && d[i].g[x].orphan && !d[i].g[x].tree && !d[i].g[x].child && d[i].g[x].armed &&
			held && holder == i && hinc == x && term == d[i].g[x].term ->
		printf("guard of node %d: its child sends the release of term %d\n", i, term);
		d[i].g[x].child = 1; hear(i); DONE }
	:: d_step { runs(i, x) && d[i].g[x].orphan && !d[i].g[x].tree &&
			(!calm || !(held && holder == i && hinc == x && term == d[i].g[x].term)) -> /* or it gives up */
		printf("guard of node %d: ends\n", i);
		killGuard(i, x); hear(i); DONE }
	od
}

/* ---------------------------------------------- store, faults and clock */

#ifdef LIVE
#define room (cur < VERSIONS && (calm || cur < FAULTY))
#else
#define room (cur < VERSIONS)
#endif

#define ARRIVE(i) \
	:: d_step { d[i].fly && room -> \
		must(d[i].kind != claim || !d[i].open || d[i].term > term, "VIOLATED: a claim does not open a new term\n"); \
		if \
		:: d[i].open -> land(i, d[i].kind, d[i].to); d[i].done = 1; d[i].fresh = 1 \
		:: else -> land(i, d[i].kind, NOBODY) \
		fi; DONE } \
	:: d_step { d[i].fly && !calm -> printf("store: a %e of node %d is lost\n", d[i].kind, i); d[i].fly = 0; forgetAttempt(i); DONE } \
	:: d_step { d[i].g[0].child && room -> NOTEIF(byChild, i == 0); land(i, release, NOBODY); DONE } \
	:: d_step { d[i].g[1].child && room -> NOTEIF(byChild, i == 0); land(i, release, NOBODY); DONE } \
	:: d_step { d[i].g[0].child && !calm -> d[i].g[0].child = 0; printf("store: a release by the guard of node %d is lost\n", i) } \
	:: d_step { d[i].g[1].child && !calm -> d[i].g[1].child = 0; printf("store: a release by the guard of node %d is lost\n", i) }

proctype store()
{
	do
	ARRIVE(0)
	ARRIVE(1)
#ifdef LIVE
	:: d_step { !calm -> calm = true; printf("-- no more faults\n") }
#endif
	od
}

/* A node's daemon and guard are never both out of action while a service
 * lives: only a watchdog helps then (G4). The limits show what happens otherwise. */
#define thawed(i) (!d[i].g[0].frozen && !d[i].g[1].frozen)
#if defined(LIMIT_BOTH)        /* both frozen */
#define mayFreeze(i) true
#define mayDie(i)    thawed(i)
#define watched(i)   true
#elif defined(LIMIT_ORPHAN)    /* the guard frozen, the daemon dead */
#define mayFreeze(i) thawed(i)
#define mayDie(i)    true
#define watched(i)   (d[i].up && !d[i].frozen)
#else
#define mayFreeze(i) thawed(i)
#define mayDie(i)    thawed(i)
#define watched(i)   (d[i].up && !d[i].frozen)
#endif
/* A daemon that is down and one that does nothing yet are alike, so it is started again at once. */
#define canRestart(i) (!d[i].g[FORMER].alive && !d[i].g[FORMER].tree)
inline restart(i) {
	if
	:: canRestart(i) ->
		d[i].up = 1;
		d[i].g[1].alive = d[i].g[0].alive; d[i].g[1].frozen = d[i].g[0].frozen; d[i].g[1].armed = d[i].g[0].armed;
		d[i].g[1].stop = d[i].g[0].stop; d[i].g[1].orphan = d[i].g[0].orphan; d[i].g[1].tree = d[i].g[0].tree;
		d[i].g[1].child = d[i].g[0].child; d[i].g[1].age = d[i].g[0].age; d[i].g[1].term = d[i].g[0].term;
		d[i].g[1].arm = d[i].g[0].arm; d[i].g[1].armLate = d[i].g[0].armLate; d[i].g[1].armTerm = d[i].g[0].armTerm;
		d[i].g[1].begin = d[i].g[0].begin; d[i].g[1].halt = d[i].g[0].halt;
		d[i].g[0].tree = 0; d[i].g[0].child = 0;
		killGuard(i, 0);
		d[i].g[0].alive = 1;
		if
		:: holder == i && hinc < OLDER -> hinc++
		:: else
		fi;
		if
		:: d[i].fly && d[i].by < OLDER -> d[i].by++
		:: else
		fi;
		d[i].record = (d[i].record == NOW+1 -> FORMER+1 : 0);
		printf("node %d: is started again\n", i)
	:: else
	fi
}
/* Freezing or killing what has no part in a reign is the same as its doing nothing. */
#if FAULTS < 99
#define more (faults < FAULTS && !calm)
#define FAULT faults++
#else
#define more (!calm)
#define FAULT skip
#endif

#define FATE(i) \
	:: d_step { more && d[i].up && !d[i].frozen && d[i].reign && !d[i].gone && mayFreeze(i) -> FAULT; d[i].frozen = 1; printf("node %d: the daemon freezes\n", i); DONE } \
	:: d_step { d[i].frozen -> NOTEIF(woke, i == 0 && d[i].ready && !d[i].over && G(i).stop && !G(i).tree && d[i].age < E); \
		d[i].frozen = 0; printf("node %d: the daemon thaws\n", i); hear(i); DONE } \
	:: d_step { more && d[i].up && (d[i].reign || d[i].open) && mayDie(i) -> FAULT; \
		printf("node %d: the daemon is killed\n", i); \
		d[i].up = 0; d[i].frozen = 0; finish(i); d[i].seen = 0; d[i].watch = 0; \
		G(i).ack = 0; G(i).ackAge = 0; G(i).ready = 0; G(i).gone = 0; restart(i); DONE } \
	:: d_step { !d[i].up && canRestart(i) -> restart(i); DONE } \
	FATE_OF_GUARD(i, 0) \
	FATE_OF_GUARD(i, 1)
#define FATE_OF_GUARD(i,x) \
	:: d_step { more && d[i].g[x].alive && d[i].g[x].armed && !d[i].g[x].frozen && watched(i) && parent(i, x) -> FAULT; \
		d[i].g[x].frozen = 1; printf("guard of node %d: freezes\n", i); DONE } \
	:: d_step { d[i].g[x].frozen -> d[i].g[x].frozen = 0; printf("guard of node %d: thaws\n", i); DONE } \
	:: d_step { more && d[i].g[x].alive && d[i].g[x].armed -> FAULT; printf("guard of node %d: is killed\n", i); killGuard(i, x); DONE }

proctype fate()
{
	do
	FATE(0)
	FATE(1)
	od
}

inline older(x) {
	if
	:: x < E -> x++
	:: else
	fi
}
inline olderGuard(i, x) {
	if
	:: d[i].g[x].armed && (d[i].g[x].tree || !d[i].g[x].stop) && d[i].g[x].age < K -> d[i].g[x].age++
	:: else
	fi;
	if
	:: d[i].g[x].arm -> d[i].g[x].armLate = 1
	:: else
	fi;
	if
	:: d[i].g[x].ack -> older(d[i].g[x].ackAge)
	:: else
	fi
}
inline olderNode(i) {
	if
	:: d[i].open && (d[i].fly || d[i].done) && d[i].kind != release -> older(d[i].sent)
	:: else
	fi;
	if
	:: d[i].reign && !d[i].gone -> older(d[i].age)
	:: else
	fi;
	if
	:: d[i].seen && (held || (to != NOBODY && to != i)) -> older(d[i].watch)
	:: else
	fi;
	olderGuard(i, 0);
	olderGuard(i, 1)
}

/* Whoever is not frozen has done what is due before a tick is over. */
#define guardInTime(i,x) (!runs(i, x) || !d[i].g[x].tree || d[i].g[x].age < K)
#define daemonInTime(i)  (!d[i].up || d[i].frozen || !d[i].reign || d[i].gone || !G(i).alive || d[i].age < K || NOT_G1)
#define inTime(i)        (guardInTime(i, 0) && guardInTime(i, 1) && daemonInTime(i))
#ifdef NO_G1
#define NOT_G1 true
#else
#define NOT_G1 false
#endif

proctype clock()
{
	do
	:: d_step { (!calm || timeout) && inTime(0) && inTime(1) ->
		printf("-- tick\n");
		SINCE((since < TAKEOVER -> since+1 : since));
		olderNode(0); olderNode(1); DONE }
	od
}

init {
	atomic {
		d[0].up = 1; d[0].g[0].alive = 1;
		d[1].up = 1; d[1].g[0].alive = 1;
		d[0].to = NOBODY; d[1].to = NOBODY;
		run clock(); run store(); run fate();
		run daemon(0); run guard(0, 0); run guard(0, 1);
		run daemon(1); run guard(1, 0); run guard(1, 1)
	}
}

#ifdef LIVE
/* With a reachable store and a live electable node there is a master in the end. */
ltl live { (<> calm) -> (<> (calm && (truth(0) || truth(1)))) }
#endif
