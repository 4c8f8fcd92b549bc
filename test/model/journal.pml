/*
 * journal.pml: the persisted state, whose head lives in the register. README.md
 * says what is contained and what is left out, and how to read a trail; ./run
 * checks it.
 *
 * Two nodes append segments. A commit is a segment written under a name of
 * its own, confirmed, and then a compare-and-swap of the register to point its
 * head there. A change counts when, and only when, that has succeeded.
 * Requests and answers take as long as they like, for ever included, and a
 * node may be paused between any two steps, with a deletion in its hand too.
 *
 * Of time only this is left: whether the lease that counts from an attempt has
 * ended, which it may at any moment. That a held value is claimed only when
 * every lease that counts from it has ended is what lease.pml shows.
 */

#ifndef SEGMENTS
#define SEGMENTS 4
#endif
#define ROOT 0       /* the state before the first segment: empty */
#define MAX (SEGMENTS+1)

mtype = { claim, renewal, release };
mtype = { absent, sent, stored, deleted };

typedef Segment {
	mtype at = absent;
	byte pred;
	byte seq;
	bit snapshot;    /* refers to a snapshot of everything before it */
	bit clean        /* the plane was started CLEAN: what came before is dropped on purpose */
}
Segment seg[MAX];
byte made;           /* segments made so far */

typedef Attempt {
	mtype kind;      /* 0: the slot is free */
	bit open;        /* its node remembers it */
	bit fly;         /* it may still arrive; then it consumes the present version */
	bit done;        /* it was applied, and its node does not know yet */
	bit late;        /* of a claim: the lease that counts from it has ended */
#ifdef SECOND
	bit second;      /* it was sent while a commit was undecided */
#endif
	byte head
}
typedef Node {
	bit reign; bit over;
	bit fresh;       /* its newest value is the one in the register */
	bit pend;        /* no new attempt before an answer, or a read after it */
	byte head;       /* of the last own value it knows of */
	byte wip;        /* the segment being written, not yet in any attempt */
	byte tip;        /* the newest head in any attempt: not head, while a commit is undecided */
	byte snap;       /* the newest snapshot it knows to be in the chain */
	bit clean;       /* its first commit starts the state anew */
	/* collecting: 1 listed, 2 the list is followed by an attempt that succeeded */
	unsigned collect : 2; byte list; byte below;
	Attempt a[2]
}
Node nd[2];
byte head; bit held; byte holder = 2; bit expired; /* the register */

byte j, k, x; /* used within a step, 0 between steps */

#define isopen(i)  (nd[i].a[0].open || nd[i].a[1].open)
#define isdone(i)  (nd[i].a[0].done || nd[i].a[1].done)
#define serving(i) (nd[i].reign && !nd[i].over)
#define has(set,s) ((set >> s) & 1)

#if defined(REACH_LATE)       /* an undecided commit lands late: after its node's reign has ended */
#define REACHED assert(!(!nd[i].a[s].open && nd[i].a[s].kind == renewal && nd[i].a[s].head != head))
#elif defined(REACH_SECOND)   /* an undecided commit lands after a second attempt was sent */
#define REACHED assert(!(nd[i].a[1-s].open && nd[i].a[1-s].fly && nd[i].a[s].open && nd[i].a[s].head != head && s == 0 && !nd[i].pend))
#elif defined(REACH_ALL)      /* four commits, each on top of the one before */
#define REACHED assert(!(nd[i].a[s].head == 4 && seg[4].pred == 3 && seg[3].pred == 2 && seg[2].pred == 1))
#elif defined(REACH_DELETE)   /* something was deleted, and appended after */
#define REACHED assert(!(seg[1].at == deleted && nd[i].a[s].head != head))
#elif defined(REACH_PAUSED)   /* a deposed master has a deletion in its hand, while its successor commits */
#define REACHED assert(!(nd[1-i].collect == 2 && has(nd[1-i].list, 1) && seg[1].at == stored && holder == i && nd[i].a[s].head != head))
#else
#define REACHED skip
#endif

/* must says in words what is violated, before it is. */
#define must(cond, words) if :: !(cond) -> printf(words); assert(false) :: else fi

