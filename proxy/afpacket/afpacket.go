// Package afpacket reads and writes whole Ethernet frames of one network device, each with the 10-byte
// virtio-net header in front, through Linux packet sockets (packet(7)).
//
// It keeps what the kernel knows of a frame: a segment of 64 KiB stays one frame, a checksum that is still to be
// completed stays so, a VLAN tag which the kernel took off is put back, the kernel's own receive time and the
// direction are reported. Nothing here parses, computes checksums or segments.
//
// An [RX] and a [TX] belong to one goroutine each; they hold no lock. Recv and Send never block and never
// allocate: wait with poll(2) on FD.
//
// The one invariant: no frame disappears silently. What the kernel dropped for want of room, could not describe
// or refused to send is counted ([RXStats], [TXStats], [RX.Drops]) or returned as an error.
package afpacket

import (
	"errors"
	"fmt"
)

const (
	// VnetLen is the length in bytes of the virtio-net header (legacy layout, little endian) in front of every frame.
	VnetLen = 10
	// TagLen is the length in bytes of an 802.1Q or 802.1ad tag.
	TagLen = 4
	// BufSize is the least size in bytes of a receive buffer which takes every frame whole: 64 KiB of IP packet, the
	// Ethernet header, two tags and the virtio-net header, rounded up. Frames of a device with gso_max_size over
	// 65,536 (BIG TCP) can be larger; they arrive with Meta.Truncated set.
	BufSize = 66048
	// MaxBatch is the largest number of frames that one call of Recv or Send handles in one system call. At 64 a
	// system call's price is below 2 % of the copying it does for 1,500-byte frames.
	MaxBatch = 64
)

// Meta is what the kernel says of one received frame.
type Meta struct {
	// Len is the number of bytes in the buffer: virtio-net header, frame, and the tag that was put back.
	Len int
	// KTime is when the kernel took the frame, in nanoseconds of CLOCK_REALTIME. It is never 0.
	KTime int64
	// VLAN is the tag that was put back into the bytes: tag protocol identifier << 16 | tag control information;
	// 0 where the kernel had not taken one off (a tag can be in the bytes all the same).
	VLAN uint32
	// Lost is the number of frames, modulo 2^32, which this socket has lost for want of room before this frame, since
	// it was opened. A growth from one frame to the next says where in the order frames are missing.
	Lost uint32
	// Outgoing is true for a frame that the host sends out of the device, false for one that came in from it.
	Outgoing bool
	// Truncated is true if the frame did not fit the buffer; Len bytes of it are there.
	Truncated bool
}

// Msg is a frame to be sent: the bytes of A and then those of B, together virtio-net header and Ethernet frame.
// Either may be empty. The caller may change the bytes as soon as Send has returned.
type Msg struct {
	A, B []byte
}

// Options of a receiving socket. The zero value is useful.
type Options struct {
	// IgnoreOutgoing leaves out the frames which the host sends out of the device.
	IgnoreOutgoing bool
	// RcvBuf is the socket's receive buffer in bytes, as the kernel counts them (a frame counts with all the memory it
	// occupies). 0 means DefaultBuf. It must exceed the sum of the senders' windows, else bursts are lost.
	RcvBuf int
}

// DefaultBuf is the default size in bytes of a socket's buffer in the kernel: ten flows with full windows of 6 MiB
// (net.ipv4.tcp_rmem's third number).
const DefaultBuf = 64 << 20

// RXStats counts since the socket was opened. Frames and Bytes are those handed to the caller.
type RXStats struct {
	Frames, Bytes uint64
	// Tagged is the number of frames to which a VLAN tag was put back.
	Tagged uint64
	// Truncated is the number of frames that were larger than their buffer.
	Truncated uint64
	// Undescribed is the number of frames which the kernel threw away because the virtio-net header has no way to
	// describe them (a kind of segmentation offload that the header does not know).
	Undescribed uint64
	// Lost is the number of frames thrown away for want of room, as far as Drops and Recv have learned of it.
	Lost uint64
}

// TXStats counts since the socket was opened.
type TXStats struct {
	Frames, Bytes uint64
	// Full is how often the kernel had no room (EAGAIN, ENOBUFS) and the rest of a batch was left to the caller.
	Full uint64
	// Refused counts frames that the kernel refused alone, by reason.
	Refused Refusals
}

// Refusals counts refused frames by the kernel's reason.
type Refusals struct {
	// TooLong: larger than the device's MTU without being marked as a segment to be cut (EMSGSIZE).
	TooLong uint64
	// Invalid: shorter than an Ethernet header, or a virtio-net header that contradicts the frame (EINVAL).
	Invalid uint64
	// Other: any further reason; Last says which.
	Other uint64
	// Last is the text of the latest reason, empty if there was none.
	Last string
}

// Total is the number of refused frames.
func (r Refusals) Total() uint64 { return r.TooLong + r.Invalid + r.Other }

var (
	// ErrDown says that the device is administratively down. The socket serves again once the device is up.
	ErrDown = errors.New("the device is down")
	// ErrGone says that the device does not exist (any more). A device of the same name is another device: close the
	// socket and open a new one.
	ErrGone = errors.New("the device does not exist")
)

// Error is what every function of this package returns on failure. It unwraps to the system call's errno and, where
// they fit, to ErrDown or ErrGone.
type Error struct {
	Op     string // what was attempted, such as "open", "receive"
	Device string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Device, e.Err) }
func (e *Error) Unwrap() error { return e.Err }
