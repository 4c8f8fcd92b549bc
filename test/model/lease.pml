/*
 * lease.pml: the register, its leases, and everything that the store and the
 * clocks can do to them. README.md says what is contained and what is left
 * out, and how to read a trail; ./run checks it.
 *
 * NODES nodes write one register by compare-and-swap. Every write that
 * succeeds makes a new version, numbered 0, 1, 2, ...; the number is the seq
 * of the protocol. Each node has up to two attempts outstanding. Nodes take
 * steps whenever they like, so each of them may be paused between any two;
 * requests and answers take as long as they like, for ever included, which
 * is how they are lost; a read returns any version that ever was.
 *
 * Time is counted by ages, capped where they stop to matter. A clock measures
 * an interval of k ticks as k-DRIFT, k or k+DRIFT, each interval afresh, which
 * is worse than any constant rate. So a node may serve as long as the real age
 * of its lease is below E+DRIFT, and may claim when the real age of its watch
 * is C-DRIFT; it may also end earlier and claim later, because no step is
 * ever urgent.
 */

#ifndef NODES
#define NODES 3
#endif
#ifndef VERSIONS
#define VERSIONS 5         /* after the one that the register is born with */
#endif
#ifndef E
#define E 2                /* the right to serve, counted from t0 */
#endif
#define DRIFT 1
#ifdef NO_DRIFT
#define C (E+DRIFT)        /* what a watcher waits, its own drift forgotten */
#else
#define C (E+2*DRIFT)      /* what a watcher waits */
#endif
#define LAST (E+DRIFT)     /* real age of a lease by which nobody serves */
#define RIPE (C-DRIFT)     /* real age of a watch from which on one may claim */
#define NONE 15

mtype = { claim, renewal, release };

typedef Attempt {
	mtype kind;          /* 0: the slot is free */
	bit open;            /* its node remembers it; then it consumes node.base */
	bit fly;             /* it may still arrive; then it consumes cur */
	bit done;            /* it was applied, and its node does not know yet */
	unsigned age : 3;    /* since t0, the moment before it was sent (R3) */
	byte term
}

typedef Node {
	bit reign;           /* it knows an own value in the register: version base */
	bit over;            /* R10: the term has ended for this node */
	bit pend;            /* no new attempt before an answer, or a read after it */
	byte term;           /* of its reign */
	unsigned base : 4;   /* the version that its open attempts consume */
	unsigned age : 3;    /* of the lease: since t0 of the confirmed attempt */
	unsigned seen : 4;   /* the version it watches, as a standby */
	unsigned watch : 3;  /* for how long it has watched that (R6) */
	Attempt a[2]
}

Node nd[NODES];
byte cur;                    /* the register: its version */
byte term;                   /* and of this version the term */
byte termOf[VERSIONS+1];     /* of every version, for stale reads: its term */
bit held[VERSIONS+1];        /* and whether it is held or released */

#ifdef LIVE
bool calm;                   /* no more faults from here on */
#else
#define calm false
#endif

byte k, j, n; /* used within a step, 0 between steps */

#define free(i,s)    (!nd[i].a[s].open && !nd[i].a[s].fly)
#define isopen(i)    (nd[i].a[0].open || nd[i].a[1].open)
#define serving(i)   (nd[i].reign && !nd[i].over)
#define found(i,s,v) (nd[i].a[s].open && nd[i].a[s].done && (v) == nd[i].base+1)
#if NODES == 3
#define masters (serving(0) + serving(1) + serving(2))
#else
#define masters (serving(0) + serving(1))
#endif

/* What is expected to be reachable is asserted not to be. */
#if defined(REACH_TERM3)     /* this node writes a value of term 3 */
#define REACHED assert(!(term == 3 && i == REACH_TERM3))
#elif defined(REACH_LATE)    /* a write lands that its node has given up */
#define REACHED assert(nd[i].a[s].open)
#elif defined(REACH_LAST)    /* all versions come into being */
#define REACHED assert(cur < VERSIONS)
#else
#define REACHED skip
#endif

/* must says in words what is violated, before it is. */
#define must(cond, words) if :: !(cond) -> printf(words); assert(false) :: else fi

/* Safety: at most one serves at any instant. */
#define CHECK must(masters <= 1, "VIOLATED: two nodes serve at once\n")

inline forget(i, s) { /* the node does; the request may still be under way */
	nd[i].a[s].open = 0;
	nd[i].a[s].done = 0;
	nd[i].a[s].age = 0;
	if
	:: !nd[i].a[s].fly -> nd[i].a[s].kind = 0; nd[i].a[s].term = 0
	:: else
	fi
}

inline rebase(i, v) { /* every attempt from the former version has won or lost */
	nd[i].base = v;
	nd[i].pend = 0;
	forget(i, 0);
	forget(i, 1)
}

