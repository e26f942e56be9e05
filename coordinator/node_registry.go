package coordinator

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"colod/coordinator/arbiter"
	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/registry"
)

// registryEvery is how often a node writes what it knows of itself and reads
// which other nodes there are.
const registryEvery = 10 * time.Second

// registryStrange is how long after a connection of an unknown node was refused
// the registry is read: whoever connects again and again costs little.
const registryStrange = time.Second

// registrySoon is how long after a change of a pair's state the registry is
// written: several changes in a row are one.
const registrySoon = 300 * time.Millisecond

// registry is the cluster's notice board, nil with an arbiter that has none.
func (n *Node) registry() registry.Registry {
	r, _ := n.arb.(registry.Registry)
	return r
}

// views are what this node sees of its pairs.
func (n *Node) views() []registry.View {
	views := []registry.View{}
	for _, d := range n.all() {
		st, ok := d.status()
		if !ok {
			continue
		}
		views = append(views, registry.View{
			Pair: st.Pair, Node: st.Node, State: st.State, Role: st.Role, Generation: st.Generation,
			Protected: st.State == pair.Protected.String() || st.State == pair.Checkpointing.String(),
			Reason:    st.Reason, Since: st.Since, Updated: time.Now(),
		})
	}
	return views
}

// keepRegistry writes to the registry and learns other nodes from it, until
// the node ends. Nobody's right to speak depends on it, so failures are told
// once and it is tried again.
func (n *Node) keepRegistry() {
	r := n.registry()
	if r == nil {
		return
	}
	t := time.NewTicker(registryEvery)
	defer t.Stop()
	failed := false
	written := map[string]string{} // descriptions of pairs
	for {
		err := n.writeRegistry(r, written)
		if err == nil {
			err = n.learnNodes(r)
		}
		switch {
		case n.ctx.Err() != nil:
			return
		case err != nil && !failed:
			n.log.Warn().Err(err).Msg("the registry cannot be reached; colod status --all is out of date until it can")
		case err == nil && failed:
			n.log.Info().Msg("the registry is up to date again")
		}
		failed = err != nil
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		case <-n.changed:
			if !n.pause(registrySoon) {
				return
			}
		case <-n.strange:
			if !n.pause(registryStrange) {
				return
			}
		}
		// What has come meanwhile is dealt with by the next round, too.
		for _, ch := range []chan struct{}{n.changed, n.strange} {
			select {
			case <-ch:
			default:
			}
		}
	}
}

