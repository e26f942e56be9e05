package compare

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"colod/internal/frame"
)

// posMask bounds a stream position to the 48 bits that a nonce has room for.
const posMask = 1<<48 - 1

// digester makes keyed digests: the tag of AES-128-GCM over the bytes as additional data. The nonce binds a
// digest to its place: flow number (never used twice in a session), stream position or datagram index, length.
// Digests travel inside TLS only, and the key lives as long as a session.
type digester struct {
	aead  cipher.AEAD
	nonce [12]byte
	tag   [DigestLen]byte
	join  []byte
}

func newDigester(key [16]byte) *digester {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right length by its type
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &digester{aead: aead, join: make([]byte, 0, 1<<17)}
}

// sum is the digest of data; the result is valid until the next call.
func (d *digester) sum(flow uint32, pos uint64, data []byte) *[DigestLen]byte {
	binary.BigEndian.PutUint32(d.nonce[:], flow)
	binary.BigEndian.PutUint64(d.nonce[4:], pos<<16|uint64(uint16(len(data))))
	d.aead.Seal(d.tag[:0], d.nonce[:], nil, data)
	return &d.tag
}

// compared is the part of a datagram's frame that must be equal on both sides, and meta the header fields
// before it that must be: TTL, TOS, fragment word, ICMP type and code, segment size. Left out are
// checksums, the IP identification and the flow label, which a guest draws at random.
func compared(buf []byte, p *frame.Parsed) (from, to int, meta uint64) {
	to = p.End
	switch p.Kind {
	case frame.KindOther:
		return min(frame.VnetLen, len(buf)), len(buf), 0
	case frame.KindARP:
		return p.L3, to, 0
	case frame.KindUDP:
		from = p.L4 + 8
	case frame.KindICMP, frame.KindND, frame.KindGroup:
		from = p.L4 + 4
	default:
		from = p.L4
	}
	from = min(from, to)
	meta = uint64(p.TTL)<<56 | uint64(p.TOS)<<48 | uint64(p.Frag)<<32 | uint64(p.ICMPType)<<24 | uint64(p.ICMPCode)<<16 | uint64(p.GSOSize)
	fixed := 20
	if p.IPv6 {
		fixed = 40
		if p.Kind == frame.KindFragment {
			fixed = p.L4 - p.L3 // the identification is in the last extension header
		}
	}
	for _, b := range buf[min(p.L3+fixed, p.L4):p.L4] { // options and extension headers, FNV-1a
		meta = (meta ^ uint64(b)) * 0x100000001b3
	}
	return from, to, meta
}
