package report

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// pcapng (draft-ietf-opsawg-pcapng): section header, two interface descriptions, enhanced packets.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6

	optEnd     = 0
	optComment = 1
	optIfName  = 2
	optIfDesc  = 3
	optIfTSRes = 9
	optAppl    = 4

	linkEthernet = 1
	snapLen      = 1 << 18
)

// WritePcapng writes reports as a capture of two interfaces, primary and secondary. A frame holds the bytes that the
// report has, behind headers made of the flow's addresses and sequence numbers, and a comment.
func WritePcapng(w io.Writer, all []*Report) error {
	out := bufio.NewWriter(w)
	le := binary.LittleEndian
	sec := le.AppendUint32(nil, 0x1a2b3c4d)
	sec = le.AppendUint16(sec, 1)
	sec = le.AppendUint16(sec, 0)
	sec = le.AppendUint64(sec, ^uint64(0)) // length of the section: not given
	sec = option(sec, optAppl, []byte("colod"))
	block(out, blockSection, option(sec, optEnd, nil))
	for i, name := range []string{"primary", "secondary"} {
		b := le.AppendUint16(nil, linkEthernet)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint32(b, snapLen)
		b = option(b, optIfName, []byte(name))
		b = option(b, optIfDesc, []byte([]string{"what the primary's guest sent", "what the secondary's guest sent"}[i]))
		b = option(b, optIfTSRes, []byte{9})
		block(out, blockInterface, option(b, optEnd, nil))
	}
	for _, r := range all {
		for side := range 2 {
			at, frame, comment := capture(r, side)
			b := le.AppendUint32(nil, uint32(side))
			ns := uint64(max(at.UnixNano(), 0))
			b = le.AppendUint32(b, uint32(ns>>32))
			b = le.AppendUint32(b, uint32(ns))
			b = le.AppendUint32(b, uint32(len(frame)))
			b = le.AppendUint32(b, uint32(len(frame)))
			b = pad4(append(b, frame...))
			b = option(b, optComment, []byte(comment))
			block(out, blockPacket, option(b, optEnd, nil))
		}
	}
	return out.Flush()
}

// block writes a block; an error stays in the writer until Flush.
func block(w *bufio.Writer, kind uint32, body []byte) {
	var b [8]byte
	n := uint32(12 + len(body))
	binary.LittleEndian.PutUint32(b[:], kind)
	binary.LittleEndian.PutUint32(b[4:], n)
	_, _ = w.Write(b[:])
	_, _ = w.Write(body)
	_, _ = w.Write(b[4:])
}

func option(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad4(append(b, value...))
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// capture is one side of a report as a frame.
func capture(r *Report, side int) (at time.Time, frame []byte, comment string) {
	at, spoke, payload := r.Time, r.Timing.Primary, []byte(nil)
	if side == 1 {
		spoke = r.Timing.Secondary
	}
	if spoke != nil {
		at = *spoke
	}
	first := 0 // offset of the payload within the compared range
	if r.Bytes != nil {
		payload = r.Bytes.Primary
		if side == 1 {
			payload = r.Bytes.Secondary
		}
		first = r.Position.Offset - r.Bytes.At
	}
	frame = packet(r, payload, first)
	name := [2]string{"primary", "secondary"}[side]
	var c strings.Builder
	fmt.Fprintf(&c, "colod report %d, %s: %s; reason %s", r.Number, name, r.Cause.words(), r.Reason)
	if r.Position.Exact {
		fmt.Fprintf(&c, "; first difference at stream byte %d, frame byte %d of the primary", r.Position.Stream, r.Position.Frame)
	}
	if r.Bytes != nil && r.Position.Exact {
		fmt.Fprintf(&c, "; byte %d of the payload here", r.Bytes.At)
	}
	if r.Bytes != nil && r.Bytes.Payload != string(PayloadFull) {
		fmt.Fprintf(&c, "; payload: %s", r.Bytes.Payload)
	}
	if r.Checkpoint != nil {
		fmt.Fprintf(&c, "; checkpoint %d stopped the guest for %.2f ms", r.Checkpoint.Number, r.Checkpoint.StopMS)
	}
	if r.Detail != "" {
		fmt.Fprintf(&c, "; %s", r.Detail)
	}
	return at, frame, Clean(c.String(), 2*maxText)
}

// packet makes a frame around payload, which lies first bytes behind the begin of the compared range.
func packet(r *Report, payload []byte, first int) []byte {
	f := &r.Flow
	be := binary.BigEndian
	eth := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1} // made up: reports have no MAC addresses of the segment
	src, serr := netip.ParseAddr(f.Guest)
	dst, derr := netip.ParseAddr(f.Peer)
	if serr != nil || derr != nil || src.Is4() != dst.Is4() || f.Kind == "arp" {
		if f.Kind == "other" && first == 0 && len(payload) >= 14 {
			return payload // compared whole, with its Ethernet header
		}
		return append(be.AppendUint16(eth, max(f.Ether, 0x600)), payload...)
	}
	proto := f.Protocol
	var l4 []byte
	sum := -1
	switch f.Kind {
	case "tcp":
		l4 = be.AppendUint16(l4, f.GuestPort)
		l4 = be.AppendUint16(l4, f.PeerPort)
		l4 = be.AppendUint32(l4, r.Position.Seq+uint32(first))
		l4 = append(l4, 0, 0, 0, 0, 5<<4, 0x10, 0xff, 0xff, 0, 0, 0, 0)
		proto, sum = 6, 16
	case "udp":
		l4 = be.AppendUint16(l4, f.GuestPort)
		l4 = be.AppendUint16(l4, f.PeerPort)
		l4 = be.AppendUint16(l4, uint16(8+len(payload)))
		l4 = append(l4, 0, 0)
		proto, sum = 17, 6
	case "icmp", "nd", "group":
		l4 = append(l4, 0, 0, 0, 0)
	}
	l4 = append(l4, payload...)
	if sum >= 0 {
		pseudo := append(src.AsSlice(), dst.AsSlice()...)
		pseudo = append(pseudo, 0, proto)
		pseudo = be.AppendUint16(pseudo, uint16(len(l4)))
		c := ^checksum(append(pseudo, l4...))
		if c == 0 {
			c = 0xffff
		}
		be.PutUint16(l4[sum:], c)
	}
	if src.Is4() {
		ip := []byte{0x45, 0}
		ip = be.AppendUint16(ip, uint16(20+len(l4)))
		ip = append(ip, 0, 0, 0x40, 0, 64, proto, 0, 0)
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		be.PutUint16(ip[10:], ^checksum(ip))
		return append(append(be.AppendUint16(eth, 0x0800), ip...), l4...)
	}
	ip := []byte{0x60, 0, 0, 0}
	ip = be.AppendUint16(ip, uint16(len(l4)))
	ip = append(ip, proto, 64)
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	return append(append(be.AppendUint16(eth, 0x86dd), ip...), l4...)
}

// checksum is the ones' complement sum of b (RFC 1071).
func checksum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
