// Package fence makes a former master harmless from outside: it asks it to step
// down, runs a command, here or there, or stops its instance. A Fencer tries its
// methods in order, each within its timeout; the first success ends it.
//
// Only what does not ask the machine itself can prove that it is off (R6b), and
// only if whoever wrote the configuration says so: a command that cuts its power,
// and EC2, once it describes the instance as stopped. Which machine that is comes
// from this node's own configuration, never from what nodes say of themselves.
package fence
