package lease

import (
	"encoding/json"
	"fmt"
)

// NodeRecord is what a node says of itself on the store, once per heartbeat.
// It is advisory: status pages, the election order and the detection of cloned
// node ids read it; no rule of safety does. Times are Unix milliseconds of the
// writer's wall clock and are only shown, never compared.
type NodeRecord struct {
	Node        NodeID      `json:"node"`
	Incarnation Incarnation `json:"incarnation"`
	Beat        uint64      `json:"beat"`       // grows with each record a run writes
	IntervalMs  int64       `json:"intervalMs"` // how soon the next record is due
	State       State       `json:"state"`
	Mode        Mode        `json:"mode"`
	URI         string      `json:"uri"`
	Key         string      `json:"key,omitempty"` // pin of the key that the node proves itself by to others; empty: it has none
	Host        string      `json:"host"`
	Priority    int         `json:"priority"`
	Version     string      `json:"version"`
	Term        Term        `json:"term"` // highest term the node has seen
	Electable   bool        `json:"electable"`
	Why         string      `json:"why,omitempty"`      // why it is not electable, or the last error
	LeaseMs     int64       `json:"leaseMs"`            // the node's own heartbeatTimeout
	StoreMs     int64       `json:"storeMs"`            // latency of its last heartbeat
	StateSeq    uint64      `json:"stateSeq,omitempty"` // how far it holds the persisted state
	WallMs      int64       `json:"wallMs"`
	StartedMs   int64       `json:"startedMs"`
	Removed     bool        `json:"removed,omitempty"`
}

// Encode writes the record as JSON.
func (r NodeRecord) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("lease: node record: %v", err)) // only plain fields: can not happen
	}
	return b
}

// ParseNodeRecord reads a record. A hostile or torn record is an error and
// nothing more: nobody is elected by it and no node stops for it.
func ParseNodeRecord(b []byte) (NodeRecord, error) {
	var r NodeRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return NodeRecord{}, fmt.Errorf("node record: %w", err)
	}
	if _, err := ParseNodeID(string(r.Node)); err != nil {
		return NodeRecord{}, fmt.Errorf("node record: %w", err)
	}
	if r.IntervalMs < 0 || r.LeaseMs < 0 || r.Term > MaxTerm {
		return NodeRecord{}, fmt.Errorf("node record of %s: number out of range", r.Node)
	}
	return r, nil
}
