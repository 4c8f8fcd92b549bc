package bench

import "time"

// Month is what bills go by here: 30 days.
const Month = 30 * 24 * time.Hour

// Prices are what a store charges, in US dollars per thousand requests.
type Prices struct {
	Put  float64 `json:"put"`
	Get  float64 `json:"get"`
	List float64 `json:"list"`
}

// S3Prices are those of Amazon S3 Standard in most regions. DELETE is free.
func S3Prices() Prices { return Prices{Put: 0.005, Get: 0.0004, List: 0.005} }

// Plane is how often the nodes of a plane ask what of a store that charges for
// each request.
type Plane struct {
	Nodes            int           `json:"nodes"`          // the master included
	Heartbeat        time.Duration `json:"heartbeatNs"`    // between the master's renewals
	StandbyHeartbeat time.Duration `json:"standbyBeatNs"`  // between a standby's records
	Poll             time.Duration `json:"pollNs"`         // between a standby's reads of the register
	Glance           time.Duration `json:"glanceNs"`       // between looks at records and the view
	Record           time.Duration `json:"recordNs"`       // between a master's own records
	ListNodes        time.Duration `json:"listNodesNs"`    // between listings of nodes
	ListRequests     time.Duration `json:"listRequestsNs"` // between listings of requests
	LookForClone     time.Duration `json:"lookForCloneNs"` // between a node's looks for a clone of itself
}

// Line is one kind of request on the bill.
type Line struct {
	Who      string  `json:"who"`  // master, or standby: all of them together
	What     string  `json:"what"` // in words
	Request  string  `json:"request"`
	PerMonth float64 `json:"perMonth"`
	Dollars  float64 `json:"dollars"`
	// Decides marks what mastership needs; the rest is for people and for the
	// order in which standbys claim.
	Decides bool `json:"decides"`
}

// Bill is what a plane costs in a month.
type Bill struct {
	Lines []Line `json:"lines"`
	// Total of the whole plane, and what each node costs on average.
	Total   float64 `json:"total"`
	PerNode float64 `json:"perNode"`
	// Heartbeats is the part of PerNode that the renewals, the standbys'
	// records and their reads of the register make up.
	Heartbeats float64 `json:"heartbeatsPerNode"`
	// Standby is what one standby's record and reads of the register cost.
	Standby float64 `json:"standby"`
}

// Cost reckons the bill. It asks no store.
func Cost(p Plane, prices Prices) Bill {
	standbys := max(p.Nodes-1, 0)
	var b Bill
	line := func(who, what, request string, price float64, many int, every time.Duration, decides bool) float64 {
		if every <= 0 || many == 0 {
			return 0
		}
		n := float64(many) * Month.Seconds() / every.Seconds()
		l := Line{Who: who, What: what, Request: request, PerMonth: n, Dollars: n / 1000 * price, Decides: decides}
		b.Lines = append(b.Lines, l)
		b.Total += l.Dollars
		return l.Dollars
	}
	beats := line("master", "renews the lease", "PUT", prices.Put, min(p.Nodes, 1), p.Heartbeat, true)
	records := line("standby", "writes its record", "PUT", prices.Put, standbys, p.StandbyHeartbeat, false)
	reads := line("standby", "reads the register", "GET", prices.Get, standbys, p.Poll, true)
	line("master", "writes the view", "PUT", prices.Put, 1, p.Glance, false)
	line("master", "writes its record", "PUT", prices.Put, 1, p.Record, false)
	line("master", "reads the standbys' records", "GET", prices.Get, standbys, p.Glance, false)
	line("master", "lists the nodes", "LIST", prices.List, 1, p.ListNodes, false)
	line("master", "lists operators' requests", "LIST", prices.List, 1, p.ListRequests, false)
	line("standby", "reads the view", "GET", prices.Get, standbys, p.Glance, false)
	line("each node", "looks for a clone of itself", "GET", prices.Get, p.Nodes, p.LookForClone, false)
	if p.Nodes > 0 {
		b.PerNode = b.Total / float64(p.Nodes)
		b.Heartbeats = (beats + records + reads) / float64(p.Nodes)
	}
	if standbys > 0 {
		b.Standby = (records + reads) / float64(standbys)
	}
	return b
}