/* The chain from the head to the last snapshot is whole. */
inline check() {
	x = head;
	do
	:: x == ROOT -> break
	:: else ->
		must(seg[x].at == stored, "VIOLATED: a segment of the chain is not there\n");
		if
		:: seg[x].snapshot -> break
		:: else -> x = seg[x].pred
		fi
	od;
	x = 0
}
/* x becomes 1 if the segment is in the chain from a head, otherwise 0. */
inline inChain(which, from) {
	x = from;
	do
	:: x == which -> break
	:: x != which && x == ROOT -> x = MAX; break
	:: else -> x = seg[x].pred
	od;
	x = (x < MAX)
}
/*
 * REDUCE leaves out what can have no effect any more: the fields of segments
 * that nothing refers to, and what a deposed node still does with attempts that
 * can only lose. It also sorts the nodes and the slots of a node, which are
 * alike: of all states that differ only in their names, one is enough.
 */
#ifdef REDUCE
c_code {
	static void mark(char *live, int s)
	{
		for (; s; s = now.seg[s].pred) {
			live[s] = 1;
			if (now.seg[s].clean)
				return;
		}
	}
	static void canon(void)
	{
		char live[MAX] = {0};
		int i, s;
		struct Node x;
		struct Attempt y;
		static const struct Segment nothing;
		mark(live, now.head);
		for (i = 0; i < 2; i++) {
			mark(live, now.nd[i].head); mark(live, now.nd[i].tip); mark(live, now.nd[i].wip);
			mark(live, now.nd[i].a[0].head); mark(live, now.nd[i].a[1].head);
			live[now.nd[i].below] = 1;
			for (s = 1; s < MAX; s++)
				live[s] |= (now.nd[i].list >> s) & 1;
		}
		for (s = 1; s <= now.made; s++)
			if (!live[s]) {
				now.seg[s] = nothing;
				now.seg[s].at = now.seg[ROOT].at;
			}
		for (i = 0; i < 2; i++)
			if (memcmp(&now.nd[i].a[0], &now.nd[i].a[1], sizeof y) > 0) {
				y = now.nd[i].a[0]; now.nd[i].a[0] = now.nd[i].a[1]; now.nd[i].a[1] = y;
			}
		if (memcmp(&now.nd[0], &now.nd[1], sizeof x) <= 0)
			return;
		x = now.nd[0]; now.nd[0] = now.nd[1]; now.nd[1] = x;
		if (now.holder < 2)
			now.holder = 1 - now.holder;
	}
}
#define SORTED c_code { canon(); }
#else
#define SORTED skip
#endif

#define DONE SORTED

inline forget(i, s) {
	nd[i].a[s].open = 0; nd[i].a[s].done = 0; nd[i].a[s].late = 0;
#ifdef SECOND
	nd[i].a[s].second = 0;
#endif
	if
	:: !nd[i].a[s].fly -> nd[i].a[s].kind = 0; nd[i].a[s].head = 0
	:: else
	fi
}
#ifdef NO_COLLECT_CAS
#define FREE_COLLECTOR true
#else
#define FREE_COLLECTOR false
#endif

/* Nobody will ever refer to it: whether it is stored makes no difference. */
inline dropWip(i) {
	if
	:: nd[i].wip -> seg[nd[i].wip].at = absent; seg[nd[i].wip].pred = 0; seg[nd[i].wip].seq = 0;
		seg[nd[i].wip].snapshot = 0; seg[nd[i].wip].clean = 0; nd[i].wip = 0
	:: else
	fi
}
inline endReign(i) {
	nd[i].reign = 0; nd[i].over = 0; nd[i].fresh = 0; nd[i].pend = 0;
#ifndef NO_R7
	nd[i].head = 0;
#endif
	dropWip(i); nd[i].tip = 0; nd[i].snap = 0; nd[i].clean = 0;
	if /* what is in the hand of a paused collector stays there */
	:: nd[i].collect == 1 && !FREE_COLLECTOR -> nd[i].collect = 0; nd[i].list = 0; nd[i].below = 0
	:: else
	fi;
	forget(i, 0); forget(i, 1)
}
inline newestSnapshot(i) { /* in the chain of nd[i].head */
	x = nd[i].head;
	do
	:: x == ROOT || seg[x].snapshot -> break
	:: else -> x = seg[x].pred
	od;
	nd[i].snap = x
}

inline ack(i, s) {
	printf("node %d: acknowledges segment %d\n", i, s);
	must(holder == i && nd[i].fresh, "VIOLATED: a deposed master acknowledges a change\n");
	/* and as every head is a successor of the one before, it stays in the chain */
	inChain(s, head);
	must(x, "VIOLATED: an acknowledged change is not in the chain\n");
	x = 0
}

/* What of the list is to be deleted: what is older than a snapshot in the chain. */
inline prune(i) {
	for (x : 1 .. SEGMENTS) {
		if
		:: has(nd[i].list, x) && seg[x].seq >= seg[nd[i].below].seq -> nd[i].list = nd[i].list & (255 - (1 << x))
		:: else
		fi
	}
	x = 0;
	if
	:: nd[i].list == 0 -> nd[i].collect = 0; nd[i].below = 0
	:: else
	fi
}

