package frame

import "encoding/binary"

// Cut writes to dst the headers of a TCP frame that carries the payload bytes [from, to) of buf, counted from
// its first payload byte, and returns their length: Head is dst[:n], the payload stays in
// buf[p.Payload+from : p.Payload+to]. Lengths, sequence number and segmentation fields are those of the
// part; FIN and PSH stay only on a part that ends the payload, CWR only on one that starts it. The checksum
// becomes a partial one: no payload byte is read. buf and p are not changed.
//
// dst needs p.Payload bytes, at most MaxHead. 0 <= from <= to <= p.Len() is the caller's duty.
func (p *Parsed) Cut(dst, buf []byte, from, to int) int {
	n := copy(dst, buf[:p.Payload])
	dst = dst[:n]
	size := to - from
	total := p.Payload - p.L3 + size
	p.setLength(dst, total, p.gsoSegments(from))
	// A guest may count payload in its linear memory as header (Linux virtio-net does); a kernel refuses to send
	// a frame that is shorter than its header (packet_snd, EINVAL).
	binary.LittleEndian.PutUint16(dst[vnetHdrLen:], uint16(n-VnetLen))
	if p.GSOType == GSONone || size <= int(p.GSOSize) {
		dst[vnetGSOType] = GSONone
		binary.LittleEndian.PutUint16(dst[vnetGSOSize:], 0)
	}
	p.setPartial(dst, p.Payload-p.L4+size)
	binary.BigEndian.PutUint32(dst[p.L4+4:], uint32(p.Seq)+uint32(from))
	if to < p.Len() {
		dst[p.L4+13] &^= FIN | PSH
	}
	if from > 0 {
		dst[p.L4+13] &^= CWR
	}
	return n
}

// gsoSegments is how many wire segments lie before payload byte from.
func (p *Parsed) gsoSegments(from int) uint16 {
	if p.GSOType == GSONone || p.GSOSize == 0 {
		if from > 0 {
			return 1
		}
		return 0
	}
	return uint16((from + int(p.GSOSize) - 1) / int(p.GSOSize))
}

// setLength sets the IP length of head to total bytes from L3 on. The IPv4 identification grows by ids, as
// segmentation does it.
func (p *Parsed) setLength(head []byte, total int, ids uint16) {
	field := uint16(0)
	if p.IPv6 {
		if n := total - ip6Len; n <= 0xffff {
			field = uint16(n)
		}
		binary.BigEndian.PutUint16(head[p.L3+4:], field)
		return
	}
	if total <= 0xffff {
		field = uint16(total)
	}
	var d delta
	d.put16(head, p.L3, p.L3+2, field)
	d.put16(head, p.L3, p.L3+4, binary.BigEndian.Uint16(head[p.L3+4:])+ids)
	d.apply(head, p.L3+10)
}

// setPartial gives head a partial TCP checksum over n transport bytes.
func (p *Parsed) setPartial(head []byte, n int) {
	at := p.L4 + 16
	if p.Partial(head) {
		was := p.End - p.L4
		var d delta
		d += delta(uint64(^uint16(was>>16)) + uint64(^uint16(was)) + uint64(n>>16) + uint64(n&0xffff))
		d.applyPartial(head, at)
		return
	}
	head[vnetFlags] = vnetNeedsCsum
	binary.LittleEndian.PutUint16(head[vnetCsumStart:], uint16(p.L4-VnetLen))
	binary.LittleEndian.PutUint16(head[vnetCsumOffset:], 16)
	binary.BigEndian.PutUint16(head[at:], fold(p.pseudo(ProtoTCP, n)))
}
