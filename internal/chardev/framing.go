package chardev

import (
	"encoding/binary"
	"fmt"

	"colod/internal/frame"
	"colod/proxy/afpacket"
)

// maxFrame bounds a frame on the wire: the largest segment and its headers. QEMU drops the connection beyond about
// 68 KiB (NET_BUFSIZE).
const maxFrame = afpacket.BufSize

// reader cuts a byte stream into frames. Its buffer holds what was read and not yet taken.
type reader struct {
	buf      []byte
	from, to int
	vnet     bool
}

// leastBuf is the least size of a reader's buffer.
const leastBuf = 2 * maxFrame

func newReader(buf []byte, vnet bool) *reader { return &reader{buf: buf, vnet: vnet} }

// room is where to read to; it is never empty once next has returned no frame.
func (r *reader) room() []byte {
	if r.from == r.to {
		r.from, r.to = 0, 0
	} else if len(r.buf)-r.to < maxFrame {
		r.to = copy(r.buf, r.buf[r.from:r.to])
		r.from = 0
	}
	return r.buf[r.to:]
}

func (r *reader) filled(n int) { r.to += n }

// next is the next whole frame, without its framing, valid until room is called; vnet is the length of the
// virtio-net header that it begins with. A nil frame means that more has to be read.
func (r *reader) next() (b []byte, vnet int, err error) {
	have := r.buf[r.from:r.to]
	head := 4
	if r.vnet {
		head = 8
	}
	if len(have) < head {
		return nil, 0, nil
	}
	n := int(binary.BigEndian.Uint32(have))
	if r.vnet {
		vnet = int(binary.BigEndian.Uint32(have[4:]))
	}
	if n < 1 || n > maxFrame || vnet > n || vnet != 0 && (vnet < frame.VnetLen || vnet > 12) {
		return nil, 0, fmt.Errorf("frame of %d bytes with a virtio-net header of %d: 1 to %d and 0 or 10 to 12 are allowed; do both ends agree on vnet_hdr_support?",
			n, vnet, maxFrame)
	}
	if len(have) < head+n {
		return nil, 0, nil
	}
	r.from += head + n
	return have[head : head+n], vnet, nil
}