inline confirm(i, s) {
	printf("node %d: knows that its %e with head %d landed\n", i, nd[i].a[s].kind, nd[i].a[s].head);
	if
	:: nd[i].a[s].kind == release -> endReign(i)
	:: else ->
		if
		:: nd[i].a[s].kind == claim -> nd[i].reign = 1; nd[i].tip = nd[i].a[s].head
		:: else
		fi;
		if
		:: nd[i].a[s].late -> nd[i].over = 1
		:: else
		fi;
#ifdef NO_R4
		if
		:: nd[i].a[s].kind == renewal && nd[i].a[s].head == nd[i].tip && nd[i].tip != nd[i].head -> ack(i, nd[i].tip)
#else
		if /* only with the lease still ahead; otherwise the answer is "unknown" */
		:: !nd[i].over && nd[i].a[s].kind == renewal && nd[i].a[s].head == nd[i].tip && nd[i].tip != nd[i].head -> ack(i, nd[i].tip)
#endif
		:: else
		fi;
		nd[i].head = nd[i].a[s].head;
		newestSnapshot(i);
		if
		:: nd[i].collect == 1 -> nd[i].collect = 2; nd[i].below = nd[i].snap; prune(i)
		:: else
		fi;
		nd[i].pend = 0;
		forget(i, 0); forget(i, 1)
	fi
}

inline send(i, s, what) { /* with the head j */
	nd[i].a[s].kind = what; nd[i].a[s].head = j; nd[i].a[s].fly = 1;
	nd[i].a[s].done = 0; nd[i].a[s].late = 0;
#ifdef SECOND
	nd[i].a[s].second = isopen(i) && what != claim && nd[i].tip != nd[i].head; /* this one not yet counted */
#endif
	nd[i].a[s].open = 1;
	nd[i].pend = 1;
	printf("node %d: sends attempt %d: a %e with head %d\n", i, s, what, j);
	j = 0
}

#define free(i,s)   (!nd[i].a[s].open && !nd[i].a[s].fly)
#define slot(i,s)   (free(i, s) && ((s) == 0 || !free(i, 0)))
/* An attempt from a version that is gone can only lose, so it is left out. */
#define maySend(i)  (!nd[i].pend && !isdone(i) && (nd[i].reign -> nd[i].fresh : true))
#ifdef NO_R9
#define settledTip(i) true
#define releaseHead(i) nd[i].head
#else
#define settledTip(i) (nd[i].wip == 0)
#define releaseHead(i) nd[i].tip
#endif
#ifdef NO_R5_HEAD
#define renewHead(i) nd[i].head
#else
#define renewHead(i) nd[i].tip
#endif
#ifdef NO_PUT
#define putDone(i)  true
#else
#define putDone(i)  (seg[nd[i].wip].at == stored)
#endif
#ifdef NO_R7
#define claimHead(i) nd[i].head      /* what it remembers */
#else
#define claimHead(i) head            /* R7: copied from the version that is consumed */
#endif

#define SLOT(s) \
	:: d_step { maySend(i) && !isopen(i) && slot(i, s) && !nd[i].reign && (!held || (expired && holder != i)) -> \
		j = claimHead(i); send(i, s, claim); DONE } \
	:: d_step { maySend(i) && slot(i, s) && serving(i) && (nd[i].tip != nd[i].head || nd[i].collect == 1 || isopen(i)) -> \
		j = renewHead(i); send(i, s, renewal); DONE } \
	:: d_step { maySend(i) && slot(i, s) && serving(i) && nd[i].wip != 0 && nd[i].tip == nd[i].head && putDone(i) -> \
		nd[i].tip = nd[i].wip; nd[i].wip = 0; nd[i].clean = 0; j = nd[i].tip; send(i, s, renewal); DONE } \
	:: d_step { maySend(i) && slot(i, s) && nd[i].reign && nd[i].over && settledTip(i) -> \
		j = releaseHead(i); send(i, s, release); DONE } \
	:: d_step { nd[i].a[s].open && nd[i].a[s].done -> confirm(i, s); check(); DONE }

#define DELETE(s) \
	:: d_step { nd[i].collect == 2 && has(nd[i].list, s) && !(nd[i].list & ((1 << s) - 1)) -> /* in order */ \
		nd[i].list = nd[i].list & (255 - (1 << s)); \
		printf("node %d: deletes segment %d\n", i, s); seg[s].at = deleted; prune(i); \
		check(); DONE }

