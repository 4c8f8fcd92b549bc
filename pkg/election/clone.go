package election

import "slices"

// Clone returns a copy that shares nothing with m but its configuration, so
// that every possible future of a machine can be tried.
func (m *Machine) Clone() *Machine {
	c := *m
	c.out = nil
	c.w.open = slices.Clone(m.w.open)
	c.peers = slices.Clone(m.peers)
	c.changes = slices.Clone(m.changes)
	if m.reign != nil {
		r := *m.reign
		if r.leaving != nil {
			l := *r.leaving
			r.leaving = &l
		}
		c.reign = &r
	}
	return &c
}
