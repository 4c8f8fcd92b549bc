package ha

import "time"

// Some stores charge for each request (persistence.Limits.PollDivisor is 1
// there). On those a node asks only for what it needs to decide, which is the
// register; at what is advisory it looks now and then:
//
//	                       per heartbeat   every 10 s       every 20 to 60 s
//	master                 1 PUT (lease)   1 PUT (view),    own record, 2 LIST
//	                                       1 GET per node
//	standby                1 GET           1 GET (view)     own record (GET)
//	  and, as configured, one PUT of its record per standbyHeartbeatInterval
//
// Requests thus grow with the number of nodes, not its square, and a view that
// nobody renews keeps its order of candidates: that is when it is needed.
const (
	// glanceEvery is how often nodes' records, or the master's view of them,
	// are looked at.
	glanceEvery = 10 * time.Second
	// quickRounds are made at the pace of two heartbeats whenever the term has
	// changed hands, so that everybody soon knows who is who.
	quickRounds = 5
	// thriftyListing and thriftyRequests are how often the master lists nodes
	// and requests. Both come with a glance, hence every 20 s and every 30 s. A
	// request does not wait for that: who makes one nudges the master.
	thriftyListing  = 15 * time.Second
	thriftyRequests = 25 * time.Second
	// thriftyRecord is how often a master writes its own record, which its view
	// holds anyhow.
	thriftyRecord = 30 * time.Second
	// thriftyLook is how often a node looks for a clone of itself once the
	// first firstLooks have shown none. Of two that began together each finds
	// its own record in about every other look.
	thriftyLook = 30 * time.Second
	firstLooks  = 8

	// sparingLook is how many heartbeats lie between two looks at the other nodes
	// where requests cost nothing but the time of a server that others need, too
	// (PollDivisor is below 5 there, as on HDFS), and sparingListing how many
	// between two listings. A new node shows by then, and who makes a request
	// nudges the master.
	sparingLook    = 2
	sparingListing = 5
)

// thrifty reports whether the store charges for each request.
func (n *Node) thrifty() bool { return n.store.Limits().PollDivisor == 1 }

// sparing reports whether the store's server has others to serve.
func (n *Node) sparing() bool { return n.store.Limits().PollDivisor < 5 }

// look is how often the other nodes are looked at where that costs nothing:
// with each heartbeat, or each record.
func (n *Node) look() time.Duration {
	t := n.opts.Timing
	if n.sparing() {
		return max(t.StandbyHeartbeat, sparingLook*t.Heartbeat)
	}
	return t.StandbyHeartbeat
}

// lag is how much older than it is a living node's record may look here: the
// master looks at it seldom, and others at the master's view.
func (n *Node) lag() time.Duration {
	if n.thrifty() {
		return 2 * glanceEvery
	}
	// Both look at that pace. Where it is a heartbeat, the three intervals that
	// everybody waits for cover it.
	return 2 * (n.look() - n.opts.Timing.Heartbeat)
}

// Spending is how often a node looks at what is advisory on a store that
// charges for each request, for those who reckon what that costs.
type Spending struct {
	Glance       time.Duration // a master at the records, a standby at the view, and the view's writing
	Record       time.Duration // a master writes its own record
	ListNodes    time.Duration
	ListRequests time.Duration
	LookForClone time.Duration // every node at its own record
}

// SpendingOf is the Spending of nodes with the given interval between a
// standby's records. What comes with a glance waits for the next one.
func SpendingOf(standbyHeartbeat time.Duration) Spending {
	glance := max(standbyHeartbeat, glanceEvery)
	next := func(d time.Duration) time.Duration { return (d + glance - 1) / glance * glance }
	return Spending{
		Glance: glance, Record: max(thriftyRecord, standbyHeartbeat),
		ListNodes: next(thriftyListing), ListRequests: next(thriftyRequests), LookForClone: thriftyLook,
	}
}
