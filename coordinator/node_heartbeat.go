package coordinator

import (
	"crypto/tls"
	"net"
	"slices"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/heartbeat"
)

// minBeat is the shortest interval that package heartbeat serves.
const minBeat = 5 * time.Millisecond

// openHeartbeats starts the heartbeats over all paths. Without them the nodes
// still see each other by their ctl connections, which is said in the log.
func (n *Node) openHeartbeats() {
	interval := max(n.cfg.Heartbeat.Interval.D(), minBeat)
	opt := heartbeat.Options{
		Listen: n.listenAddrs(), Command: n.opt.Heartbeats, Interval: interval, Timeout: max(n.cfg.Heartbeat.Timeout.D(), 3*interval), Events: n.onHeartbeat,
	}
	hb, err := heartbeat.New(opt)
	if err != nil && len(opt.Command) > 0 {
		n.log.Warn().Err(err).Msg("no process for the heartbeats; a thread does what it can")
		opt.Command = nil
		hb, err = heartbeat.New(opt)
	}
	if err != nil {
		n.log.Warn().Err(err).Msg("no heartbeats over UDP: a lost node is noticed by its ctl connection alone")
		return
	}
	n.log.Debug().Strs("local", hb.Local()).Str("scheduling", hb.Scheduling()).Msg("heartbeats")
	n.hb = hb
}

// listenAddrs are the addresses on which other nodes reach this one. A
// wildcard serves all.
func (n *Node) listenAddrs() []string {
	addrs := []string{n.cfg.Listen}
	host, port, err := net.SplitHostPort(n.cfg.Listen)
	wild := err == nil && (host == "" || net.ParseIP(host).IsUnspecified())
	for _, p := range n.self().Paths {
		if _, pp, err := net.SplitHostPort(p); err == nil && !(wild && pp == port) && !slices.Contains(addrs, p) {
			addrs = append(addrs, p)
		}
	}
	return addrs
}

// secured takes keys for the heartbeats from a new ctl connection.
func (n *Node) secured(name string, cs *tls.ConnectionState) error {
	if n.hb == nil {
		return nil
	}
	keys, err := heartbeat.DeriveKeys(cs.ExportKeyingMaterial, n.cfg.Node, name)
	if err != nil {
		return err
	}
	if o := n.otherNode(name); o != nil {
		if err := n.hb.AddPeer(name, o.node.Addresses()); err != nil {
			n.log.Warn().Err(err).Str("peer", name).Msg("no heartbeats with this node")
			return nil
		}
	}
	if err := n.hb.Expect(name, keys); err != nil {
		n.log.Warn().Err(err).Str("peer", name).Msg("no new keys for the heartbeats")
	}
	return nil
}

// greeted uses the keys, as the other side expects them by now.
func (n *Node) greeted(name string, cs *tls.ConnectionState) {
	if n.hb == nil {
		return
	}
	keys, err := heartbeat.DeriveKeys(cs.ExportKeyingMaterial, n.cfg.Node, name)
	if err == nil {
		err = n.hb.Use(name, keys)
	}
	if err != nil {
		n.log.Warn().Err(err).Str("peer", name).Msg("heartbeats go on with the old keys")
	}
}

// steady reports whether heartbeats of the node come.
func (n *Node) steady(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.beating[name]
}

// onHeartbeat takes what the heartbeats say.
func (n *Node) onHeartbeat(e heartbeat.Event) {
	switch e := e.(type) {
	case heartbeat.PeerUp:
		n.setBeating(e.Peer, true)
	case heartbeat.PeerDown:
		n.setBeating(e.Peer, false)
		if o := n.otherNode(e.Peer); o != nil {
			o.link.Lost(e.Reason)
		}
	case heartbeat.Restarted:
		n.sup.counts.restarted()
		n.log.Error().Msg("the process of the heartbeats has ended and was started again; the ctl connections are made anew for its keys")
		for _, name := range n.peers() {
			n.setBeating(name, false)
			if o := n.otherNode(name); o != nil {
				o.link.Cut("new keys are needed for the heartbeats")
			}
		}
	case heartbeat.PathUp:
		n.log.Info().Str("peer", e.Peer).Int("path", e.Path).Msg("heartbeats come over this path")
	case heartbeat.PathDown:
		ev := n.log.Warn().Str("peer", e.Peer).Int("path", e.Path)
		if e.Alone {
			ev.Msg("no heartbeats over the last path: " + e.Reason)
			return
		}
		ev.Msg("no heartbeats over this path, others are well: " + e.Reason)
		n.leavePath(e.Peer, e.Path)
	}
}

func (n *Node) setBeating(name string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.beating[name] = on
}

// leavePath ends the connections over a path that is dead while another one
// lives: they are made anew over that.
func (n *Node) leavePath(name string, path int) {
	o := n.otherNode(name)
	if o == nil {
		return
	}
	over := func(local, remote net.Addr) bool { return n.pathOf(o.node, local, remote, path) }
	if local, remote := o.link.Addrs(); local != nil && over(local, remote) {
		o.link.Cut("its path is dead")
	}
	for _, d := range n.all() {
		d.leavePath(name, over)
	}
}

// pathOf reports whether a connection with a node goes over a path. The side
// that dialled knows it by the far end, the other one by the near end.
func (n *Node) pathOf(p config.PairNode, local, remote net.Addr, path int) bool {
	end := func(addrs []string, a net.Addr) bool {
		want, err := net.ResolveTCPAddr("tcp", addrs[min(path, len(addrs)-1)])
		have, ok := a.(*net.TCPAddr)
		return err == nil && ok && want.Port == have.Port && want.IP.Equal(have.IP)
	}
	return end(p.Addresses(), remote) || end(n.self().Addresses(), local)
}

// healthy are a node's addresses, those in front over whose path heartbeats
// come.
func (n *Node) healthy(p config.PairNode) []string {
	addrs := p.Addresses()
	if n.hb == nil || len(addrs) < 2 {
		return addrs
	}
	dead := map[string]bool{}
	for _, st := range n.hb.Paths(p.Name) {
		if addr := addrs[min(st.Path, len(addrs)-1)]; !st.Up {
			dead[addr] = true
		}
	}
	slices.SortStableFunc(addrs, func(a, b string) int {
		switch {
		case dead[a] == dead[b]:
			return 0
		case dead[b]:
			return -1
		}
		return 1
	})
	return addrs
}

// paths are the paths to a node as the heartbeats see them; nil without.
func (n *Node) paths(name string) []PeerPath {
	if n.hb == nil {
		return nil
	}
	var all []PeerPath
	for _, p := range n.hb.Paths(name) {
		st := PeerPath{
			Path: p.Path, Local: p.Local, Addr: p.Addr, Up: p.Up, RTTP50US: us(p.RTTP50), RTTP99US: us(p.RTTP99),
			Sent: p.Sent, Lost: p.Lost, HeardMS: -1, Error: p.Err,
		}
		if p.LastHeard >= 0 {
			st.HeardMS = ms(p.LastHeard)
		}
		all = append(all, st)
	}
	return all
}
