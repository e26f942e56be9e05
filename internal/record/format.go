package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// The file: the line magic, then blocks. A block is the length of its body and the CRC-32C of length and body, four
// bytes each in network order, and the body. The first block is the Header as JSON, the second the engine's state; the
// others hold events, each of which begins with its kind. Numbers are varints; times are differences to the
// event before, nanoseconds.
const (
	magic    = "colod recording 1\n"
	maxBlock = 256 << 20
	blockLen = 256 << 10
)

// Kinds of event. Their values are part of the format.
const (
	evPrimary    byte = 1  // now, ktime, index, frame
	evInput      byte = 2  // now, frame
	evFlowDef    byte = 3  // id, key
	evDescriptor byte = 4  // now, descriptor
	evRaw        byte = 5  // now, id, flow, seq, data
	evReceived   byte = 6  // now, n
	evTick       byte = 7  // now
	evBudget     byte = 8  // duration
	evBegin      byte = 9  // now
	evEnd        byte = 10 // now, resume
	evAbort      byte = 11 // now
	evSolo       byte = 12 // now
	evOut        byte = 13 // outcome
	evLogged     byte = 14 // now, key, seq, end
	evNotify     byte = 15 // now
	evBuffer     byte = 16 // on
	evFinish     byte = 17 // whole, number of events
)

// Header says what a recording is of.
type Header struct {
	Node       string      `json:"node"`
	Pair       string      `json:"pair"`
	Started    time.Time   `json:"started"`
	Mono       int64       `json:"mono"` // the engine's clock at the beginning, ns
	Key        []byte      `json:"key"`  // of the digests
	HoldNS     int64       `json:"hold_ns"`
	Context    int         `json:"context"`
	Tolerances []Tolerance `json:"tolerances"`
}

// Tolerance is a compare.Tolerance in a header.
type Tolerance struct {
	Name       string `json:"name"`
	Kind       uint8  `json:"kind"`
	Port       uint16 `json:"port,omitempty"`
	PeerPort   uint16 `json:"peer_port,omitempty"`
	Header     string `json:"header,omitempty"`
	Pattern    string `json:"pattern,omitempty"`
	Uncompared bool   `json:"uncompared,omitempty"`
}

func fromTolerances(all []compare.Tolerance) []Tolerance {
	out := []Tolerance{}
	for _, t := range all {
		x := Tolerance{Name: t.Name, Kind: uint8(t.Kind), Port: t.Port, PeerPort: t.PeerPort, Header: t.Header, Uncompared: t.Uncompared}
		if t.Pattern != nil {
			x.Pattern = t.Pattern.String()
		}
		out = append(out, x)
	}
	return out
}

// config is the configuration of the recorded engine.
func (h *Header) config() (compare.Config, error) {
	c := compare.Config{Hold: time.Duration(h.HoldNS), Context: h.Context}
	if copy(c.Key[:], h.Key) != len(c.Key) {
		return c, fmt.Errorf("recording: key of %d bytes", len(h.Key))
	}
	for _, t := range h.Tolerances {
		x := compare.Tolerance{Name: t.Name, Kind: frame.Kind(t.Kind), Port: t.Port, PeerPort: t.PeerPort, Header: t.Header, Uncompared: t.Uncompared}
		if t.Pattern != "" {
			re, err := regexp.Compile(t.Pattern)
			if err != nil {
				return c, fmt.Errorf("recording: tolerance %q: %w", t.Name, err)
			}
			x.Pattern = re
		}
		if why := x.Check(); why != "" {
			return c, fmt.Errorf("recording: tolerance %q: %s", t.Name, why)
		}
		c.Tolerances = append(c.Tolerances, x)
	}
	return c, nil
}

// Errors of a recording.
var (
	ErrFormat  = errors.New("not a recording of colod")
	ErrDamaged = errors.New("the recording is damaged")
	// ErrVersion: the types of the engine have changed since.
	ErrVersion = errors.New("the recording was made by another version of colod: use that one to replay it")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeBlock(w io.Writer, body []byte) error {
	var head [8]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(body)))
	binary.BigEndian.PutUint32(head[4:], crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, body))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// readBlock reads one block into the memory of b. io.EOF says that there is none.
func readBlock(r io.Reader, b []byte) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return b, ErrDamaged
		}
		return b, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxBlock {
		return b, ErrDamaged
	}
	// Read in steps: a damaged length must not cost its memory.
	b = b[:0]
	for len(b) < int(n) {
		step := min(int(n)-len(b), 1<<20)
		at := len(b)
		if cap(b) < at+step {
			b = append(make([]byte, 0, max(2*cap(b), at+step)), b...)
		}
		b = b[:at+step]
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return b, ErrDamaged
		}
	}
	if crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, b) != binary.BigEndian.Uint32(head[4:]) {
		return b, ErrDamaged
	}
	return b, nil
}

