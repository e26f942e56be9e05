package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/registry"
	"colod/coordinator/statefile"
)

// guest is the file in which a node keeps the description of a pair that does
// not list it, while it takes part in it.
type guest struct {
	Spec registry.Spec `json:"spec"`
	Tap  string        `json:"tap"`
}

const guestKind = "colod-guest-1"

func (n *Node) guestDir() string { return filepath.Join(n.cfg.StateDir, "guests") }

func (n *Node) guestFile(name string) string { return filepath.Join(n.guestDir(), name) }

// maxGuests is how many such pairs a node takes: their taps' names end in two digits.
const maxGuests = 100

// unknownPair takes a message about a pair that this node has no driver for.
// On a spare node, the request for a secondary makes one.
func (n *Node) unknownPair(from, name, kind string, body []byte) {
	spare := n.cfg.Spare.Bridge != "" && n.registry() != nil
	if !spare || kind != (pair.Prepare{}).Kind() {
		if !spare && kind != (pair.Status{}).Kind() {
			n.log.Warn().Str("peer", from).Str("pair", name).Str("kind", kind).Msg("message about a pair that the two nodes do not share; compare the configurations")
		}
		return
	}
	msg, err := pair.DecodeMessage(kind, body)
	if err != nil {
		n.log.Warn().Err(err).Str("peer", from).Msg("message of the other node refused")
		return
	}
	n.mu.Lock()
	busy := n.making[name] || n.closed
	if !busy {
		n.making[name] = true
		n.work.Add(1)
	}
	n.mu.Unlock()
	if busy {
		return
	}
	go func() {
		defer n.work.Done()
		d, err := n.becomeGuest(name)
		n.mu.Lock()
		delete(n.making, name)
		n.mu.Unlock()
		if err != nil {
			n.log.Warn().Err(err).Str("pair", name).Str("peer", from).Msg("this spare node cannot take the pair")
			r := pair.Refused{Session: msg.(pair.Prepare).Session, Reason: clip(n.cfg.Node + ": " + err.Error())}
			n.send(from, name, r.Kind(), r)
			return
		}
		n.meet(d, from)
		d.post(pair.Received{From: from, Msg: msg})
	}()
}

// becomeGuest makes the driver of a pair that does not list this node, from
// its description in the registry.
func (n *Node) becomeGuest(name string) (*driver, error) {
	ctx, cancel := context.WithTimeout(n.ctx, arbiterLimit(n.cfg))
	defer cancel()
	spec, err := n.registry().Spec(ctx, name)
	if err != nil {
		return nil, err
	}
	if spec.Pair == "" {
		return nil, fmt.Errorf("the registry has no description of pair %s", name)
	}
	tap, err := n.freeTap()
	if err != nil {
		return nil, err
	}
	g := &guest{Spec: spec, Tap: tap}
	p, err := n.decodeGuest(g)
	if err != nil {
		return nil, err
	}
	// On disk before anything is made of it: after a crash the devices and the
	// VM are found again.
	if err := statefile.Write(n.guestFile(name), guestKind, g); err != nil {
		return nil, err
	}
	if err := n.openGuest(p); err != nil {
		return nil, errors.Join(err, statefile.Remove(n.guestFile(name)))
	}
	n.log.Info().Str("pair", name).Str("described_by", spec.Node).Str("tap", tap).Msg("this spare node takes part in the pair")
	return n.driverOf(name), nil
}

func (n *Node) decodeGuest(g *guest) (*config.Pair, error) {
	p, err := config.DecodePair("description of pair "+g.Spec.Pair+" by node "+g.Spec.Node, g.Spec.Config, n.cfg.Spare.Bridge, g.Tap)
	if err != nil {
		return nil, err
	}
	if p.Name != g.Spec.Pair {
		return nil, fmt.Errorf("the description of pair %s is of pair %s", g.Spec.Pair, p.Name)
	}
	p.Fencing = n.cfg.Fencing
	return p, nil
}

