package colocompare

import (
	"encoding/binary"
	"math/rand/v2"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

const (
	firstPort = 20000 // of the clients: flow i has port firstPort+i
	firstSeq  = 1000
	firstAck  = 5000
	// block is how many frames of the primary lie between two moments at which both guests have said the same: there a
	// checkpoint may be done.
	block = 256
)

// Offsets in a frame of a trace: Ethernet, IPv4 without options.
const (
	offProto = 23
	offLen   = 16
	offL4    = 34
)

// trace is what both guests say. All of it is legal: two guests that are alike may say it, so that every checkpoint
// asked for is a false one.
type trace struct {
	name, about string
	udp, acks   bool
	repeats     bool  // guests repeat segments
	flows, size int   // bytes of payload in a frame of the primary
	window      int64 // units that may be under way; a unit is a byte of payload, or one that is acknowledged
	lag         int64 // units by which the secondary is behind
	side        [2]stream
	units       int64
	delta       uint32   // what one loop adds to the numbers of a flow
	said        [2]int64 // while it is made
}

// stream is one guest's frames in QEMU's framing.
type stream struct {
	wire   []byte
	ends   []int   // where frame i ends in wire
	at     []int64 // units said before frame i
	number []int   // where in wire the number lies which each loop raises
	bars   []int   // frames before the end of each block
}

// segment is one frame to make: n bytes (or the datagram number pos) of a flow.
type segment struct {
	flow   int
	pos, n int
}

// content is the memory that payloads are cut from.
var content = func() []byte {
	b := make([]byte, 1<<17)
	r := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(b)/2; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	copy(b[len(b)/2:], b) // a stream goes round in it, however it is cut
	return b
}()

func payload(s segment) []byte {
	off := (s.flow*7919 + s.pos) & 0xffff
	return content[off : off+s.n]
}

// add makes a frame of side for s; said is how many new units it says.
func (t *trace) add(side int, s segment, said int) {
	st := &t.side[side]
	guest, client := frametest.A("192.0.2.10:80"), frametest.A("198.51.100.1:1")
	client.Port = uint16(firstPort + s.flow)
	link := frametest.Link{ID: uint16(len(st.ends)*2 + side*12345)} // drawn by each guest for itself
	var b []byte
	at := 0
	switch {
	case t.udp:
		p := append([]byte(nil), payload(segment{s.flow, 0, t.size})...)
		binary.BigEndian.PutUint32(p, uint32(s.pos))
		b = frametest.UDP(link, guest, client, p, false)
		at = offL4 + 8
	default:
		tcp := frametest.TCP{Link: link, Src: guest, Dst: client, Seq: uint32(firstSeq + s.pos), Ack: firstAck, Flags: frame.ACK, Window: 500,
			Options: frametest.TS(uint32(1000+len(st.ends)/16+side*7), 1)}
		at = offL4 + 4
		if t.acks {
			tcp.Seq, tcp.Ack = firstSeq, uint32(firstAck+s.pos)
			at = offL4 + 8
		} else {
			tcp.Payload = payload(s)
		}
		b = tcp.Bytes()
	}
	b = b[frame.VnetLen:]
	st.at = append(st.at, t.said[side])
	st.number = append(st.number, len(st.wire)+4+at)
	st.wire = append(binary.BigEndian.AppendUint32(st.wire, uint32(len(b))), b...)
	st.ends = append(st.ends, len(st.wire))
	t.said[side] += int64(said)
}

func (t *trace) bar() {
	for i := range t.side {
		t.side[i].bars = append(t.side[i].bars, len(t.side[i].ends))
	}
}

// spec describes a trace.
type spec struct {
	name, about string
	udp, acks   bool
	flows       int
	size        int
	other       int // segment size of the secondary, 0 for the same
	shuffle     bool
	repeat      bool
	window, lag int // frames; window 0: 512
}

// specs are the cases. Sizes are bytes of payload.
var specs = []spec{
	{name: "udp-64-1", about: "64-byte UDP frames, 1 flow", udp: true, flows: 1, size: 22},
	{name: "udp-64-1000", about: "64-byte UDP frames, 1,000 flows", udp: true, flows: 1000, size: 22},
	{name: "tcp-1448-1", about: "TCP, 1,448-byte segments, 1 flow", flows: 1, size: 1448},
	{name: "tcp-1448-1000", about: "TCP, 1,448-byte segments, 1,000 flows", flows: 1000, size: 1448},
	{name: "tcp-1448-vs-536", about: "TCP, the primary's segments are 1,448 bytes, the secondary's 536", flows: 1, size: 1448, other: 536},
	{name: "tcp-1448-vs-1000", about: "TCP, segments of 1,448 and 1,000 bytes", flows: 1, size: 1448, other: 1000},
	{name: "tcp-1448-vs-14480", about: "TCP, segments of 1,448 and 14,480 bytes", flows: 1, size: 1448, other: 14480},
	{name: "tcp-14480-vs-1448", about: "TCP, segments of 14,480 and 1,448 bytes", flows: 1, size: 14480, other: 1448},
	{name: "tcp-order", about: "TCP, 1,000 flows, the guests serve them in different order", flows: 1000, size: 1448, shuffle: true},
	{name: "udp-order", about: "64-byte UDP frames, 1,000 flows, the guests serve them in different order", udp: true, flows: 1000, size: 22, shuffle: true},
	{name: "tcp-loss", about: "TCP, 1 of 100 segments is repeated, by the guests at different moments", flows: 1, size: 1448, repeat: true},
	{name: "tcp-lag", about: "TCP, the secondary is 2,000 frames behind", flows: 1, size: 1448, window: 4096, lag: 2000},
	{name: "upload", about: "TCP, an upload: guests send acknowledgements only, the primary for each segment, the secondary for every other", acks: true, flows: 1, size: 1448},
}

// build makes a trace of about frames frames of the primary.
func (sp spec) build(frames int) *trace {
	if sp.window == 0 {
		sp.window = 512
	}
	t := &trace{name: sp.name, about: sp.about, udp: sp.udp, acks: sp.acks, repeats: sp.repeat, flows: sp.flows, size: sp.size,
		window: int64(sp.window * sp.size), lag: int64(sp.lag * sp.size)}
	per := block * max(1, (sp.flows+block-1)/block) // frames of a block, so that all flows are at the same position after it
	if sp.flows > 1 {
		per = sp.flows
	}
	blocks := max(2, frames/per)
	r := rand.New(rand.NewPCG(1, 1))
	for b := range blocks {
		var p []segment
		for i := range per {
			n := b*per + i
			s := segment{flow: n % sp.flows, pos: n / sp.flows * sp.size, n: sp.size}
			if sp.udp {
				s.pos = n / sp.flows
			}
			p = append(p, s)
		}
		from, to := b*per*sp.size, (b+1)*per*sp.size
		for i, s := range p {
			if sp.acks {
				s.pos += sp.size
			}
			t.add(0, s, sp.size)
			if sp.repeat && i >= 20 && i%100 == 50 {
				t.add(0, p[i-20], 0)
			}
		}
		switch {
		case sp.other > 0:
			for at := from; at < to; at += sp.other {
				n := min(sp.other, to-at)
				t.add(1, segment{0, at, n}, n)
			}
		case sp.acks:
			for i := 1; i < len(p); i += 2 {
				s := p[i]
				s.pos += sp.size
				t.add(1, s, 2*sp.size)
			}
		default:
			q := append([]segment(nil), p...)
			if sp.shuffle {
				for i := 0; i < len(q); i += block {
					w := q[i:min(i+block, len(q))]
					r.Shuffle(len(w), func(a, b int) { w[a], w[b] = w[b], w[a] })
				}
			}
			for i, s := range q {
				t.add(1, s, sp.size)
				if sp.repeat && i >= 30 && i%100 == 60 {
					t.add(1, q[i-30], 0)
				}
			}
		}
		t.bar()
	}
	t.units = t.said[0]
	t.delta = uint32(t.units / int64(sp.flows))
	if sp.udp {
		t.delta = uint32(blocks * per / sp.flows)
	}
	return t
}

// next raises all numbers by one loop. Checksums are left behind: neither comparator looks at them.
func (t *trace) next() {
	for i := range t.side {
		s := &t.side[i]
		for _, at := range s.number {
			binary.BigEndian.PutUint32(s.wire[at:], binary.BigEndian.Uint32(s.wire[at:])+t.delta)
		}
	}
}
