package ha

import (
	"crypto/rand"
	mathrand "math/rand/v2"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// random is the machine's chance: names from the system's generator, because
// no two may ever be equal; jitter from an ordinary one.
type random struct{}

func bits128() [16]byte {
	var b [16]byte
	rand.Read(b[:]) // documented never to fail
	return b
}

// NewIncarnation draws the name of a run.
func NewIncarnation() lease.Incarnation { return lease.Incarnation(lease.Encode128(bits128())) }

// NewNodeID draws a node id.
func NewNodeID() lease.NodeID {
	return lease.NodeID("n" + lease.Encode128(bits128())[:lease.NodeIDLen-1])
}

// NewPlaneID draws a plane id.
func NewPlaneID() lease.PlaneID {
	return lease.PlaneID(lease.Encode128(bits128())[:lease.PlaneIDLen])
}

// NewWriteID draws the name of an attempt.
func NewWriteID() lease.WriteID { return lease.WriteID(lease.Encode128(bits128())) }

func (random) WriteID() lease.WriteID { return NewWriteID() }
func (random) PlaneID() lease.PlaneID { return NewPlaneID() }
func (random) Jitter(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	return mathrand.N(limit) //nolint:gosec // spreads load, protects nothing
}