inline newSegment(i, isSnapshot) {
	made++;
	nd[i].wip = made;
	seg[made].at = sent;
	seg[made].pred = nd[i].tip;
	seg[made].clean = nd[i].clean;
	seg[made].snapshot = isSnapshot || nd[i].clean;
#ifdef RESTART
	seg[made].seq = (nd[i].clean -> 1 : seg[nd[i].tip].seq + 1);
#else
	seg[made].seq = seg[nd[i].tip].seq + 1; /* goes on, after a CLEAN start too */
#endif
	printf("node %d: writes segment %d after %d, seq %d, snapshot: %d\n", i, made, nd[i].tip, seg[made].seq, seg[made].snapshot)
}

#define CLEANED (seg[1].clean + seg[2].clean + seg[SEGMENTS-1].clean + seg[SEGMENTS].clean)

inline takeList(i) {
	for (k : 1 .. SEGMENTS) {
		if
#if defined(RESTART) && !defined(NO_OWN)
		:: k == nd[i].wip || (k == nd[i].tip && nd[i].tip != nd[i].head) /* what it has not committed yet is not listed */
#endif
		:: seg[k].at == stored -> nd[i].list = nd[i].list | (1 << k)
		:: else
		fi
	}
	printf("node %d: lists the segments\n", i)
}

proctype node(byte i)
{
	do
	SLOT(0)
	SLOT(1)
	/* R5: no answer, and a read that says the old version; it may be stale */
	:: d_step { nd[i].pend -> printf("node %d: its attempt is undecided\n", i); nd[i].pend = 0; DONE }
	/* a read of a foreign value */
	:: d_step { nd[i].reign && !nd[i].fresh && !isdone(i) -> printf("node %d: is demoted\n", i); endReign(i); DONE }
	:: d_step { !nd[i].reign && isopen(i) && !isdone(i) && !nd[i].a[0].fly && !nd[i].a[1].fly -> /* its claim lost */
		nd[i].pend = 0; forget(i, 0); forget(i, 1); DONE }
	/* commits: one is under way at a time, its writers wait */
	:: d_step { serving(i) && nd[i].wip == 0 && nd[i].tip == nd[i].head && made < SEGMENTS -> newSegment(i, 0); DONE }
	:: d_step { serving(i) && nd[i].wip == 0 && nd[i].tip == nd[i].head && made < SEGMENTS && !nd[i].clean -> newSegment(i, 1); DONE }
#ifdef NO_FENCE
	:: d_step { serving(i) && nd[i].wip != 0 && seg[nd[i].wip].at == stored -> /* a stored segment counts */
		ack(i, nd[i].wip); DONE }
#endif
#ifdef NO_R5
	:: d_step { nd[i].pend && serving(i) && nd[i].a[0].open && !nd[i].a[0].done && nd[i].a[0].kind == renewal && nd[i].tip != nd[i].head && nd[i].fresh ->
		printf("node %d: takes its undecided commit for applied\n", i);
		ack(i, nd[i].tip); DONE }
#endif
	/* collection: list, then a successful attempt, then delete below a snapshot in the chain */
#ifdef NO_COLLECT_CAS
	:: d_step { (nd[i].snap != ROOT || nd[i].collect == 3) && nd[i].collect != 2 ->
		if
		:: nd[i].collect == 0 -> nd[i].collect = 3; nd[i].below = nd[i].snap; printf("node %d: is about to list\n", i)
		:: else -> takeList(i); nd[i].collect = 2; prune(i)
		fi; DONE }
#elif defined(NO_COLLECT_CHAIN)
	:: d_step { serving(i) && nd[i].collect == 0 && nd[i].tip != nd[i].head && seg[nd[i].tip].snapshot ->
		takeList(i); nd[i].collect = 2; nd[i].below = nd[i].tip; prune(i); DONE }
#else
	:: d_step { serving(i) && nd[i].collect == 0 && nd[i].snap != ROOT && !isopen(i) -> takeList(i); nd[i].collect = 1; DONE }
#endif
	DELETE(1) DELETE(2)
#if SEGMENTS > 2
	DELETE(3)
#endif
#if SEGMENTS > 3
	DELETE(4)
#endif
#if SEGMENTS > 4
	DELETE(5)
#endif
#if SEGMENTS > 5
	DELETE(6)
#endif
	:: d_step { serving(i) -> printf("node %d: steps down\n", i); nd[i].over = 1; dropWip(i); DONE }
	/* time: every lease that counts from what this node has sent so far ends */
	:: d_step { (nd[i].reign && !nd[i].over) || isopen(i) || (holder == i && held && !expired) ->
		printf("-- the leases of node %d end\n", i);
#ifndef NO_R4
		nd[i].over = nd[i].reign;
		dropWip(i);
#endif
		nd[i].a[0].late = nd[i].a[0].open && nd[i].a[0].kind == claim; /* for others, over says it */
		nd[i].a[1].late = nd[i].a[1].open && nd[i].a[1].kind == claim;
		expired = expired || (holder == i && held); DONE }
	:: d_step { nd[i].reign || isopen(i) || nd[i].collect ->
		printf("node %d: crashes and starts again\n", i);
		endReign(i); nd[i].collect = 0; nd[i].list = 0; nd[i].below = 0; DONE }
#ifdef CLEAN
	/* the plane was started CLEAN: a commit of this reign starts the state anew */
	:: d_step { serving(i) && !nd[i].clean && nd[i].wip == 0 && nd[i].tip == nd[i].head && made < SEGMENTS && head != ROOT && CLEANED == 0 ->
		printf("node %d: was started CLEAN\n", i); nd[i].clean = 1; newSegment(i, 1); DONE }
#endif
	od
}

