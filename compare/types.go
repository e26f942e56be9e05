package compare

import (
	"time"

	"colod/internal/frame"
)

// DigestLen is the length of a digest in bytes.
const DigestLen = 16

// Config bounds an Engine or a Describer. A zero value of a field means its default.
type Config struct {
	// Key is the session's digest key, the same on both sides and fresh for each session.
	Key [16]byte
	// Hold is the first hold budget; default 20 ms. See Engine.SetBudget.
	Hold time.Duration
	// AckHold is the least time that an acknowledgement of the primary waits for the secondary's before
	// that is a divergence; default 100 ms: longer than a delayed acknowledgement of Linux (40 ms).
	AckHold time.Duration
	// MaxFlows bounds the flow table; default 16384.
	MaxFlows int
	// MaxFrames and MaxBytes bound the frames kept (held by the Engine, retained by the Describer);
	// defaults 4096 frames and 64 MiB of frame bytes.
	MaxFrames int
	MaxBytes  int64
	// MaxPieces bounds the described ranges that wait for the primary, over all flows; default 65536.
	MaxPieces int
	// Local says that engine and describer are in one process and share the frames: bytes are compared instead of digests
	// where the describer keeps them. Descriptors that are lent frames cannot be sent.
	Local bool
	// MaxFlowFrames bounds the datagrams and repeated segments waiting in one flow; default 1024.
	MaxFlowFrames int
	// Tolerances are the differences that are no divergences; each must pass its Check.
	Tolerances []Tolerance
	// Context is how many bytes of each side a divergence shows before and behind the first difference;
	// default 256.
	Context int
}

// Frame is one captured frame. The caller's pool owns the memory; it lends a frame by passing it in, and
// gets it back in Out.Free, or with the Release that has Last set, each exactly once. While it is lent the
// callee may edit Buf.
type Frame struct {
	Buf   []byte       // virtio-net header and Ethernet frame
	KTime int64        // kernel's receive time, ns of CLOCK_REALTIME
	P     frame.Parsed // of Buf
	Index int          // the pool's; negative: made by this package and not of any pool

	link heldLink
}

// Why says what allowed a release.
type Why uint8

const (
	_ Why = iota
	// WhyAgreed: the secondary said the same.
	WhyAgreed
	// WhyCovered: a completed checkpoint holds the state that produced it.
	WhyCovered
	// WhySolo: this node speaks alone, by the arbiter's record.
	WhySolo
	// WhyAck: an acknowledgement that both sides stand for, made or lowered by the engine.
	WhyAck
	// WhyUncompared: a tolerance lets the datagram out without comparison.
	WhyUncompared
)

var whyNames = [...]string{"invalid", "agreed", "covered", "solo", "ack", "uncompared"}

func (w Why) String() string {
	if int(w) < len(whyNames) {
		return whyNames[w]
	}
	return "invalid"
}

// Release is one frame for the network: Head[:HeadLen] and then F.Buf[Payload[0]:Payload[1]].
//
// An untouched or in place edited frame has HeadLen 0 and a Payload that is the whole buffer. A made frame
// has no F and an empty Payload. Head starts with a virtio-net header whenever HeadLen > 0.
type Release struct {
	F       *Frame
	Payload [2]int
	HeadLen int
	Last    bool // F goes back to the pool once this is sent
	Reason  Why
	Flow    uint32 // the describer's number of the stream that this is of; 0: none
	Held    int64  // ns that the frame waited
	Head    [frame.MaxHead]byte
}

// Len is the length of the frame to send, virtio-net header included.
func (r *Release) Len() int { return r.HeadLen + r.Payload[1] - r.Payload[0] }

// MessageKind tells the kinds of Message apart.
type MessageKind uint8

const (
	_ MessageKind = iota
	// MessageAnnounce carries Message.Announce.
	MessageAnnounce
	// MessageAsk carries Message.Ask: digest the range.
	MessageAsk
	// MessageAskRaw carries Message.Ask: send the bytes of the range, for a report.
	MessageAskRaw
	// MessageWatermark carries Message.Watermark.
	MessageWatermark
)