func (n *Node) openGuest(p *config.Pair) error {
	for _, node := range p.Nodes {
		n.know(node)
	}
	if err := n.open1(p); err != nil {
		return err
	}
	d := n.driverOf(p.Name)
	for _, node := range p.Nodes {
		if n.connected(node.Name) {
			d.post(pair.PeerUp{Peer: node.Name})
		}
	}
	return nil
}

// freeTap is a name for the tap of one more guest.
func (n *Node) freeTap() (string, error) {
	used := map[string]bool{}
	for _, d := range n.all() {
		used[d.cfg.Network.Tap] = true
	}
	for i := range maxGuests {
		if tap := fmt.Sprintf("%s%02d", n.cfg.Spare.Tap, i); !used[tap] {
			return tap, nil
		}
	}
	return "", fmt.Errorf("this node has taken %d pairs already", maxGuests)
}

// takeUpGuests makes the drivers of the pairs that this node took part in when
// it was ended. It runs before the links are started.
func (n *Node) takeUpGuests() {
	entries, err := os.ReadDir(n.guestDir())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			n.log.Error().Err(err).Msg("guests of other nodes cannot be taken up again")
		}
		return
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name()[0] == '.' {
			continue
		}
		g := &guest{}
		err := statefile.Read(n.guestFile(e.Name()), guestKind, g)
		if err == nil && n.driverOf(g.Spec.Pair) != nil {
			err = statefile.Remove(n.guestFile(e.Name())) // the configuration has it meanwhile
			if err == nil {
				continue
			}
		}
		if err == nil {
			var p *config.Pair
			if p, err = n.decodeGuest(g); err == nil {
				err = n.openGuest(p)
			}
		}
		if err != nil {
			n.log.Error().Err(err).Str("pair", e.Name()).Msg("the pair is not taken up again; a VM of it that runs here stays mute")
		}
	}
}

// restWait is how long a node that a pair does not list goes on waiting as one
// of its standbys after it was let go.
const restWait = time.Minute

// retireGuests ends the drivers of pairs that do not list this node once they
// have nothing to do with it any more.
func (n *Node) retireGuests() {
	t := time.NewTicker(restWait / 4)
	defer t.Stop()
	idle := map[string]time.Time{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		for _, d := range n.all() {
			name := d.cfg.Name
			if d.cfg.NodeOf(n.cfg.Node).Name != "" {
				continue
			}
			if !d.needless() {
				delete(idle, name)
				continue
			}
			if idle[name].IsZero() {
				idle[name] = time.Now()
			}
			if time.Since(idle[name]) >= restWait {
				delete(idle, name)
				n.retire(d)
			}
		}
	}
}

// needless reports whether the driver could go: no VM, and a record that does
// not name this node.
func (d *driver) needless() bool {
	ok := false
	d.call(func() {
		rec := d.m.Record()
		ok = (d.m.State() == pair.Standby || d.m.State() == pair.Stopped) && !d.m.HasVM() && rec.Exists() &&
			rec.Speaker != d.node && rec.Standby != d.node
	})
	return ok && d.vm.Load() == nil
}

// retire ends a driver for good.
func (n *Node) retire(d *driver) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	delete(n.drivers, d.cfg.Name)
	for i, name := range n.order {
		if name == d.cfg.Name {
			n.order = append(n.order[:i:i], n.order[i+1:]...)
			break
		}
	}
	n.mu.Unlock()
	d.post(pair.Quit{})
	select {
	case <-d.exited:
	case <-time.After(stopTimeout):
	}
	err := errors.Join(d.close(false), statefile.Remove(n.guestFile(d.cfg.Name)))
	if r := n.registry(); r != nil {
		ctx, cancel := context.WithTimeout(n.ctx, arbiterLimit(n.cfg))
		defer cancel()
		err = errors.Join(err, r.Forget(ctx, d.cfg.Name, n.cfg.Node))
	}
	n.log.Info().AnErr("error", err).Str("pair", d.cfg.Name).Msg("this spare node has nothing to do with the pair any more")
}