/* Another's value has landed: what this node has not done yet is in vain. */
inline deposed(n) {
	if
	:: !isdone(n) && nd[n].reign -> endReign(n)
	:: !isdone(n) && !nd[n].reign && isopen(n) -> nd[n].pend = 0; nd[n].a[0].fly = 0; nd[n].a[1].fly = 0; forget(n, 0); forget(n, 1)
	:: else ->
		dropWip(n);
		if
		:: !nd[n].a[0].done -> nd[n].a[0].fly = 0; forget(n, 0)
		:: else
		fi;
		if
		:: !nd[n].a[1].done -> nd[n].a[1].fly = 0; forget(n, 1)
		:: else
		fi
	fi
}

inline land(i, s) {
	printf("store: attempt %d of node %d, a %e, moves the head from %d to %d\n", s, i, nd[i].a[s].kind, head, nd[i].a[s].head);
	REACHED;
	if /* within a reign no commit is dropped whose outcome is open */
	:: nd[i].a[s].open && nd[i].a[s].kind != claim ->
		must(nd[i].a[s].kind == renewal || nd[i].a[s].head == nd[i].tip, "VIOLATED: a release drops a commit that is waited for\n")
#ifdef SECOND
		must(!nd[i].a[s].second || nd[i].a[s].head == nd[i].tip, "VIOLATED: a later attempt drops a commit that was undecided\n")
#endif
	:: else
	fi;
	inChain(head, nd[i].a[s].head);
	must(x, "VIOLATED: the new head does not follow the old one\n");
	x = 0;
	head = nd[i].a[s].head;
	held = nd[i].a[s].kind != release;
	holder = i;
	expired = 0;
	nd[0].fresh = 0; nd[1].fresh = 0;
	nd[i].a[s].fly = 0;
	if
	:: nd[i].a[s].open -> nd[i].a[s].done = 1; nd[i].fresh = 1
	:: else -> forget(i, s)
	fi;
#ifdef REDUCE
	deposed(1-i);
	if
	:: !nd[i].fresh -> deposed(i)
	:: else
	fi;
#endif
	for (k : 0 .. 1) {
		nd[k].a[0].fly = 0; nd[k].a[1].fly = 0;
		if
		:: !nd[k].a[0].open -> forget(k, 0)
		:: else
		fi;
		if
		:: !nd[k].a[1].open -> forget(k, 1)
		:: else
		fi
	}
}
#define ARRIVE(i,s) \
	:: d_step { nd[i].a[s].fly -> land(i, s); check(); DONE } \
	:: d_step { nd[i].a[s].fly && !nd[i].a[s].open -> nd[i].a[s].fly = 0; forget(i, s); DONE }
#define PUT(s) \
	:: d_step { seg[s].at == sent -> printf("store: segment %d is stored\n", s); seg[s].at = stored; DONE }

proctype store()
{
	do
	ARRIVE(0, 0) ARRIVE(0, 1) ARRIVE(1, 0) ARRIVE(1, 1)
	PUT(1) PUT(2)
#if SEGMENTS > 2
	PUT(3)
#endif
#if SEGMENTS > 3
	PUT(4)
#endif
#if SEGMENTS > 4
	PUT(5)
#endif
#if SEGMENTS > 5
	PUT(6)
#endif
	od
}

init {
	atomic {
		run store(); run node(0); run node(1)
	}
}