// outcome is what an engine answered, as far as it is kept: counts and checksums, and all divergences.
type outcome struct {
	releases, messages, freed, tolerated uint64
	sum                                  uint32 // of the released bytes and their reasons
	msum                                 uint32 // of the messages
	divergences                          []verdict
	asks                                 []ask
}

// verdict is the identity of a divergence.
type verdict struct {
	id, epoch         uint32
	reason            compare.Reason
	final, exact, abs bool
	seq               frame.Num
	n                 uint32
	position          uint64
	frameOffset       int
	flow              string
}

// ask is a question for the secondary's bytes.
type ask struct {
	id, flow uint32
	seq      frame.Num
	n        uint32
	index    uint64
}

func (o *outcome) empty() bool {
	return o.releases|o.messages|o.freed|o.tolerated == 0 && len(o.divergences) == 0
}

// take fills o from out.
func (o *outcome) take(out *compare.Out) {
	*o = outcome{releases: uint64(len(out.Releases)), messages: uint64(len(out.Messages)), freed: uint64(len(out.Free)),
		tolerated: uint64(len(out.Tolerated)), divergences: o.divergences[:0], asks: o.asks[:0]}
	var b [64]byte
	be := binary.BigEndian
	for i := range out.Releases {
		r := &out.Releases[i]
		b[0] = byte(r.Reason)
		be.PutUint32(b[1:], uint32(r.Len()))
		o.sum = crc32.Update(o.sum, castagnoli, b[:5])
		o.sum = crc32.Update(o.sum, castagnoli, r.Head[:r.HeadLen])
		if r.F != nil {
			o.sum = crc32.Update(o.sum, castagnoli, r.F.Buf[r.Payload[0]:r.Payload[1]])
		}
	}
	for i := range out.Messages {
		m := &out.Messages[i]
		b[0] = byte(m.Kind)
		n := 1
		switch m.Kind {
		case compare.MessageAnnounce:
			be.PutUint32(b[1:], uint32(m.Announce.Seq))
			be.PutUint32(b[5:], uint32(m.Announce.Ack))
			be.PutUint32(b[9:], m.Announce.TSVal)
			n = 13
		case compare.MessageAsk, compare.MessageAskRaw:
			be.PutUint32(b[1:], m.Ask.Flow)
			be.PutUint32(b[5:], uint32(m.Ask.Seq))
			be.PutUint32(b[9:], m.Ask.Len)
			be.PutUint64(b[13:], m.Ask.Index)
			n = 21
			if m.Kind == compare.MessageAskRaw {
				o.asks = append(o.asks, ask{m.Ask.ID, m.Ask.Flow, m.Ask.Seq, m.Ask.Len, m.Ask.Index})
			}
		case compare.MessageWatermark:
			w := &m.Watermark
			be.PutUint32(b[1:], w.Flow)
			be.PutUint32(b[5:], uint32(w.Seq))
			be.PutUint32(b[9:], uint32(w.Ack))
			be.PutUint64(b[13:], w.Next)
			be.PutUint64(b[21:], w.From)
			be.PutUint64(b[29:], w.Mask)
			n = 37
		}
		o.msum = crc32.Update(o.msum, castagnoli, b[:n])
	}
	for i := range out.Divergences {
		d := &out.Divergences[i]
		o.divergences = append(o.divergences, verdict{d.ID, d.Epoch, d.Reason, d.Final, d.Exact, d.Absolute, d.Seq, d.Len, d.Position, d.FrameOffset, d.Key.String()})
	}
}

