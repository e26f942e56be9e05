package coordinator

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/peer"
	"colod/coordinator/placement"
	"colod/coordinator/registry"
)

// network is the node as a pair's driver sees it: the way to the other nodes.
type network interface {
	// send queues a message; without a connection it is dropped.
	send(to, pair, kind string, body any)
	// dial makes a connection to a node over the path that is in the best
	// health; TLS is up to the caller.
	dial(ctx context.Context, to string, class peer.Class, plain bool) (net.Conn, error)
	// candidates are the facts of the nodes that are ready, and of spare nodes
	// that are connected unless only is set.
	candidates(ready []string, only bool) []placement.Facts
	// own are the facts of this node.
	own() placement.Facts
	// forgetPair removes what is kept of a deleted pair outside of this node.
	forgetPair(name string)
}

// other is another node as this one knows it. Its fields are guarded by
// Node.mu, except for the link, which does not change.
type other struct {
	node  config.PairNode
	link  *peer.Link
	up    bool
	entry *registry.Node // what it said of itself last
	views []registry.View
}

// factsKind is the kind of the message in which a node says what it is.
const factsKind = "facts"

// facts is that message.
type facts struct {
	Node  registry.Node   `json:"node"`
	Views []registry.View `json:"views"`
}

// factsEvery is how often it is sent.
const factsEvery = 10 * time.Second

// self is this node's own entry in the pairs' lists.
func (n *Node) self() config.PairNode {
	for i := range n.cfg.Pairs {
		if own := n.cfg.Pairs[i].NodeOf(n.cfg.Node); own.Name != "" {
			return own
		}
	}
	return config.PairNode{Name: n.cfg.Node, Address: n.cfg.Listen}
}

// all are the drivers, in the order of the configuration; those of pairs that
// do not list this node come last.
func (n *Node) all() []*driver {
	n.mu.RLock()
	defer n.mu.RUnlock()
	ds := make([]*driver, 0, len(n.order))
	for _, name := range n.order {
		ds = append(ds, n.drivers[name])
	}
	return ds
}

// driverOf is the pair's driver, or nil.
func (n *Node) driverOf(name string) *driver {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.drivers[name]
}

// pairNames are the names of the pairs here.
func (n *Node) pairNames() []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Clone(n.order)
}

// otherNode is what is known of a node, or nil.
func (n *Node) otherNode(name string) *other {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.others[name]
}

// peers are the names of the nodes that may connect.
func (n *Node) peers() []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Sorted(maps.Keys(n.others))
}