// Message goes from the Engine to the Describer, in order. The proxy numbers them: the first message ever put
// in Out.Messages is number 1, and Engine.Received(n) says that the peer has all up to n.
type Message struct {
	Kind      MessageKind
	Announce  Announce
	Ask       Ask
	Watermark Watermark
}

// Announce tells the initial sequence number and timestamp that the primary's guest chose for a connection.
type Announce struct {
	Key    frame.FlowKey
	Seq    frame.Num // of the SYN
	Ack    frame.Num // of a SYN+ACK: names the connection when a port pair is used again
	HasAck bool
	HasTS  bool
	TSVal  uint32
}

// Ask asks for a range of a flow, in the primary's space; for datagrams Index names one. An empty Len with
// datagrams means the whole frame.
type Ask struct {
	Flow  uint32
	Seq   frame.Num
	Len   uint32
	Index uint64
	ID    uint32 // echoed in the Raw reply
	Fine  bool   // the guests cut this stream differently: describe it in smaller ranges from now on
}

// Watermark tells how far the output of a flow was released.
type Watermark struct {
	Flow uint32
	Kind frame.Kind
	// TCP: Seq is the end of the released stream, Ack the released acknowledgement, TSVal the highest
	// released timestamp.
	Seq, Ack frame.Num
	Known    bool // Seq is valid
	TSVal    uint32
	// Datagrams: all of the secondary's with Index < Next are released, and From+i where bit i of Mask is set. What one
	// watermark has told need not be in a later one.
	Next, From, Mask uint64
}

// DescriptorKind tells the kinds of Descriptor apart.
type DescriptorKind uint8

const (
	descriptorInvalid DescriptorKind = iota
	// DescribeTCP is a TCP segment.
	DescribeTCP
	// DescribeDatagram is anything else.
	DescribeDatagram
	// DescribeReply answers an Ask: one digest of [Seq, Seq+Len).
	DescribeReply
	// DescribeGone answers an Ask for bytes that the client has acknowledged and that are not kept any more.
	DescribeGone
	// DescribeFault says that the secondary's side lost something; Reason says what. Only a checkpoint helps.
	DescribeFault
	descriptorEnd
)

// Descriptor tells what the secondary's guest said, in the primary's space.
type Descriptor struct {
	Kind  DescriptorKind
	Flow  uint32 // defined by a FlowDef before; 0 for a fault
	Epoch uint32 // number of Describer.Reset calls before, modulo 2^32
	// TCP: the described range is [Seq, Seq+Len), bytes that were not described before; Hi are the 16 bits
	// above Seq in the stream position that the digests are bound to.
	Seq    frame.Num
	Len    uint32
	Hi     uint16
	Flags  uint8 // TCP flags; FIN lies at Seq+Len
	Pure   bool  // the segment had no payload, SYN, FIN or RST: an acknowledgement
	Mapped bool  // false on a SYN whose translation is not known yet: Seq and TSVal are the secondary's own
	Ack    frame.Num
	Window uint16 // raw field
	HasTS  bool
	TSVal  uint32
	TSEcr  uint32
	// SYN options; WScale -1 when absent, MSS 0 when absent.
	WScale   int8
	SACKPerm bool
	MSS      uint16
	NSACK    uint8
	SACK     [4][2]frame.Num // blocks in the client's space
	// Datagrams: Index counts them per flow, Meta packs the header fields that must agree, Len is the
	// length of the compared bytes.
	Index uint64
	Meta  uint64
	// Piece is the length of the range of each digest but the last; with one digest it equals Len.
	Piece   uint32
	Digests [][DigestLen]byte
	// Twin is, with Config.Local, the secondary's frame that holds the described range from TwinAt on, and Digests is empty.
	// The describer keeps it until the client has acknowledged the range, so until it was released.
	Twin   *Frame
	TwinAt int
	KTime  int64 // kernel's receive time at the secondary, ns
	Reason Reason
}

