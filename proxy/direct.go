package proxy

import (
	"context"

	"github.com/rs/zerolog"

	"colod/proxy/afpacket"
	"colod/proxy/front"
)

// Devices are the sockets and clocks that a data path uses. Options without
// any use the kernel's.
type Devices interface {
	// OpenRX and OpenTX open sockets of a device; see package afpacket.
	OpenRX(device string, o afpacket.Options) (Receiver, error)
	OpenTX(device string) (Sender, error)
	// OpenSeam watches what the kernel sends out of the uplink; Settle waits
	// until a change of the path's mode holds for every frame.
	OpenSeam(uplink string) (Seam, error)
	Settle()
	// Monotonic is the time in which the comparison counts, Realtime the one of the
	// kernel's frame timestamps and of QEMU's events; both in ns, the first never 0.
	Monotonic() int64
	Realtime() int64
}

// Receiver is an *afpacket.RX.
type Receiver interface {
	Recv(bufs [][]byte, meta []afpacket.Meta) (int, error)
	Drops() (uint32, error)
	FD() int
	Close() error
}

// Sender is an *afpacket.TX.
type Sender interface {
	Send([]afpacket.Msg) (int, error)
	Refused() []int
	FD() int
	Close() error
}

// Seam is an *afpacket.Seam.
type Seam interface {
	Poll() error
	First() int64
	Last() int64
	Close() error
}

// kernel are the devices of the host.
type kernel struct {
	in func(func() error) error // see Options.In
}

func (k kernel) OpenRX(dev string, o afpacket.Options) (Receiver, error) {
	return open(k.in, func() (Receiver, error) { return afpacket.OpenRX(dev, o) })
}
func (k kernel) OpenTX(dev string) (Sender, error) {
	return open(k.in, func() (Sender, error) { return afpacket.OpenTX(dev) })
}
func (k kernel) OpenSeam(uplink string) (Seam, error) {
	return open(k.in, func() (Seam, error) { return afpacket.OpenSeam(uplink) })
}

func open[T any](in func(func() error) error, f func() (T, error)) (v T, err error) {
	if in == nil {
		return f()
	}
	err = in(func() (err error) { v, err = f(); return err })
	return v, err
}

func (kernel) Settle()          { afpacket.Settle() }
func (kernel) Monotonic() int64 { return monotonic() }
func (kernel) Realtime() int64  { return realtime() }

// Direct is a data path without a thread, for a simulation: it does something
// only when it is called. Frames must be shorter than 2048 bytes.
type Direct struct {
	*Proxy
	reply func(error)
}

// OpenDirect makes a data path that lives on dev.
func OpenDirect(opt Options, dev Devices) *Direct {
	p := &Proxy{opt: opt, log: zerolog.Nop(), few: zerolog.Nop(), dev: dev, front: front.New(),
		rxBufs: make([][]byte, 4), rxMeta: make([]afpacket.Meta, 4), rxMost: 4}
	mem := make([]byte, 4*smallBuf)
	for i := range p.rxBufs {
		p.rxBufs[i] = mem[i*smallBuf : (i+1)*smallBuf : (i+1)*smallBuf]
	}
	p.addrs.init()
	d := &Direct{Proxy: p}
	p.direct = d
	return d
}

// Do lets fn call one method of the data path; what the method would have
// returned is given to reply, perhaps later.
func (d *Direct) Do(reply func(error), fn func(context.Context, *Proxy) error) {
	d.reply = reply
	// What a call returns at once without a thread is nil; its answer goes to reply.
	_ = fn(context.Background(), d.Proxy)
}

// Turn does all the work that is there.
func (d *Direct) Turn() { d.turn(nil) }

// Next is the time (Monotonic) at which Turn has something to do without a frame or message; 0: none.
func (d *Direct) Next() int64 {
	if d.role == roleIdle || d.role == roleMuted || d.role == roleSolo && d.mode == Pass {
		return 0
	}
	return max(d.due(), 1)
}

// LinkBacklog says that Turn has more to read from the link.
func (d *Direct) LinkBacklog() bool { return d.link != nil && d.linkMore && !d.linkPaused }

// RoleName is the present role, as in Stats.
func (d *Direct) RoleName() string { return d.role.String() }

func (d *Direct) call(fn func(reply func(error))) error {
	reply := d.reply
	d.reply = nil
	fn(func(err error) {
		if reply != nil {
			reply(err)
		}
	})
	return nil
}

// NewDirectLink makes a link of two functions: send gets what is to reach the
// peer, in order, and must not keep it; closed is called when the data path gives the link up.
func NewDirectLink(peer string, send func([]byte), closed func()) *Link {
	return &Link{Peer: peer, t: &transport{fd: -1}, direct: &directLink{send: send, closed: closed}}
}

type directLink struct {
	send   func([]byte)
	closed func()
	err    error // the peer has gone
}

// Feed gives the link what the peer sent; it is copied.
func (l *Link) Feed(b []byte) { l.in = append(l.in, b...); l.bytesIn += uint64(len(b)) }

// Break ends the link from the peer's side, behind all that was fed.
func (l *Link) Break(err error) { l.direct.err = err }

func (l *Link) directFill() (more bool, err error) {
	if l.inOff > 0 {
		l.in = l.in[:copy(l.in, l.in[l.inOff:])]
		l.inOff = 0
	}
	return false, l.direct.err
}

func (l *Link) directFlush() error {
	if len(l.plain) > 0 {
		l.bytesOut += uint64(len(l.plain))
		l.direct.send(l.plain)
		l.plain = l.plain[:0]
	}
	return nil
}

// Rewritten is the number of connections that lived through a takeover.
func (d *Direct) Rewritten() int { return d.front.Len() }

// Armed says that the path is a primary's whose output is compared.
func (d *Direct) Armed() bool { return d.pri != nil && d.pri.armed }

// WireInput says that a message of this kind carries a client's frame, behind 8 bytes of time; WireWatermark that it tells
// of a release: the flow's number (4 bytes), its kind (1 byte) and how far.
func WireInput(kind byte) bool     { return kind == msgInput || kind == msgInputTold }
func WireWatermark(kind byte) bool { return kind == msgWatermark }
