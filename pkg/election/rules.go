package election

// Rules is a set of protocol rules, used to switch rules off in tests that
// show what each is for.
type Rules uint32

// The rules that can be switched off. What each removal means is said where
// the rule is applied.
const (
	WithoutR2         Rules = 1 << iota // attempts share one writeId
	WithoutR3                           // the lease counts from the reply
	WithoutR4                           // the right to serve is a flag, not a question to the clock
	WithoutR5                           // a write without an answer counts as applied
	WithoutR5Reading                    // an undecided write is waited for, never read back
	WithoutR6                           // a rival's silence counts from the value, not from the last change
	WithoutR6Gap                        // a watch with holes, or none, is as good as any, and a failed promotion is repeated at once
	WithoutR9                           // the release does not wait for the service's end
	WithoutR10Proof                     // a restarted node takes its former run's word for granted
	WithoutR13                          // a new timeout takes effect within the term
	WithoutR15                          // a value from the past is taken at its word
	WithoutR17                          // the order forbids: only the first-ranked may claim
	WithoutG1                           // the service starts before the guard holds a deadline
	WithoutG2                           // a thawed daemon may start the service anew
	WithoutG3                           // (guard) a silent daemon counts as dead
	WithoutR6b                          // a confirmed power-off counts for whatever that node writes later
	WithoutR6bProof                     // and so does fencing that confirmed nothing
	WithoutStickiness                   // R10: a lapsed term may be renewed again
)

func (r Rules) off(x Rules) bool { return r&x != 0 }
