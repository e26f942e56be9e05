// Package relay carries QEMU's COLO state stream between the two nodes of a pair: a unix socket to
// QEMU on each, one TCP connection between them. QEMU's own TCP channel costs 45 to 90 ms per
// checkpoint more, as it writes in small pieces and leaves Nagle's algorithm on; the relay also
// counts, tells the phases of each checkpoint, lets the caller encrypt, and is the fence: [Relay.Cut]
// frees a QEMU that waits for a peer that froze.
//
// The relay never looks into the forward stream (guest memory; the kernel moves it with splice where
// both ends are plain sockets). It reads the back channel, which is a few bytes per checkpoint.
//
// The invariant it keeps: it never delays a byte for another one, and once Cut has returned, every
// descriptor of it is closed.
package relay
