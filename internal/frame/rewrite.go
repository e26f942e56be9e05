package frame

import "encoding/binary"

// Edit is a change of the numbers in a TCP header: each Add is added modulo 2^32, to Ack, TSEcr and SACK
// only where the segment has them. The zero Edit changes nothing.
type Edit struct {
	SeqAdd   uint32
	AckAdd   uint32 // not applied without the ACK flag
	SACKAdd  uint32 // to both edges of every SACK block
	TSValAdd uint32
	TSEcrAdd uint32 // not applied without the ACK flag: the field is not valid then (RFC 7323 section 3.2)
}

// Rewrite applies e to the TCP frame buf, brings its checksum up to date, complete or partial, and p with it.
// Frames of another kind are left alone.
func (e Edit) Rewrite(buf []byte, p *Parsed) {
	if p.Kind != KindTCP || e == (Edit{}) {
		return
	}
	var d delta
	if e.SeqAdd != 0 {
		p.Seq = p.Seq.Add(e.SeqAdd)
		d.put32(buf, p.L4, p.L4+4, uint32(p.Seq))
	}
	ack := p.Flags&ACK != 0
	if e.AckAdd != 0 && ack {
		p.Ack = p.Ack.Add(e.AckAdd)
		d.put32(buf, p.L4, p.L4+8, uint32(p.Ack))
	}
	if e.SACKAdd != 0 {
		for o := p.SACKOff; o < p.SACKOff+p.SACKLen; o += 4 {
			d.put32(buf, p.L4, o, binary.BigEndian.Uint32(buf[o:])+e.SACKAdd)
		}
	}
	if p.HasTS && e.TSValAdd != 0 {
		p.TSVal += e.TSValAdd
		d.put32(buf, p.L4, p.TSOff, p.TSVal)
	}
	if p.HasTS && e.TSEcrAdd != 0 && ack {
		p.TSEcr += e.TSEcrAdd
		d.put32(buf, p.L4, p.TSOff+4, p.TSEcr)
	}
	p.settle(buf, d)
}

// settle puts d into the TCP checksum. A partial one covers the pseudo-header only, which no field of the
// TCP header is part of.
func (p *Parsed) settle(buf []byte, d delta) {
	if d != 0 && !p.Partial(buf) {
		d.apply(buf, p.L4+16)
	}
}

// Header sets fields of a TCP header to given values: a set of those to change and the values.
type Header struct {
	Seq, Ack Num
	Window   uint16
	TSVal    uint32
}

// SetHeader writes the fields of h that differ from p's into the TCP frame buf, with its checksum, and p with it.
// TSVal is ignored for a segment without timestamps, Ack for one without the ACK flag.
func (p *Parsed) SetHeader(buf []byte, h Header) {
	var d delta
	if h.Seq != p.Seq {
		p.Seq = h.Seq
		d.put32(buf, p.L4, p.L4+4, uint32(h.Seq))
	}
	if h.Ack != p.Ack && p.Flags&ACK != 0 {
		p.Ack = h.Ack
		d.put32(buf, p.L4, p.L4+8, uint32(h.Ack))
	}
	if h.Window != p.Window {
		p.Window = h.Window
		d.put16(buf, p.L4, p.L4+14, h.Window)
	}
	if p.HasTS && h.TSVal != p.TSVal {
		p.TSVal = h.TSVal
		d.put32(buf, p.L4, p.TSOff, h.TSVal)
	}
	p.settle(buf, d)
}

// DropSACK takes out every SACK block for which keep is false. The option shrinks and NOPs fill the room; with
// no block left the whole option becomes NOPs. It returns how many blocks are left.
func (p *Parsed) DropSACK(buf []byte, keep func(left, right Num) bool) int {
	n := p.SACKLen / 8
	var blocks [4][2]Num
	left := 0
	for i := range min(n, len(blocks)) {
		if l, r := p.SACK(buf, i); keep(l, r) {
			blocks[left] = [2]Num{l, r}
			left++
		}
	}
	if left == n {
		return n
	}
	var d delta
	o := p.SACKOff
	for i := range left {
		d.put32(buf, p.L4, o+8*i, uint32(blocks[i][0]))
		d.put32(buf, p.L4, o+8*i+4, uint32(blocks[i][1]))
	}
	start := o + 8*left
	if left == 0 {
		start = o - 2
	} else {
		d.put8(buf, p.L4, o-1, uint8(2+8*left))
	}
	for i := start; i < o+p.SACKLen; i++ {
		d.put8(buf, p.L4, i, 1)
	}
	p.SACKLen = 8 * left
	if left == 0 {
		p.SACKOff = 0
	}
	p.settle(buf, d)
	return left
}
