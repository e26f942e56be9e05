package proxy

import (
	"colod/compare"
	"colod/proxy/afpacket"
)

// Buffer classes. A super-frame of a guest is up to 64 KiB and its headers; most others are an MTU or less.
const (
	bigBuf   = afpacket.BufSize
	smallBuf = 2048
	// Limits of what one pair may hold at a time: 130 MiB of
	// super-frames and 64 MiB of small frames. Beyond them the proxy leaves
	// frames in the packet socket, whose drops are counted as lost output.
	maxBig   = 2048
	maxSmall = 32768
)

// pool lends frames with their buffers. Last in, first out: the hottest
// buffer is used next. It belongs to the proxy's thread.
type pool struct {
	big, small         []*compare.Frame
	bigMade, smallMade int
}

// get returns a frame whose buffer has at least n bytes, or nil when the pool is exhausted.
func (p *pool) get(n int) *compare.Frame {
	list, made, limit, size := &p.small, &p.smallMade, maxSmall, smallBuf
	if n > smallBuf {
		list, made, limit, size = &p.big, &p.bigMade, maxBig, bigBuf
	}
	if k := len(*list); k > 0 {
		f := (*list)[k-1]
		*list = (*list)[:k-1]
		f.Buf = f.Buf[:n]
		return f
	}
	if *made >= limit {
		return nil
	}
	*made++
	return &compare.Frame{Buf: make([]byte, n, size)}
}

// put takes a frame back.
func (p *pool) put(f *compare.Frame) {
	if f.Index < 0 {
		return // made by the comparison, of no pool
	}
	if cap(f.Buf) >= bigBuf {
		p.big = append(p.big, f)
	} else {
		p.small = append(p.small, f)
	}
}

// lent is how many frames are out.
func (p *pool) lent() int { return p.bigMade + p.smallMade - len(p.big) - len(p.small) }
