package sim

import (
	"colod/coordinator/pair"
)

// ctl is the connection of two colods that carries their messages: TCP, so it delivers in order or breaks.
type ctl struct {
	dir [2]stream // from the node with the lower number, and to it
	ok  bool
}

// peerView is what a node holds of another one.
type peerView struct {
	up      bool // PeerUp was given, and PeerDown not
	conn    *ctl // the connection over which
	silent  int64
	waiting bool // a change is being looked at
}

// hears says that what node o sends reaches n now.
func (n *node) hears(o *node) bool {
	return n.powered && o.powered && !n.paused && !o.paused && !n.w.cut[o.i][n.i]
}

// hearsWire is the same for a connection that stands already: it waits for a node that stands still.
func (n *node) hearsWire(o *node) bool { return n.powered && !n.w.cut[o.i][n.i] && !n.w.cut[n.i][o.i] }

// beats says that n gets heartbeats of o: colod answers there.
func (n *node) beats(o *node) bool {
	w := n.w
	if !n.up || !o.up || n.asleep || o.asleep || !n.hears(o) {
		return false
	}
	return !w.plan.pingPong || o.hears(n)
}

// reachable says that a connection can be made.
func (n *node) reachable(o *node) bool {
	return n.up && o.up && !n.asleep && !o.asleep && n.hears(o) && o.hears(n)
}

// links looks at all pairs of nodes after something has changed.
func (w *world) links() {
	for _, n := range w.nodes {
		for _, o := range w.nodes {
			if n != o {
				n.look(o)
			}
		}
	}
}

// look notices what has changed between n and o, after the time that it takes to notice.
func (n *node) look(o *node) {
	w := n.w
	v := &n.peers[o.i]
	if !n.up || v.waiting {
		return
	}
	heard := n.beats(o)
	switch {
	case v.up && heard && v.conn.ok:
		v.silent = 0
	case v.up && (!heard || !v.conn.ok):
		v.waiting = true
		limit := w.between(230*ms, 330*ms)
		if heard {
			limit = 2 * sec // only the connection is gone: it is made anew
		}
		if v.silent == 0 {
			v.silent = w.now
		}
		try := min(limit, w.between(20*ms, 120*ms))
		n.colod(try, func() {
			v.waiting = false
			if !v.up {
				return
			}
			if n.beats(o) {
				if v.conn.ok {
					v.silent = 0
					return
				}
				if n.reachable(o) {
					n.connect(o)
					return
				}
			}
			if w.now-v.silent >= limit-try/2 || w.now-v.silent >= 2*sec {
				n.lose(o)
			}
			n.look(o)
		})
	case !v.up && heard && n.reachable(o):
		v.waiting = true
		n.colod(w.between(5*ms, 120*ms), func() {
			v.waiting = false
			if v.up || !n.reachable(o) {
				n.look(o)
				return
			}
			n.connect(o)
		})
	}
}

// connect makes a fresh connection and tells both machines.
func (n *node) connect(o *node) {
	w := n.w
	w.ctlBreak(n.i, o.i)
	c := &ctl{ok: true}
	i, j := min(n.i, o.i), max(n.i, o.i)
	for d := range c.dir {
		c.dir[d] = stream{w: w, passes: func() bool { return !c.ok || n.hearsWire(o) && o.hearsWire(n) }}
	}
	w.conns[i][j] = c
	tell := func(a, b *node) {
		v := &a.peers[b.i]
		v.up, v.conn, v.silent = true, c, 0
		a.step(pair.PeerUp{Peer: b.name})
	}
	tell(n, o)
	run := o.run
	o.colodRun(run, w.between(us, ms), func() {
		if c.ok {
			tell(o, n)
		}
	})
}

// lose gives the other node up.
func (n *node) lose(o *node) {
	v := &n.peers[o.i]
	v.up, v.silent = false, 0
	n.w.ctlBreak(n.i, o.i)
	if e := n.pipe; e != nil && e.other.n == o && n.w.plan.cutsPipe {
		e.p.cut()
	}
	n.step(pair.PeerDown{Peer: o.name, Reason: "silent"})
}

// ctlBreak ends the connection between two nodes; who can notices.
func (w *world) ctlBreak(i, j int) {
	i, j = min(i, j), max(i, j)
	if c := w.conns[i][j]; c != nil && c.ok {
		c.ok = false
		w.conns[i][j] = nil
		for _, k := range []int{i, j} {
			n, o := w.nodes[k], w.nodes[i+j-k]
			if n.up {
				n.look(o)
			}
		}
	}
}

// send gives a message to the other node, if they are connected.
func (n *node) send(to string, msg pair.Message) {
	w := n.w
	o := w.byName(to)
	if o == nil || o == n {
		w.fail("model", "%s sends to %q", n.name, to)
		return
	}
	c := w.conns[min(n.i, o.i)][max(n.i, o.i)]
	if c == nil || !c.ok {
		return
	}
	d := 0
	if n.i > o.i {
		d = 1
	}
	run := o.run
	c.dir[d].put(w.between(50*us, ms), func() {
		o.colodRun(run, 0, func() {
			if c.ok {
				o.message(n, msg)
			}
		})
	})
}