// pause waits; it reports false when the node ends meanwhile.
func (n *Node) pause(d time.Duration) bool {
	select {
	case <-n.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (n *Node) writeRegistry(r registry.Registry, written map[string]string) error {
	if err := r.RegisterNode(n.ctx, n.entry()); err != nil {
		return err
	}
	if err := r.Publish(n.ctx, n.views()...); err != nil {
		return err
	}
	// The speaker's description of a pair is the one that counts.
	for _, d := range n.all() {
		if d.role() != pair.Speaker {
			continue
		}
		text, err := config.EncodePair(d.cfg)
		if err != nil {
			return err
		}
		if written[d.cfg.Name] == string(text) {
			continue
		}
		if err := r.PutSpec(n.ctx, registry.Spec{Pair: d.cfg.Name, Node: n.cfg.Node, Config: text, Updated: time.Now()}); err != nil {
			return err
		}
		written[d.cfg.Name] = string(text)
	}
	return nil
}

// learnNodes makes links to nodes that the configuration does not name: a
// spare node has them with all others, and all others with it.
func (n *Node) learnNodes(r registry.Registry) error {
	nodes, err := r.Nodes(n.ctx)
	if err != nil {
		return err
	}
	for _, e := range nodes {
		if e.Spare || n.cfg.Spare.Bridge != "" {
			if n.know(config.PairNode{Name: e.Name, Address: e.Address, Paths: e.Paths}) {
				n.log.Info().Str("peer", e.Name).Str("address", e.Address).Bool("spare", e.Spare).Msg("node learned from the registry")
			}
		}
	}
	return nil
}

// forgetPair removes what the registry has of a deleted pair, and this node's
// own driver if the pair does not list it.
func (n *Node) forgetPair(name string) {
	if r := n.registry(); r != nil {
		ctx, cancel := context.WithTimeout(n.ctx, arbiterLimit(n.cfg))
		defer cancel()
		if err := r.ForgetPair(ctx, name); err != nil {
			n.log.Warn().Err(err).Str("pair", name).Msg("the registry still has the deleted pair")
		}
	}
}

// Cluster is what one node knows of all nodes and pairs.
type Cluster struct {
	Node string `json:"node"` // who says it
	// Source is "registry" for what all nodes have written in etcd, or "links"
	// for what the connected nodes have told.
	Source string          `json:"source"`
	Nodes  []ClusterNode   `json:"nodes"`
	Pairs  []registry.Pair `json:"pairs"`
	// Problem says why Source is not the registry although there is one.
	Problem string `json:"problem,omitempty"`
}

// ClusterNode is a node in the view of another one.
type ClusterNode struct {
	registry.Node
	// Linked says that this node may connect with the answering one, Up that it
	// does.
	Linked bool       `json:"linked"`
	Up     bool       `json:"up"`
	Paths  []PeerPath `json:"link_paths,omitempty"`
}

// Cluster asks the registry, or else puts together what is known here.
func (n *Node) Cluster(ctx context.Context) Cluster {
	c := Cluster{Node: n.cfg.Node, Source: "links"}
	if r := n.registry(); r != nil {
		ctx, cancel := context.WithTimeout(ctx, arbiterLimit(n.cfg))
		defer cancel()
		nodes, err := r.Nodes(ctx)
		if err == nil {
			c.Pairs, err = r.Pairs(ctx)
		}
		if err == nil {
			c.Source = "registry"
			for _, e := range nodes {
				c.Nodes = append(c.Nodes, ClusterNode{Node: e})
			}
		} else {
			c.Problem = err.Error()
		}
	}
	if c.Source == "links" {
		c.Nodes, c.Pairs = n.fromLinks()
	}
	for i := range c.Nodes {
		e := &c.Nodes[i]
		e.Up = e.Name == n.cfg.Node || n.connected(e.Name)
		e.Linked = e.Name == n.cfg.Node || n.otherNode(e.Name) != nil
		e.Paths = n.paths(e.Name)
	}
	if c.Nodes == nil {
		c.Nodes = []ClusterNode{}
	}
	if c.Pairs == nil {
		c.Pairs = []registry.Pair{}
	}
	return c
}

// fromLinks is what this node and those connected with it say.
func (n *Node) fromLinks() ([]ClusterNode, []registry.Pair) {
	nodes := []ClusterNode{{Node: n.entry()}}
	pairs := map[string]*registry.Pair{}
	add := func(views []registry.View) {
		for _, v := range views {
			if pairs[v.Pair] == nil {
				pairs[v.Pair] = &registry.Pair{Name: v.Pair}
			}
			pairs[v.Pair].Views = append(pairs[v.Pair].Views, v)
		}
	}
	add(n.views())
	n.mu.RLock()
	for _, name := range slices.Sorted(maps.Keys(n.others)) {
		o := n.others[name]
		e := registry.Node{Name: name, Address: o.node.Address, Paths: o.node.Paths}
		if o.entry != nil {
			e = *o.entry
		}
		nodes = append(nodes, ClusterNode{Node: e})
		add(o.views)
	}
	n.mu.RUnlock()
	for _, d := range n.all() {
		rec := arbiter.Record{}
		if d.call(func() { rec = d.m.Record() }) && pairs[d.cfg.Name] != nil {
			pairs[d.cfg.Name].Record = rec
		}
	}
	slices.SortFunc(nodes, func(a, b ClusterNode) int { return strings.Compare(a.Name, b.Name) })
	all := []registry.Pair{}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		p := pairs[name]
		slices.SortFunc(p.Views, func(a, b registry.View) int { return strings.Compare(a.Node, b.Node) })
		all = append(all, *p)
	}
	return nodes, all
}
