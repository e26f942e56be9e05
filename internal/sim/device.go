package sim

import (
	"colod/compare"
	"colod/proxy"
	"colod/proxy/afpacket"
)

// capture is a frame in a packet socket.
type capture struct {
	buf      []byte
	ktime    int64
	outgoing bool
}

// sock is a receiving packet socket.
type sock struct {
	q         []capture
	inputOnly bool // sees only what comes in from the device
}

func (s *sock) Recv(bufs [][]byte, meta []afpacket.Meta) (int, error) {
	k := min(len(bufs), len(s.q))
	for i := range k {
		meta[i] = afpacket.Meta{Len: copy(bufs[i][:cap(bufs[i])], s.q[i].buf), KTime: s.q[i].ktime, Outgoing: s.q[i].outgoing}
	}
	s.q = s.q[k:]
	return k, nil
}

func (s *sock) Drops() (uint32, error) { return 0, nil }
func (s *sock) FD() int                { return -1 }
func (s *sock) Close() error           { s.q = nil; return nil }

// devices are what the data path of one run of colod uses.
type devices struct {
	n   *node
	tap *sock
	up  *sock
}

func (d *devices) OpenRX(dev string, o afpacket.Options) (proxy.Receiver, error) {
	s := &sock{inputOnly: o.IgnoreOutgoing}
	if dev == tapName {
		d.tap = s
	} else {
		d.up = s
	}
	return s, nil
}

func (d *devices) OpenTX(dev string) (proxy.Sender, error) { return &outlet{d.n, dev == tapName}, nil }
func (d *devices) OpenSeam(string) (proxy.Seam, error)     { return seam{}, nil }
func (d *devices) Settle()                                 {}
func (d *devices) Monotonic() int64                        { return d.n.mono() + 3600*sec }
func (d *devices) Realtime() int64                         { return d.n.wall() }

// SetMode is the kernel's path.
func (d *devices) SetMode(m proxy.Mode) error {
	n := d.n
	if n.mode != m {
		if n.w.tracing {
			n.w.logf("%s: path %v", n.name, m)
		}
		n.mode = m
	}
	return nil
}

const (
	tapName    = "tap"
	uplinkName = "uplink"
)

// outlet sends frames out of a device.
type outlet struct {
	n   *node
	tap bool
}

func (o *outlet) Send(msgs []afpacket.Msg) (int, error) {
	for _, m := range msgs {
		b := o.n.w.mem.get(len(m.A) + len(m.B))
		copy(b[copy(b, m.A):], m.B)
		if o.tap {
			o.n.toGuest(b)
		} else {
			o.n.w.released(o.n, b, false)
		}
	}
	return len(msgs), nil
}

func (*outlet) Refused() []int { return nil }
func (*outlet) FD() int        { return -1 }
func (*outlet) Close() error   { return nil }

// seam sees nothing: changes of the path's mode take no time here.
type seam struct{}

func (seam) Poll() error  { return nil }
func (seam) First() int64 { return 0 }
func (seam) Last() int64  { return 0 }
func (seam) Close() error { return nil }

// fromGuest is a frame that the guest here sends: the packet socket sees it, and then the kernel passes it on or drops it.
func (n *node) fromGuest(b []byte) {
	w := n.w
	n.wallLast = max(n.wall(), 1)
	if w.tracing && w.verbose {
		w.logf("%s guest: %s", n.name, w.show(b))
	}
	if w.opt.Mutation == OutputUnchecked && n.up && n.armed() {
		w.released(n, b, false)
		return
	}
	if n.dev != nil && n.dev.tap != nil && n.up {
		n.dev.tap.q = append(n.dev.tap.q, capture{b, n.wallLast, false})
		n.turnSoon()
	}
	if w.opt.Mutation == AckBeforeLog && n.up && n.armed() {
		w.ackAtOnce(n, b)
	}
	if n.mode == proxy.Pass {
		w.released(n, w.mem.copy(b), true)
	}
}

// fromLAN is a client's frame that reaches this node's port.
func (n *node) fromLAN(b []byte) {
	if !n.powered {
		return
	}
	if n.dev != nil && n.up && n.dev.up != nil {
		n.dev.up.q = append(n.dev.up.q, capture{b, n.wall(), false})
		n.turnSoon()
	}
	if n.mode == proxy.Pass || n.mode == proxy.Steal {
		n.toGuest(w2(n, b))
	}
}

// w2 is a copy of b: the guest's device and the socket may each change theirs.
func w2(n *node, b []byte) []byte { return n.w.mem.copy(b) }

// toGuest puts a frame into the tap.
func (n *node) toGuest(b []byte) {
	w := n.w
	if n.dev != nil && n.up && n.dev.tap != nil && !n.dev.tap.inputOnly {
		n.dev.tap.q = append(n.dev.tap.q, capture{w.mem.copy(b), n.wall(), true})
		n.turnSoon()
	}
	v := n.vm
	if v == nil || !v.alive {
		return
	}
	if w.chance(400) {
		return // the device's queue was full
	}
	if w.opt.Mutation == InputDropped && n.up && n.px.RoleName() == "secondary" && w.rnd(10) == 0 {
		return
	}
	n.tapq = append(n.tapq, b)
	v.expectRead()
}

// turnSoon lets the data path look at what there is.
func (n *node) turnSoon() {
	if n.turning || !n.up {
		return
	}
	n.turning = true
	n.colod(2*us+n.w.rng.Int64N(30*us), n.turn)
}

func (n *node) turn() {
	n.turning = false
	for range 1000 {
		n.px.Turn()
		if n.px == nil {
			return
		}
		if !(n.dev.tap != nil && len(n.dev.tap.q) > 0) && !(n.dev.up != nil && len(n.dev.up.q) > 0) && !n.px.LinkBacklog() {
			break
		}
	}
	n.armPath()
}

// armPath sets the event for what the data path does by itself.
func (n *node) armPath() {
	next := n.px.Next()
	if next == 0 {
		n.pathAt = 0
		return
	}
	if n.pathAt != 0 && n.pathAt <= next {
		return
	}
	n.pathAt = next
	d := n.global(max(next-n.dev.Monotonic(), 0)) + 1
	n.colod(d, func() {
		if n.pathAt == next {
			n.pathAt = 0
			n.turn()
		}
	})
}

// pathEvent takes an event of the data path.
func (n *node) pathEvent(ev proxy.Event) {
	switch ev := ev.(type) {
	case proxy.Diverged:
		n.w.stats.divergences++
		if ev.Reason == compare.ReasonProtocol {
			n.w.fail("protocol", "%s's data path does not understand the other one: %s", n.name, ev.Detail)
		}
		n.post(diverged(ev.Reason.String()))
	case proxy.LinkLost:
		if s := n.linkSess; s != "" {
			n.post(linkLost(s, ev.Err.Error()))
		}
	case proxy.InputLost, proxy.OutputLost:
		n.post(diverged("lost"))
	}
}
