package disk

import (
	"encoding/binary"
	"fmt"
	"syscall"
)

// replies follows what an NBD server sends (NBD protocol, docs/proto.md of the NetworkBlockDevice project, and
// QEMU's nbd/server.c) far enough to see which requests it refuses. The secondary's node reads it: an image that
// lacks a write must not be promoted, and the primary, which learns it from the same answer, may be gone a moment
// later. It never delays or changes a byte. What it does not understand ends its watching, not the stream.
type replies struct {
	stage replyStage
	buf   []byte // of the header being collected
	skip  uint64 // bytes of payload that do not count
	code  []byte // collected error of a structured reply
}

type replyStage uint8

const (
	replyHello   replyStage = iota // magic, magic, flags
	replyOption                    // answers to options
	replyData                      // transmission
	replyUnknown                   // not understood: nothing is watched any more
)

const (
	nbdMagic       = 0x4e42444d41474943
	nbdOptMagic    = 0x49484156454F5054
	nbdOptReply    = 0x0003e889045565a9
	nbdOptGo       = 7
	nbdRepAck      = 1
	nbdSimple      = 0x67446698
	nbdStructured  = 0x668e33ef
	nbdExtended    = 0x6e8a278c
	nbdErrorBit    = 1 << 15 // in the type of a chunk
	nbdMaxOption   = 1 << 16
	nbdHelloLen    = 18
	nbdOptionLen   = 20
	nbdSimpleLen   = 16
	nbdChunkLen    = 20
	nbdExtendedLen = 32
)

// saw takes bytes in any pieces and returns the first refusal in them, nil if there is none.
func (r *replies) saw(b []byte) (err error) {
	for len(b) > 0 && r.stage != replyUnknown {
		if r.skip > 0 {
			n := min(r.skip, uint64(len(b)))
			if r.code != nil && len(r.code) < 4 {
				r.code = append(r.code, b[:min(n, uint64(4-len(r.code)))]...)
				if len(r.code) == 4 && err == nil {
					err = refusal(binary.BigEndian.Uint32(r.code))
				}
			}
			r.skip -= n
			b = b[n:]
			if r.skip == 0 {
				r.code = nil
			}
			continue
		}
		n := min(r.want()-len(r.buf), len(b))
		r.buf = append(r.buf, b[:n]...)
		b = b[n:]
		if len(r.buf) < r.want() {
			continue
		}
		if e := r.header(); e != nil && err == nil {
			err = e
		}
	}
	return err
}

// want is how many bytes of header make the next step possible.
func (r *replies) want() int {
	switch {
	case r.stage == replyHello:
		return nbdHelloLen
	case r.stage == replyOption:
		return nbdOptionLen
	case len(r.buf) < 4:
		return 4
	}
	switch binary.BigEndian.Uint32(r.buf) {
	case nbdSimple:
		return nbdSimpleLen
	case nbdStructured:
		return nbdChunkLen
	case nbdExtended:
		return nbdExtendedLen
	}
	return 4
}

// header takes the collected header.
func (r *replies) header() error {
	h := r.buf
	switch r.stage {
	case replyHello:
		if binary.BigEndian.Uint64(h) != nbdMagic || binary.BigEndian.Uint64(h[8:]) != nbdOptMagic {
			r.stage = replyUnknown
			return nil
		}
		r.stage = replyOption
	case replyOption:
		size := binary.BigEndian.Uint32(h[16:])
		if binary.BigEndian.Uint64(h) != nbdOptReply || size > nbdMaxOption {
			r.stage = replyUnknown
			return nil
		}
		r.skip = uint64(size)
		if binary.BigEndian.Uint32(h[8:]) == nbdOptGo && binary.BigEndian.Uint32(h[12:]) == nbdRepAck {
			r.stage = replyData
		}
	default:
		if len(h) == 4 { // the magic alone: more is wanted if it is known
			if r.want() == 4 {
				r.stage = replyUnknown
			}
			if r.stage != replyUnknown {
				return nil
			}
			break
		}
		switch binary.BigEndian.Uint32(h) {
		case nbdSimple:
			code := binary.BigEndian.Uint32(h[4:])
			r.buf = r.buf[:0]
			return refusal(code) // one of a read has a payload only where chunks are not agreed on; QEMU agrees
		case nbdStructured:
			r.skip = uint64(binary.BigEndian.Uint32(h[16:]))
			r.chunk(binary.BigEndian.Uint16(h[6:]))
		case nbdExtended:
			r.skip = binary.BigEndian.Uint64(h[24:])
			r.chunk(binary.BigEndian.Uint16(h[6:]))
		}
	}
	r.buf = r.buf[:0]
	return nil
}

func (r *replies) chunk(kind uint16) {
	if kind&nbdErrorBit != 0 && r.skip >= 4 {
		r.code = make([]byte, 0, 4)
	}
}

// refusal is the error of a reply; its numbers are those of Linux. That something cannot be done in a fast way is
// no failure: it is asked for again in another.
func refusal(code uint32) error {
	if code == 0 || syscall.Errno(code) == syscall.ENOTSUP {
		return nil
	}
	return fmt.Errorf("the image refused a request: %w", syscall.Errno(code))
}