// FlowDef gives a number to a flow of the secondary. Numbers grow by one from 1 and are never used again in a
// session; a new connection on the same key and every epoch get new ones.
type FlowDef struct {
	ID  uint32
	Key frame.FlowKey
}

// Raw answers an AskRaw: the bytes of the secondary from Seq on (or of a datagram). It is short when not all
// of the range is kept.
type Raw struct {
	ID   uint32
	Flow uint32
	Seq  frame.Num
	Data []byte
}

// Divergence is a reason for a checkpoint. Each has an ID; one of reason payload comes twice when the exact
// position has to be asked for: first with Final false, then with Final true and the same ID.
type Divergence struct {
	ID     uint32
	Reason Reason
	Key    frame.FlowKey
	Epoch  uint32
	Final  bool
	// Seq and Len are the range that is known to differ or that got no answer, in the primary's space.
	Seq frame.Num
	Len uint32
	// Exact says that Position and FrameOffset are valid. Position is the stream position of the first
	// difference, counted from the first payload byte when Absolute is set, else from the first byte
	// compared in this flow. For datagrams it is the offset within the compared bytes. FrameOffset is the
	// offset of that byte in the primary's Ethernet frame, without virtio-net header.
	Exact       bool
	Absolute    bool
	Position    uint64
	FrameOffset int
	// Primary and Secondary are up to 32 bytes of each side from Position on.
	Primary, Secondary []byte
	Detail             string
	// Offset is where the first difference lies within the range, valid with Exact.
	Offset int
	// PrimaryAround and SecondaryAround are the bytes of each side around the first difference, which is at
	// Around in both; see Config.Context. They are there when Exact is.
	PrimaryAround, SecondaryAround []byte
	Around                         int
	// PrimaryTime and SecondaryTime are when the primary's guest sent the frame that waits longest in the flow, and
	// when the secondary's guest last spoke in it: the kernel's time, ns, each by its own host's clock; 0 when not
	// known. Waited is how long that frame has been held, ns.
	PrimaryTime, SecondaryTime int64
	Waited                     int64
	// Rule is the tolerance that hid a difference in this flow since the last checkpoint, "" when none did.
	Rule string
}

// Out is what an Engine wants done since the last Reset of it. Messages go to the peer in order; a release
// that needs the peer to have a message is not in Out before Received said so, so there is no order between
// Releases and Messages. Releases go to the network in order.
type Out struct {
	Releases    []Release
	Messages    []Message
	Divergences []Divergence
	Tolerated   []Tolerated
	Free        []*Frame
}

// Reset empties o and keeps its memory.
func (o *Out) Reset() {
	o.Releases = o.Releases[:0]
	o.Messages = o.Messages[:0]
	o.Divergences = o.Divergences[:0]
	o.Tolerated = o.Tolerated[:0]
	clear(o.Free)
	o.Free = o.Free[:0]
}

// DescOut is what a Describer wants done since the last Reset of it: all FlowDefs are sent before all
// Descriptors. Digests and Data are valid until Reset.
type DescOut struct {
	FlowDefs    []FlowDef
	Descriptors []Descriptor
	Raws        []Raw
	Free        []*Frame

	digests [][DigestLen]byte
}

// Reset empties o and keeps its memory.
func (o *DescOut) Reset() {
	o.FlowDefs = o.FlowDefs[:0]
	o.Descriptors = o.Descriptors[:0]
	clear(o.Raws)
	o.Raws = o.Raws[:0]
	clear(o.Free)
	o.Free = o.Free[:0]
	o.digests = o.digests[:0]
}

// Front is a connection whose sequence or timestamp space differs between the guest that speaks now and
// its clients: what the guest says has to be rewritten by adding the offsets, and what clients say by
// subtracting them.
type Front struct {
	Key    frame.FlowKey
	SeqOff uint32
	TSOff  uint32
	HasTS  bool
	// LastTS is the highest timestamp, in the clients' space, that clients are known to have been sent.
	LastTS uint32
	// Closed says that both sides have closed; what is left are late repetitions.
	Closed bool
}
