// Package record keeps what a pair's comparison was told and what it answered, and runs it again.
//
// A Writer listens to a compare.Engine (it is a compare.Tap) and writes each call with its time, the frames of the
// primary's guest, the clients' frames, the descriptors of the secondary and the bytes that were asked for. The file
// begins with the engine's state, so that it may begin at any time. Replay gives the same calls to a new
// engine; the package compare is pure, so that it answers the same, and every answer is checked against the
// recorded one. With other tolerances it shows what they would have changed.
//
// A recording holds the guest's payload and the session's digest key: it is as secret as the traffic.
package record