func (o *outcome) append(b []byte) []byte {
	for _, n := range []uint64{o.releases, o.messages, o.freed, o.tolerated, uint64(o.sum), uint64(o.msum), uint64(len(o.divergences)), uint64(len(o.asks))} {
		b = binary.AppendUvarint(b, n)
	}
	for i := range o.divergences {
		d := &o.divergences[i]
		b = binary.AppendUvarint(b, uint64(d.id))
		b = binary.AppendUvarint(b, uint64(d.epoch))
		b = append(b, byte(d.reason), bits(d.final, d.exact, d.abs))
		b = binary.AppendUvarint(b, uint64(d.seq))
		b = binary.AppendUvarint(b, uint64(d.n))
		b = binary.AppendUvarint(b, d.position)
		b = binary.AppendVarint(b, int64(d.frameOffset))
		b = appendBytes(b, []byte(d.flow))
	}
	for _, a := range o.asks {
		for _, n := range []uint64{uint64(a.id), uint64(a.flow), uint64(a.seq), uint64(a.n), a.index} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

func bits(on ...bool) (b byte) {
	for i, x := range on {
		if x {
			b |= 1 << i
		}
	}
	return b
}

func appendBytes(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

func (o *outcome) read(r *reader) {
	*o = outcome{releases: r.uint(), messages: r.uint(), freed: r.uint(), tolerated: r.uint(), sum: uint32(r.uint()), msum: uint32(r.uint()),
		divergences: o.divergences[:0], asks: o.asks[:0]}
	nd, na := r.size(), r.size()
	for range nd {
		d := verdict{id: uint32(r.uint()), epoch: uint32(r.uint()), reason: compare.Reason(r.byte())}
		f := r.byte()
		d.final, d.exact, d.abs = f&1 != 0, f&2 != 0, f&4 != 0
		d.seq, d.n, d.position, d.frameOffset = frame.Num(r.uint()), uint32(r.uint()), r.uint(), int(r.int())
		d.flow = string(r.bytes())
		if r.err != nil {
			return
		}
		o.divergences = append(o.divergences, d)
	}
	for range na {
		o.asks = append(o.asks, ask{uint32(r.uint()), uint32(r.uint()), frame.Num(r.uint()), uint32(r.uint()), r.uint()})
		if r.err != nil {
			return
		}
	}
}

func appendKey(b []byte, k *frame.FlowKey) []byte {
	b = append(append(b, k.Guest[:]...), k.Peer[:]...)
	for _, n := range []uint64{uint64(k.GuestPort), uint64(k.PeerPort), uint64(k.Ether), uint64(k.Proto), uint64(k.Kind), uint64(k.VLAN)} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func (r *reader) key() (k frame.FlowKey) {
	copy(k.Guest[:], r.take(16))
	copy(k.Peer[:], r.take(16))
	k.GuestPort, k.PeerPort, k.Ether = uint16(r.uint()), uint16(r.uint()), uint16(r.uint())
	k.Proto, k.Kind, k.VLAN = uint8(r.uint()), frame.Kind(r.uint()), uint32(r.uint())
	return k
}

func appendDescriptor(b []byte, d *compare.Descriptor) []byte {
	b = append(b, byte(d.Kind), d.Flags, bits(d.Pure, d.Mapped, d.HasTS, d.SACKPerm), byte(d.WScale), byte(d.Reason))
	for _, n := range []uint64{uint64(d.Flow), uint64(d.Epoch), uint64(d.Seq), uint64(d.Len), uint64(d.Hi), uint64(d.Ack), uint64(d.Window),
		uint64(d.TSVal), uint64(d.TSEcr), uint64(d.MSS), d.Index, d.Meta, uint64(d.Piece), uint64(d.KTime), uint64(d.NSACK)} {
		b = binary.AppendUvarint(b, n)
	}
	for _, s := range d.SACK[:min(int(d.NSACK), len(d.SACK))] {
		b = binary.AppendUvarint(b, uint64(s[0]))
		b = binary.AppendUvarint(b, uint64(s[1]))
	}
	b = binary.AppendUvarint(b, uint64(len(d.Digests)))
	for i := range d.Digests {
		b = append(b, d.Digests[i][:]...)
	}
	return b
}

// descriptor reads into d, whose memory for digests it uses again.
func (r *reader) descriptor(d *compare.Descriptor) {
	digests := d.Digests[:0]
	*d = compare.Descriptor{Kind: compare.DescriptorKind(r.byte()), Flags: r.byte()}
	f := r.byte()
	d.Pure, d.Mapped, d.HasTS, d.SACKPerm = f&1 != 0, f&2 != 0, f&4 != 0, f&8 != 0
	d.WScale, d.Reason = int8(r.byte()), compare.Reason(r.byte())
	d.Flow, d.Epoch, d.Seq, d.Len, d.Hi = uint32(r.uint()), uint32(r.uint()), frame.Num(r.uint()), uint32(r.uint()), uint16(r.uint())
	d.Ack, d.Window, d.TSVal, d.TSEcr, d.MSS = frame.Num(r.uint()), uint16(r.uint()), uint32(r.uint()), uint32(r.uint()), uint16(r.uint())
	d.Index, d.Meta, d.Piece, d.KTime, d.NSACK = r.uint(), r.uint(), uint32(r.uint()), int64(r.uint()), uint8(r.uint())
	for i := range min(int(d.NSACK), len(d.SACK)) {
		d.SACK[i] = [2]frame.Num{frame.Num(r.uint()), frame.Num(r.uint())}
	}
	for range r.size() {
		digests = append(digests, [compare.DigestLen]byte{})
		copy(digests[len(digests)-1][:], r.take(compare.DigestLen))
		if r.err != nil {
			break
		}
	}
	d.Digests = digests
}

// reader takes numbers and bytes off a block. After the first that is missing, all are zero and err is set.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = ErrDamaged
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) int() int64 {
	n, k := binary.Varint(r.b)
	if k <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// size is a number of things that take at least a byte each.
func (r *reader) size() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte { return r.take(r.size()) }
