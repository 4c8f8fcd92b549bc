// Package server is the REST interface of a node: one table of routes on
// gorilla/mux, authentication, TLS, and the health paths that proxies and
// monitors ask.
//
// # One request
//
//	route     the table (routes.go) maps method and path to a handler, a role
//	          and whether the route is for a MASTER only
//	role      open routes ask nobody; the others need a user's password
//	master    a write on a node that is not MASTER is refused, in Brooklyn's
//	          words, unless the route is exempt or the request insists
//	handler   turns one immutable Status and one reading of the clock into a
//	          response value; it never sees a ResponseWriter
//
// # What is promised
//
// Every GET is answered from memory: Node.Status returns a snapshot and no
// handler of a GET calls anything that can wait, so a hung store delays no
// answer. The one exception is the service's log, which is read from the local
// disk, as a stream. Tested by giving the handlers a node whose every other method
// blocks.
//
// MASTER is never read from a flag. Each request takes the snapshot, reads the
// clock after it, and applies the truth rule (Status.Serving, R4). A runtime
// that is stuck, suspended or cut off stops renewing, so the very same
// snapshot turns from 200 to 503 by itself when its lease ends.
//
// Passwords cost bcrypt once. What was verified is remembered as an HMAC under
// a key of this process; unverified attempts take turns at one slot, so a
// flood of wrong passwords can delay newcomers but neither those already
// known nor the heartbeat.
//
// What it does not do: it holds no election logic, decides nothing about the
// lease, and does not hide from whom it answers that a node exists: health
// paths are open by design.
package server
