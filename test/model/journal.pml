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
	bit clean;       /* the plane was started CLEAN: what came before is dropped on purpose */
	bit acked        /* somebody was told that it is safe */
}
Segment seg[MAX];
byte made;           /* segments made so far */

typedef Attempt {
	mtype kind;      /* 0: the slot is free */
	bit open;        /* its node remembers it */
	bit fly;         /* it may still arrive; then it consumes the present version */
	bit done;        /* it was applied, and its node does not know yet */
	bit late;        /* the lease that counts from it has ended */
	bit listed;      /* it was sent after the collector's list */
	bit second;      /* it was sent while a commit was undecided */
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
#elif defined(REACH_ALL)      /* all segments are acknowledged */
#define REACHED assert(!(seg[SEGMENTS].acked && seg[SEGMENTS-1].acked && seg[SEGMENTS-2].acked && seg[1].acked))
#elif defined(REACH_ORPHAN)   /* a segment is stored whose commit lost */
#define REACHED assert(!(nd[i].a[s].kind == claim && nd[1-i].tip != nd[1-i].head))
#elif defined(REACH_DELETE)   /* something was deleted, and appended after */
#define REACHED assert(!(seg[1].at == deleted && seg[head].pred != ROOT && seg[seg[head].pred].snapshot))
#elif defined(REACH_PAUSED)   /* a deposed master collects */
#define REACHED assert(!(nd[1-i].collect == 2 && holder == i && nd[i].a[s].kind == renewal))
#else
#define REACHED skip
#endif

/* The chain from the head to the last snapshot is whole, and what was
 * acknowledged is in it. */
inline check() {
	x = head;
	j = 0;
	do
	:: x == ROOT -> break
	:: else ->
		assert(j || seg[x].at == stored);
		j = j || seg[x].snapshot;
		if
		:: seg[x].clean -> break
		:: else
		fi;
		x = seg[x].pred
	od;
	for (k : 1 .. SEGMENTS) {
		if
		:: seg[k].acked ->
			x = head;
			do
			:: x == k || seg[x].clean -> break
			:: x == ROOT && x != k -> assert(false) /* an acknowledged change is lost */; break
			:: else -> x = seg[x].pred
			od
		:: else
		fi
	}
	j = 0; k = 0; x = 0
}
/* The nodes are alike: of two states that differ only in their names, one is enough. */
#ifdef SYMMETRY
c_code {
	static void canon(void)
	{
		int i;
		struct Node x;
		struct Attempt y;
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
	nd[i].a[s].open = 0; nd[i].a[s].done = 0; nd[i].a[s].late = 0; nd[i].a[s].listed = 0; nd[i].a[s].second = 0;
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
	assert(holder == i && nd[i].fresh); /* nobody who is deposed acknowledges anything */
	seg[s].acked = 1
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
		:: nd[i].a[s].kind == renewal && nd[i].a[s].head == nd[i].tip && nd[i].tip != nd[i].head && !seg[nd[i].tip].acked -> ack(i, nd[i].tip)
#else
		if /* only with the lease still ahead; otherwise the answer is "unknown" */
		:: !nd[i].over && nd[i].a[s].kind == renewal && nd[i].a[s].head == nd[i].tip && nd[i].tip != nd[i].head -> ack(i, nd[i].tip)
#endif
		:: else
		fi;
		nd[i].head = nd[i].a[s].head;
		newestSnapshot(i);
		if
		:: nd[i].a[s].listed && nd[i].collect == 1 -> nd[i].collect = 2; nd[i].below = nd[i].snap
		:: else
		fi;
		nd[i].pend = 0;
		forget(i, 0); forget(i, 1)
	fi
}

inline send(i, s, what, h) {
	nd[i].a[s].kind = what; nd[i].a[s].head = h; nd[i].a[s].fly = 1;
	nd[i].a[s].done = 0; nd[i].a[s].late = 0; nd[i].a[s].listed = (nd[i].collect == 1 && what != claim);
	nd[i].a[s].second = isopen(i) && what != claim && nd[i].tip != nd[i].head; /* this one not yet counted */
	nd[i].a[s].open = 1;
	nd[i].pend = 1;
	printf("node %d: sends attempt %d: a %e with head %d\n", i, s, what, h)
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
	:: d_step { maySend(i) && slot(i, s) && !nd[i].reign && (!held || (expired && holder != i)) -> \
		send(i, s, claim, claimHead(i)); DONE } \
	:: d_step { maySend(i) && slot(i, s) && serving(i) && (nd[i].tip != nd[i].head || nd[i].collect == 1 || isopen(i)) -> \
		send(i, s, renewal, renewHead(i)); DONE } \
	:: d_step { maySend(i) && slot(i, s) && serving(i) && nd[i].wip != 0 && nd[i].tip == nd[i].head && putDone(i) -> \
		nd[i].tip = nd[i].wip; nd[i].wip = 0; nd[i].clean = 0; send(i, s, renewal, nd[i].tip); DONE } \
	:: d_step { maySend(i) && slot(i, s) && nd[i].reign && nd[i].over && settledTip(i) -> \
		send(i, s, release, releaseHead(i)); DONE } \
	:: d_step { nd[i].a[s].open && nd[i].a[s].done -> confirm(i, s); check(); DONE }

#define DELETE(s) \
	:: d_step { nd[i].collect == 2 && has(nd[i].list, s) -> \
		nd[i].list = nd[i].list & (255 - (1 << s)); \
		if \
		:: seg[s].seq < seg[nd[i].below].seq -> printf("node %d: deletes segment %d\n", i, s); seg[s].at = deleted \
		:: else \
		fi; \
		if \
		:: nd[i].list == 0 -> nd[i].collect = 0; nd[i].below = 0 \
		:: else \
		fi; check(); DONE }

inline newSegment(i, isSnapshot) {
	made++;
	nd[i].wip = made;
	seg[made].at = sent;
	seg[made].pred = nd[i].tip;
	seg[made].clean = nd[i].clean;
	seg[made].snapshot = isSnapshot || nd[i].clean;
	seg[made].seq = (nd[i].clean -> 1 : seg[nd[i].tip].seq + 1);
	printf("node %d: writes segment %d after %d, seq %d, snapshot: %d\n", i, made, nd[i].tip, seg[made].seq, seg[made].snapshot)
}

#define CLEANED (seg[1].clean + seg[2].clean + seg[3].clean + seg[4].clean)

inline takeList(i) {
	for (k : 1 .. SEGMENTS) {
		if
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
	:: d_step { serving(i) && nd[i].wip != 0 && seg[nd[i].wip].at == stored && !seg[nd[i].wip].acked -> /* a stored segment counts */
		printf("node %d: acknowledges segment %d\n", i, nd[i].wip); seg[nd[i].wip].acked = 1; check(); DONE }
#endif
	:: d_step { nd[i].reign && nd[i].wip != 0 -> /* a writer gives up, or the put has failed */
		printf("node %d: gives up segment %d\n", i, nd[i].wip); dropWip(i); DONE }
#ifdef NO_R5
	:: d_step { nd[i].pend && serving(i) && nd[i].a[0].open && !nd[i].a[0].done && nd[i].a[0].kind == renewal && nd[i].tip != nd[i].head && !seg[nd[i].tip].acked ->
		printf("node %d: takes its undecided commit for applied and acknowledges segment %d\n", i, nd[i].tip);
		seg[nd[i].tip].acked = 1; check(); DONE }
#endif
	/* collection: list, then a successful attempt, then delete below a snapshot in the chain */
#ifdef NO_COLLECT_CAS
	:: d_step { (nd[i].snap != ROOT || nd[i].collect == 3) && nd[i].collect != 2 ->
		if
		:: nd[i].collect == 0 -> nd[i].collect = 3; nd[i].below = nd[i].snap; printf("node %d: is about to list\n", i)
		:: else -> takeList(i); nd[i].collect = 2
		fi; DONE }
#elif defined(NO_COLLECT_CHAIN)
	:: d_step { serving(i) && nd[i].collect == 0 && nd[i].tip != nd[i].head && seg[nd[i].tip].snapshot ->
		takeList(i); nd[i].collect = 2; nd[i].below = nd[i].tip; DONE }
#else
	:: d_step { serving(i) && nd[i].collect == 0 && nd[i].snap != ROOT -> takeList(i); nd[i].collect = 1; DONE }
#endif
	DELETE(1) DELETE(2) DELETE(3) DELETE(4)
#if SEGMENTS > 4
	DELETE(5)
#endif
#if SEGMENTS > 5
	DELETE(6)
#endif
	:: d_step { serving(i) -> printf("node %d: steps down\n", i); nd[i].over = 1; DONE }
	/* time: every lease that counts from what this node has sent so far ends */
	:: d_step { (nd[i].reign && !nd[i].over) || isopen(i) || (holder == i && held && !expired) ->
		printf("-- the leases of node %d end\n", i);
#ifdef NO_R4
#else
		nd[i].over = nd[i].reign;
#endif
		nd[i].a[0].late = nd[i].a[0].open; nd[i].a[1].late = nd[i].a[1].open;
		expired = expired || (holder == i && held); DONE }
	:: d_step { nd[i].reign || isopen(i) || nd[i].collect ->
		printf("node %d: crashes and starts again\n", i);
		endReign(i); nd[i].collect = 0; nd[i].list = 0; nd[i].below = 0; DONE }
	/* the plane is started CLEAN: this reign's first commit starts the state anew */
	:: d_step { serving(i) && !nd[i].clean && nd[i].wip == 0 && nd[i].tip == nd[i].head && made < SEGMENTS && head != ROOT && CLEANED == 0 ->
		printf("node %d: was started CLEAN\n", i); nd[i].clean = 1; newSegment(i, 1); DONE }
	od
}

inline land(i, s) {
	printf("store: attempt %d of node %d, a %e, moves the head from %d to %d\n", s, i, nd[i].a[s].kind, head, nd[i].a[s].head);
	REACHED;
	if /* within a reign no commit is dropped whose outcome is open */
	:: nd[i].a[s].open && nd[i].a[s].kind != claim ->
		assert(nd[i].a[s].kind == renewal || nd[i].a[s].head == nd[i].tip);
		assert(!nd[i].a[s].second || nd[i].a[s].head == nd[i].tip)
	:: else
	fi;
	head = nd[i].a[s].head;
	held = nd[i].a[s].kind != release;
	holder = i;
	expired = held && (nd[i].a[s].late || !nd[i].a[s].open);
	nd[0].fresh = 0; nd[1].fresh = 0;
	nd[i].a[s].fly = 0;
	if
	:: nd[i].a[s].open -> nd[i].a[s].done = 1; nd[i].fresh = 1
	:: else -> forget(i, s)
	fi;
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
	PUT(1) PUT(2) PUT(3) PUT(4)
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