inline endReign(i) {
	nd[i].reign = 0;
	nd[i].over = 0;
	nd[i].age = 0;
	nd[i].term = 0;
	rebase(i, 0)
}

inline end(i) { /* R10: the term is over, for good */
	nd[i].over = 1;
#ifndef NO_R10
	nd[i].age = 0
#endif
}

inline see(i, v) { /* R6: another version restarts the timer */
	if
	:: nd[i].seen == v
	:: else ->
#ifdef NO_R6
		if
		:: nd[i].seen != NONE && held[nd[i].seen] && held[v]
		:: else -> nd[i].watch = 0
		fi;
#else
		nd[i].watch = 0;
#endif
		nd[i].seen = v
	fi
}

/* Node i learns that its attempt in slot s was applied. */
inline confirm(i, s) {
	k = nd[i].a[s].age;
#ifdef NO_R3
	k = 0; /* the lease counts from the answer */
#endif
#ifdef NO_R2
	if /* attempts share one writeId: the newest is taken for the one that landed */
	:: nd[i].a[1-s].open && nd[i].a[1-s].age < k -> k = nd[i].a[1-s].age
	:: else
	fi;
#endif
	j = nd[i].a[s].kind;
	n = nd[i].a[s].term;
	rebase(i, nd[i].base+1);
	if
	:: j == release ->
		printf("node %d: knows that its release is version %d\n", i, nd[i].base);
		endReign(i)
	:: else ->
		if
		:: j == claim -> nd[i].reign = 1; nd[i].term = n; nd[i].seen = NONE; nd[i].watch = 0
		:: else
		fi;
		if
		:: nd[i].over
		:: !nd[i].over && k < LAST -> nd[i].age = k
		:: else -> nd[i].age = k; end(i)
		fi;
		printf("node %d: knows that its %e of %d ticks ago is version %d of term %d; serves: %d\n", i, j, k, nd[i].base, n, serving(i))
	fi
}

/* R5 and R6: what a read that returned version v tells node i. */
inline hear(i, v) {
	printf("node %d: reads version %d of %d\n", i, v, cur);
	if
	:: found(i, 0, v) -> confirm(i, 0)
	:: !found(i, 0, v) && found(i, 1, v) -> confirm(i, 1)
	:: else ->
		if
		:: nd[i].reign && v > nd[i].base ->
			printf("node %d: is demoted\n", i);
			endReign(i); see(i, v)
		:: nd[i].reign && v == nd[i].base -> nd[i].pend = 0
		:: nd[i].reign && v < nd[i].base -> skip /* stale: decides nothing */
		:: !nd[i].reign && (isopen(i) || nd[i].pend) ->
			see(i, v);
			if
			:: v == nd[i].base -> nd[i].pend = 0
			:: v > nd[i].base -> rebase(i, 0) /* the claim has lost */
			:: else
			fi
		:: else -> see(i, v)
		fi
	fi
}

/* A read that tells nothing new is no step. */
#define news(i,v) ((v) <= cur && (!calm || (v) == cur) && \
	((nd[i].reign && (v) > nd[i].base) || (nd[i].pend && (v) == nd[i].base) || \
	 (!nd[i].reign && (nd[i].seen != (v) || ((isopen(i) || nd[i].pend) && (v) > nd[i].base)))))

inline send(i, s, what) {
	nd[i].a[s].kind = what;
	nd[i].a[s].open = 1;
	nd[i].a[s].fly = (nd[i].base == cur); /* otherwise it can only lose */
	nd[i].a[s].term = nd[i].term;
	nd[i].pend = 1;
	if
	:: what == claim ->
		nd[i].a[s].term = termOf[nd[i].base] + 1; /* R7 */
#ifdef NO_R7
		nd[i].a[s].term = (termOf[nd[i].base] -> termOf[nd[i].base] : 1);
#endif
	:: else
	fi;
#ifdef NO_R1
	nd[i].a[s].fly = 1; /* a write lands on whatever is there */
#endif
	printf("node %d: sends attempt %d: a %e in place of version %d\n", i, s, what, nd[i].base)
}

#define slot(i,s)   (free(i, s) && ((s) == 0 || !free(i, 0)))
#define maySend(i)  (!nd[i].pend && worth(i))
#define ripe(i)     (!nd[i].reign && nd[i].seen != NONE && (!held[nd[i].seen] || nd[i].watch >= RIPE))
#ifdef NO_R9
#define mayRelease(i) nd[i].reign
#else
#define mayRelease(i) (nd[i].reign && nd[i].over)
#endif

#ifdef REDUCE
/*
 * Versions never come back, so an attempt from a version that is gone can only
 * lose. REDUCE leaves such attempts out, and what a node believes of a version
 * that is gone, as far as it could only lead to such attempts. The same checks
 * without REDUCE, on smaller bounds, are part of ./run.
 */
