// Package heartbeat tells whether other nodes are there, and over which of
// the paths to them.
//
// Two nodes send each other pings over UDP on every path that they share, and
// answer those of the other one. A path is up while answers come: an answer
// shows both directions and the other side's thread to be alive, so that both
// nodes judge a path alike when it fails in one direction only. A peer is down
// when all paths were silent for the timeout.
//
// Silence counts only while this node itself was awake. A node that was
// stopped, suspended or starved of its processor does not take its own sleep
// for the other one's death; if that one died meanwhile, it is found within one
// timeout of the awakening.
//
// All of it is done by one goroutine, which allocates next to nothing, on
// threads that ask for the real-time policy SCHED_RR (all of a process of its
// own, or one), so that busy virtual CPUs and garbage collection do not delay it. What it
// decides is in a pure core (state.go), which is given the times.
//
// Packets are authenticated with keys that both sides take from a TLS
// connection between them (DeriveKeys); a new connection means new keys. Each
// packet carries a number that is taken once only. What is not authentic is
// counted and not answered.
package heartbeat
