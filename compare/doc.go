// Package compare decides which frames of the primary's guest may go to the network.
//
// An Engine stands beside the primary: it takes the frames of the primary's guest and the descriptors of
// what the secondary's guest has said, and answers with releases, questions to the other side and
// divergences. A Describer stands beside the secondary: it turns the guest's frames into descriptors,
// answers questions, and knows after the loss of the primary what clients have not got yet.
//
// The package keeps one invariant above all: a frame leaves an Engine only when the secondary's output
// agrees with it, a completed checkpoint covers it, or the engine was told that it speaks alone. It
// refuses to guess: what it cannot match becomes a Divergence with a typed reason, and a checkpoint heals it.
//
// It is pure: no I/O, no clock, no goroutine, no randomness. Time is a parameter (nanoseconds of any
// steady clock), and equal inputs give equal outputs. Neither type is safe for concurrent use. On the path
// of a frame nothing is allocated.
//
// TCP is compared as a stream of bytes at sequence numbers of the primary's guest ("the primary's
// space"). A connection that was opened after the last checkpoint has another initial sequence number and
// another timestamp clock in each guest; the Describer translates.
package compare