#define worth(i) (nd[i].reign -> nd[i].base == cur : nd[i].seen == cur)
inline reduce(i) {
	if
	:: !nd[i].reign && nd[i].seen != cur -> nd[i].seen = NONE; nd[i].watch = 0
	:: else
	fi;
	if
	:: (nd[i].reign || isopen(i) || nd[i].pend) && nd[i].base != cur ->
		if
		:: !nd[i].a[0].done -> forget(i, 0)
		:: else
		fi;
		if
		:: !nd[i].a[1].done -> forget(i, 1)
		:: else
		fi;
		if
		:: nd[i].a[0].done || nd[i].a[1].done ->
			nd[i].pend = 1;
			if
			:: nd[i].base+1 != cur -> nd[i].base = 0 /* any that is gone */
			:: else
			fi
		:: else -> nd[i].pend = 0; nd[i].base = 0
		fi
	:: else
	fi;
	reduceAge(i, 0);
	reduceAge(i, 1)
}
inline reduceAge(i, s) {
	if
	:: nd[i].a[s].kind == release || (nd[i].a[s].kind == renewal && nd[i].over) -> nd[i].a[s].age = 0
	:: else
	fi;
	if
	:: nd[i].reign && nd[i].base != cur && !isopen(i) -> nd[i].term = 0
	:: else
	fi
}
#define REDUCED for (k : 0 .. NODES-1) { reduce(k) } for (k : 0 .. VERSIONS) { \
	if \
	:: k != cur -> termOf[k] = 0; held[k] = 0 \
	:: else \
	fi }
#else
#define worth(i) true
#define REDUCED skip
#endif

/*
 * Nodes are alike, and so are the slots of a node: of all states that differ
 * only in their names, one is enough. SYMMETRY sorts them after each step.
 */
#ifdef SYMMETRY
c_code {
	static void canon(void)
	{
		int i, j;
		struct Node x;
		struct Attempt y;
		for (i = 0; i < NODES; i++)
			if (memcmp(&now.nd[i].a[0], &now.nd[i].a[1], sizeof y) > 0) {
				y = now.nd[i].a[0]; now.nd[i].a[0] = now.nd[i].a[1]; now.nd[i].a[1] = y;
			}
		for (i = 1; i < NODES; i++)
			for (j = i; j > 0 && memcmp(&now.nd[j-1], &now.nd[j], sizeof x) > 0; j--) {
				x = now.nd[j]; now.nd[j] = now.nd[j-1]; now.nd[j-1] = x;
			}
	}
}
#define SORTED c_code { canon(); }
#else
#define SORTED skip
#endif

#define DONE CHECK; REDUCED; k = 0; j = 0; n = 0; SORTED

#define READ(v) \
	:: d_step { news(i, v) -> hear(i, v); DONE }
#define SLOT(s) \
	:: d_step { maySend(i) && slot(i, s) && ripe(i) -> \
		if \
		:: nd[i].base != nd[i].seen -> rebase(i, nd[i].seen) /* open attempts are left behind */ \
		:: else \
		fi; \
		send(i, s, claim); DONE } \
	:: d_step { maySend(i) && slot(i, s) && serving(i) && !calm -> send(i, s, renewal); DONE } \
	:: d_step { maySend(i) && slot(i, s) && mayRelease(i) -> send(i, s, release); DONE } \
	:: d_step { nd[i].a[s].open && nd[i].a[s].done -> /* an answer, in time or late */ \
		printf("node %d: is told that attempt %d was applied\n", i, s); confirm(i, s); DONE }

/* One node. Its steps are those of pkg/election: standby.go, master.go, attempt.go. */
proctype node(byte i)
{
	do
	READ(0) READ(1) READ(2)
#if VERSIONS > 2
	READ(3)
#endif
#if VERSIONS > 3
	READ(4)
#endif
#if VERSIONS > 4
	READ(5)
#endif
#if VERSIONS > 5
	READ(6)
#endif
#if VERSIONS > 6
	READ(7)
#endif
	SLOT(0)
	SLOT(1)
	:: d_step { serving(i) && !calm -> printf("node %d: steps down, or its clock runs fast\n", i); end(i); DONE }
	:: d_step { !calm && (nd[i].reign || nd[i].seen != NONE || isopen(i)) ->
		printf("node %d: crashes and starts again\n", i);
		endReign(i); nd[i].seen = NONE; nd[i].watch = 0; DONE }
#ifdef NO_R5
	:: d_step { nd[i].pend && nd[i].a[0].open && !nd[i].a[0].done -> /* no answer counts as applied */
		printf("node %d: takes its undecided attempt for applied\n", i); confirm(i, 0); DONE }
#endif
#ifdef NO_R10
	:: d_step { nd[i].reign && nd[i].over && nd[i].age < LAST && !nd[i].pend ->
		printf("node %d: thinks better of it and serves on\n", i); nd[i].over = 0; DONE }
#endif
	od
}

