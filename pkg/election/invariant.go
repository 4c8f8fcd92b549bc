package election

import "fmt"

// Check reports what must never be seen between two steps. The simulator and
// the explorer call it after each one.
func (m *Machine) Check() error {
	w, r := &m.w, m.reign
	for _, a := range w.open {
		if a.value.Incarnation != m.cfg.Incarnation {
			return fmt.Errorf("attempt %s is not of this run", a.id)
		}
		if a.value.Seq != w.at.Seq+1 {
			return fmt.Errorf("attempt %s does not follow its base %v", a.id, w.at)
		}
		if !a.value.Held && (r == nil || !r.empty) && !m.cfg.Without.off(WithoutR9) {
			return fmt.Errorf("release %s before the service was proven gone (R9)", a.id)
		}
	}
	if r == nil {
		return nil
	}
	switch {
	case r.value.Incarnation != m.cfg.Incarnation || r.value.Term != r.term || !r.value.Held:
		return fmt.Errorf("reign of term %d rests on a value that is not its own: %+v", r.term, r.value)
	case r.ready && r.over:
		return fmt.Errorf("term %d is over and ready at once (R10)", r.term)
	case r.started && !r.readBack:
		return fmt.Errorf("term %d was started before its claim was read back (R8)", r.term)
	case r.started && !r.armed && !m.cfg.Without.off(WithoutG1):
		return fmt.Errorf("term %d was started before the guard held its deadline (G1)", r.term)
	case r.value.Lease != r.timing.Timeout && !m.cfg.Without.off(WithoutR13):
		return fmt.Errorf("term %d: lease %v in the register, %v in mind (R13)", r.term, r.value.Lease, r.timing.Timeout)
	case m.durable.claim != r.term:
		return fmt.Errorf("term %d was claimed before it was durable (R0)", r.term)
	}
	return nil
}
