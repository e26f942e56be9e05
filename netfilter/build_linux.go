package netfilter

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// build looks at what is there, refuses what must not be touched, and makes the rest.
func (p *Path) build() error {
	c := &p.cfg
	br, err := p.links.bridge(c.Bridge)
	if err != nil {
		return err
	}
	if c.MTU == 0 {
		c.MTU = br.Attrs().MTU
	}
	h := header{Owner: c.Owner, Tap: c.Tap, Uplink: c.Uplink}
	if p.record.head != (header{}) && p.record.head != h {
		return &Error{Op: "open path of", Device: c.Tap,
			Err:  fmt.Errorf("it %w: %s has it with uplink %s", ErrForeign, p.record.head.Owner, p.record.head.Uplink),
			Cure: "end that pair, or have its remains removed first"}
	}
	tap, err := p.links.find(c.Tap)
	if err != nil {
		return err
	}
	mine := tap != nil && (tap.Attrs().Alias == madeAlias(c.Owner) || tap.Attrs().Alias == adoptedAlias(c.Owner))
	if tap != nil && !mine && !p.halfMade(tap) {
		from := 0
		if c.Running && c.FromBridge {
			from = br.Attrs().Index
		}
		if err := p.links.checkTap(tap, c.Running, from); err != nil {
			return err
		}
	}
	uplink, err := p.ownVeth(c.Uplink)
	if err != nil {
		return err
	}
	port, err := p.ownVeth(c.PortName())
	if err != nil {
		return err
	}
	if tap != nil {
		if err := p.rules.foreign(hook{device: c.Tap, index: uint32(tap.Attrs().Index)}); err != nil {
			return err
		}
	}
	if err := p.record.begin(h); err != nil {
		return &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	marked := func(l netlink.Link) bool { return l != nil && l.Attrs().Alias != "" }
	if !marked(uplink) || !marked(port) || port.Attrs().MasterIndex != br.Attrs().Index {
		if uplink, port, err = p.makeUplink(br); err != nil {
			return err
		}
	}
	if tap, err = p.takeTap(tap); err != nil {
		return err
	}
	p.guest = hook{c.Tap, uint32(tap.Attrs().Index), uint32(uplink.Attrs().Index)}
	p.client = hook{c.Uplink, uint32(uplink.Attrs().Index), uint32(tap.Attrs().Index)}
	first := Mute
	if !mine && tap.Attrs().MasterIndex == br.Attrs().Index {
		first = Pass // it speaks already, past us
	}
	if err := p.adoptRules(tap, first); err != nil {
		return err
	}
	for _, l := range []netlink.Link{port, uplink, tap} {
		if err := set("set up", l.Attrs().Name, p.links.nl.LinkSetUp(l)); err != nil {
			return err
		}
	}
	p.links.awaitUp(port, uplink)
	if tap.Attrs().MasterIndex != 0 {
		return set("take out of its bridge", c.Tap, p.links.nl.LinkSetNoMaster(tap))
	}
	return nil
}

// halfMade says whether an unmarked device is one that an earlier process made for this path and died before it could
// mark it: the journal announces it (a port by its uplink), and it is down.
func (p *Path) halfMade(link netlink.Link) bool {
	a := link.Attrs()
	name := a.Name
	if name == p.cfg.PortName() {
		name = p.cfg.Uplink
	}
	kind := "veth"
	if name == p.cfg.Tap {
		kind = "tuntap"
	}
	announced := slices.ContainsFunc(p.record.steps, func(s step) bool { return s.Undo == undoDelete && s.Link == name })
	return announced && link.Type() == kind && a.Alias == "" && a.RawFlags&unix.IFF_UP == 0
}

// ownVeth returns a device of the path's veth pair, or nil if there is none of that name. One of somebody else is
// refused.
func (p *Path) ownVeth(name string) (netlink.Link, error) {
	link, err := p.links.find(name)
	if link == nil || err != nil {
		return nil, err
	}
	if link.Type() == "veth" && link.Attrs().Alias == madeAlias(p.cfg.Owner) {
		return link, nil
	}
	if p.halfMade(link) {
		return link, nil
	}
	e := &Error{Op: "create", Device: name, Err: fmt.Errorf("the name is taken by a %s that %w", link.Type(), ErrForeign),
		Cure: "choose another name in network.uplink, or delete the device"}
	if a := link.Attrs().Alias; a != "" {
		e.Err = fmt.Errorf("the name is taken by a %s that %w: its alias is %q", link.Type(), ErrForeign, a)
	}
	return nil, e
}

// makeUplink makes the veth pair and the bridge's port, both down and without a host that speaks on them.
func (p *Path) makeUplink(br netlink.Link) (uplink, port netlink.Link, err error) {
	c := &p.cfg
	if _, err := p.links.delete(c.Uplink, c.Owner); err != nil {
		return nil, nil, err
	}
	if err := p.record.record(step{Undo: undoDelete, Link: c.Uplink}); err != nil {
		return nil, nil, &Error{Op: "create veth", Device: c.Uplink, Err: err}
	}
	if err := p.links.makeUplink(c.Uplink, c.PortName(), c.MTU); err != nil {
		return nil, nil, err
	}
	if uplink, err = p.links.find(c.Uplink); err == nil {
		port, err = p.links.find(c.PortName())
	}
	if err == nil && (uplink == nil || port == nil) {
		err = &Error{Op: "create veth", Device: c.Uplink, Err: ErrGone}
	}
	if err != nil {
		return nil, nil, err
	}
	for _, l := range []netlink.Link{uplink, port} {
		if err := set("mark", l.Attrs().Name, p.links.nl.LinkSetAlias(l, madeAlias(c.Owner))); err != nil {
			return nil, nil, err
		}
		if err := p.links.quiet(l); err != nil {
			return nil, nil, err
		}
	}
	if err := p.links.nl.LinkSetMasterByIndex(port, br.Attrs().Index); err != nil {
		return nil, nil, &Error{Op: "make " + c.PortName() + " a port of", Device: c.Bridge, Err: err}
	}
	return uplink, port, p.links.floodMulticast(port)
}

// takeTap makes the tap, or adopts the one that is there, and gives it our settings.
func (p *Path) takeTap(tap netlink.Link) (netlink.Link, error) {
	c := &p.cfg
	nl := p.links.nl
	alias := madeAlias(c.Owner)
	switch {
	case tap == nil:
		if err := p.record.record(step{Undo: undoDelete, Link: c.Tap}); err != nil {
			return nil, &Error{Op: "create tap", Device: c.Tap, Err: err}
		}
		if err := p.links.makeTap(c.Tap); err != nil {
			return nil, err
		}
		var err error
		if tap, err = p.links.find(c.Tap); err != nil {
			return nil, err
		}
		if tap == nil {
			return nil, &Error{Op: "create tap", Device: c.Tap, Err: ErrGone}
		}
	case tap.Attrs().Alias == alias || tap.Attrs().Alias == "" && p.halfMade(tap):
	default:
		alias = adoptedAlias(c.Owner)
		if tap.Attrs().Alias != alias {
			s := step{Undo: undoRestore, Link: c.Tap, Index: tap.Attrs().Index, Was: p.links.settings(tap)}
			if err := p.record.record(s); err != nil {
				return nil, &Error{Op: "adopt tap", Device: c.Tap, Err: err}
			}
		}
	}
	if err := p.links.quiet(tap); err != nil {
		return nil, err
	}
	a := tap.Attrs()
	if a.Alias != alias {
		if err := set("mark", c.Tap, nl.LinkSetAlias(tap, alias)); err != nil {
			return nil, err
		}
	}
	if a.MTU != c.MTU {
		if err := set(fmt.Sprintf("set MTU %d of", c.MTU), c.Tap, nl.LinkSetMTU(tap, c.MTU)); err != nil {
			return nil, err
		}
	}
	if a.TxQLen != TxQueueLen {
		if err := set(fmt.Sprintf("set queue length %d of", TxQueueLen), c.Tap, nl.LinkSetTxQLen(tap, TxQueueLen)); err != nil {
			return nil, err
		}
	}
	return tap, nil
}

// adoptRules takes over the filters that are there; where they are not those of a mode, it sets the first one.
func (p *Path) adoptRules(tap netlink.Link, first Mode) error {
	if tap.Attrs().Alias == adoptedAlias(p.cfg.Owner) || p.wasAdopted() {
		if err := p.record.record(step{Undo: undoClsact, Link: p.cfg.Tap, Index: tap.Attrs().Index}); err != nil {
			return &Error{Op: "add clsact to", Device: p.cfg.Tap, Err: err}
		}
	}
	for _, h := range []hook{p.guest, p.client} {
		if _, err := p.rules.clsact(h); err != nil {
			return err
		}
		if err := p.rules.foreign(h); err != nil {
			return err
		}
	}
	g, err := p.rules.look(p.guest)
	if err != nil {
		return err
	}
	k, err := p.rules.look(p.client)
	if err != nil {
		return err
	}
	for _, m := range []Mode{Pass, Steal, Mute} {
		fromGuest, toGuest := m.open()
		if g.settled(fromGuest) && k.settled(toGuest) {
			p.mode = m
			return nil
		}
	}
	return p.setMode(first)
}

// wasAdopted says whether the tap existed before us.
func (p *Path) wasAdopted() bool {
	for _, s := range p.record.steps {
		if s.Undo == undoRestore {
			return true
		}
	}
	return false
}