// know makes the link to a node, if there is none yet. It reports whether the
// node is new.
func (n *Node) know(p config.PairNode) bool {
	if p.Name == n.cfg.Node || p.Address == "" {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.others[p.Name]; o != nil || n.closed {
		return false
	}
	o := &other{node: p}
	o.link = n.newLink(p)
	n.others[p.Name] = o
	if n.started {
		o.link.Start()
	}
	return true
}

func (n *Node) newLink(p config.PairNode) *peer.Link {
	return peer.NewLink(peer.LinkOptions{
		Self: n.cfg.Node, Peer: p.Name, Addrs: func() []string { return n.healthy(p) }, Boot: n.boot, Version: n.opt.Version, Identity: n.id,
		Interval: n.cfg.Heartbeat.Interval.D(), Timeout: n.cfg.Heartbeat.Timeout.D(), Log: n.log,
		Steady:  func() bool { return n.steady(p.Name) },
		Secured: func(cs *tls.ConnectionState) error { return n.secured(p.Name, cs) },
		Greeted: func(cs *tls.ConnectionState) { n.greeted(p.Name, cs) },
		Up:      func() { n.peerUp(p.Name) },
		Down:    func(reason string) { n.peerDown(p.Name, reason) },
		Message: func(pair, kind string, body []byte) { n.message(p.Name, pair, kind, body) },
	})
}

func (n *Node) peerUp(name string) {
	n.log.Info().Str("peer", name).Msg("connected with the other node")
	n.setUp(name, true)
	n.sendFacts(name)
	for _, d := range n.all() {
		if d.shares(name) {
			d.post(pair.PeerUp{Peer: name})
			d.data.Announce() // it may have drawn the guest's address to itself with its last word
		}
	}
}

func (n *Node) peerDown(name, reason string) {
	n.log.Warn().Str("peer", name).Msg("the other node is considered lost: " + reason)
	n.setUp(name, false)
	for _, d := range n.all() {
		if d.shares(name) {
			d.post(pair.PeerDown{Peer: name, Reason: reason})
		}
	}
}

func (n *Node) setUp(name string, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.others[name]; o != nil {
		o.up = up
	}
}

// connected reports whether the node answers.
func (n *Node) connected(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	o := n.others[name]
	return o != nil && o.up
}

// message takes a message of another node.
func (n *Node) message(from, name, kind string, body []byte) {
	if name == peer.NodeItself {
		n.nodeMessage(from, kind, body)
		return
	}
	d := n.driverOf(name)
	if d == nil {
		n.unknownPair(from, name, kind, body)
		return
	}
	n.meet(d, from)
	d.onMessage(from, kind, body)
}

// meet lets the driver know a node that has to do with its pair without being
// in its list.
func (n *Node) meet(d *driver, name string) {
	if d.learn(name) && n.connected(name) {
		d.post(pair.PeerUp{Peer: name})
	}
}

// nodeMessage takes a message that is about the node itself. Kinds that are
// not known are of a newer colod.
func (n *Node) nodeMessage(from, kind string, body []byte) {
	if kind != factsKind {
		return
	}
	var f facts
	if err := json.Unmarshal(body, &f); err != nil || f.Node.Name != from {
		n.log.Warn().Str("peer", from).Err(err).Msg("what the other node says of itself cannot be read")
		return
	}
	f.Node.Updated = time.Now() // by our clock: it says how old it is
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.others[from]; o != nil {
		o.entry, o.views = &f.Node, f.Views
	}
}

func (n *Node) sendFacts(to string) {
	n.send(to, peer.NodeItself, factsKind, facts{Node: n.entry(), Views: n.views()})
}

// tellFacts says to all nodes what this one is, again and again.
func (n *Node) tellFacts() {
	n.learnFacts()
	t := time.NewTicker(factsEvery)
	defer t.Stop()
	for {
		for _, name := range n.peers() {
			if n.connected(name) {
				n.sendFacts(name)
			}
		}
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (n *Node) send(to, name, kind string, body any) {
	if o := n.otherNode(to); o != nil {
		o.link.Send(name, kind, body)
	}
}

func (n *Node) dial(ctx context.Context, to string, class peer.Class, plain bool) (net.Conn, error) {
	o := n.otherNode(to)
	if o == nil {
		return nil, fmt.Errorf("connect for %s: node %q is not known here", class, to)
	}
	conn, err := peer.DialAny(ctx, n.healthy(o.node), class, plain)
	if err != nil {
		return nil, fmt.Errorf("reach node %s: %w", to, err)
	}
	return conn, nil
}

func (n *Node) candidates(ready []string, only bool) []placement.Facts {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var all []placement.Facts
	for _, name := range ready {
		if o := n.others[name]; o != nil && o.entry != nil {
			f := factsOf(o.entry)
			f.Maintenance = "" // that of the pair is known to its machine, and newer
			all = append(all, f)
		} else {
			all = append(all, unknownFacts(name))
		}
	}
	if only {
		return all
	}
	for _, name := range slices.Sorted(maps.Keys(n.others)) {
		if o := n.others[name]; o.up && o.entry != nil && o.entry.Spare && !slices.Contains(ready, name) {
			all = append(all, factsOf(o.entry))
		}
	}
	return all
}

func (n *Node) own() placement.Facts {
	e := n.entry()
	f := factsOf(&e)
	f.Maintenance = "" // as in candidates
	return f
}