/* A request arrives: the compare-and-swap. */
inline apply(i, s) {
	cur++;
	printf("store: attempt %d of node %d, a %e, makes version %d of term %d\n", s, i, nd[i].a[s].kind, cur, nd[i].a[s].term);
	/* Terms are unique and increase: a claim opens a new one, nobody else writes in it. */
	if
	:: nd[i].a[s].kind == claim -> must(nd[i].a[s].term > term, "VIOLATED: a claim does not open a new term\n")
	:: else -> must(nd[i].a[s].term == term, "VIOLATED: a write in a term that is not the present one\n");
		for (k : 0 .. NODES-1) { must(k == i || !nd[k].reign || nd[k].term != term, "VIOLATED: two nodes in one term\n") }
	fi;
	term = nd[i].a[s].term;
	termOf[cur] = term;
	held[cur] = (nd[i].a[s].kind != release);
	REACHED;
	nd[i].a[s].fly = 0;
	if
	:: nd[i].a[s].open -> nd[i].a[s].done = 1
	:: else -> forget(i, s)
	fi;
#ifndef NO_R1
	for (k : 0 .. NODES-1) { /* what else was under way consumes a version that is gone */
		drop(k, 0); drop(k, 1)
	}
#endif
}
inline drop(i, s) {
	nd[i].a[s].fly = 0;
	if
	:: !nd[i].a[s].open -> forget(i, s)
	:: nd[i].a[s].open && !nd[i].a[s].done -> nd[i].a[s].age = 0
	:: else
	fi
}

#ifdef LIVE
#define room (calm || cur < FAULTY)
#else
#define room true
#endif
#define ARRIVE(i,s) \
	:: d_step { nd[i].a[s].fly && cur < VERSIONS && room -> apply(i, s); DONE } \
	:: d_step { nd[i].a[s].fly && !calm -> /* its node may remember it, to no effect; the slot is free */ \
		printf("store: attempt %d of node %d is lost\n", s, i); \
		nd[i].a[s].fly = 0; forget(i, s); DONE }

proctype store()
{
	do
	ARRIVE(0, 0) ARRIVE(0, 1) ARRIVE(1, 0) ARRIVE(1, 1)
#if NODES == 3
	ARRIVE(2, 0) ARRIVE(2, 1)
#endif
#ifdef LIVE
	:: d_step { !calm -> calm = true; printf("-- no more faults\n") }
#endif
	od
}

inline older(i, s) {
	if
	:: nd[i].a[s].open && (nd[i].a[s].fly || nd[i].a[s].done) && nd[i].a[s].age < LAST -> nd[i].a[s].age++
	:: else
	fi
}

inline tick() {
	printf("-- tick\n");
	for (k : 0 .. NODES-1) {
		older(k, 0);
		older(k, 1);
		if
#ifdef NO_R10
		:: nd[k].reign && nd[k].over && nd[k].age < LAST -> nd[k].age++
#endif
		:: serving(k) && nd[k].age < LAST -> nd[k].age++
		:: else
		fi;
#ifndef NO_R4
		if /* R4 asks the clock at each use: so the right ends without a step of the node */
		:: serving(k) && nd[k].age >= LAST -> end(k)
		:: else
		fi;
#endif
		if
		:: nd[k].seen != NONE && held[nd[k].seen] && nd[k].watch < RIPE -> nd[k].watch++
		:: else
		fi
	}
}

/* Once there are no more faults, nodes and store answer within a tick. */
#define settled(i) (free(i, 0) && free(i, 1) && !nd[i].pend && !(nd[i].reign && nd[i].over) && !ripe(i) && \
	(nd[i].reign -> nd[i].base : nd[i].seen) == cur)

proctype clock()
{
	do
	:: d_step { !calm || (settled(0) && settled(1)) -> tick(); DONE }
#ifdef NO_R12
	:: d_step { serving(0) -> /* a clock that stands still while its node is suspended */
		n = nd[0].age; tick(); nd[0].age = n; nd[0].over = 0;
		printf("   during which the clock of node 0 stood still\n"); DONE }
#endif
	od
}

init {
	atomic {
		held[0] = 1; /* R0: held by nobody, so that the first claim waits one lease */
		for (k : 0 .. NODES-1) { nd[k].seen = NONE }
		k = 0;
		run clock(); run store(); run node(0); run node(1);
#if NODES == 3
		run node(2)
#endif
	}
}

#ifdef LIVE
/* With a reachable store and live nodes there is a master in the end. */
ltl live { (<> calm) -> (<> (calm && masters >= 1)) }
#endif
