package netfilter

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// HandOver ends the path and leaves the guest its network: the tap becomes a port of the bridge itself, filters and uplink
// go. It is for a guest that is to run on without us; the kernel must carry its frames (mode Pass). At no instant is there
// no way for a frame; for about a millisecond a multicast frame can reach the guest twice. The tap stays, also one that was
// made by Open: whoever holds its guest says when it goes.
//
// A failure leaves the path as it is as far as it was not handed over, and HandOver can be called again.
func (p *Path) HandOver() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fail := func(err error) error { return &Error{Op: "hand over path of", Device: p.cfg.Tap, Err: err} }
	if p.closed {
		return fail(errClosed)
	}
	if p.mode != Pass {
		return fail(fmt.Errorf("its mode is %v: only the kernel's own way can be handed over", p.mode))
	}
	tap, err := p.links.find(p.cfg.Tap)
	if err == nil && (tap == nil || tap.Attrs().Index != int(p.guest.index)) {
		err = ErrGone
	}
	if err != nil {
		return fail(err)
	}
	// The filters on the tap go on to take the guest's frames before the bridge sees them; frames to the guest have two
	// ways, of which the bridge uses the one that it has learned.
	if err := p.links.enslave(tap, p.cfg.Bridge); err != nil {
		return err
	}
	if err := p.rules.dropClsact(p.guest); err != nil {
		return err
	}
	if _, err := p.links.delete(p.cfg.Uplink, p.cfg.Owner); err != nil {
		return err
	}
	var errs []error
	if p.wasAdopted() {
		for _, s := range p.record.steps {
			if s.Undo == undoRestore {
				errs = append(errs, p.undoStep(s))
			}
		}
	} else {
		errs = append(errs, set("unmark", p.cfg.Tap, p.links.nl.LinkSetAlias(tap, "")))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	err = p.record.remove()
	p.release()
	return err
}

// masterOf is the name of the bridge that a device is a port of, or empty.
func (l *links) masterOf(link netlink.Link) string {
	if link.Attrs().MasterIndex == 0 {
		return ""
	}
	m, err := l.nl.LinkByIndex(link.Attrs().MasterIndex)
	if err != nil || m.Type() != "bridge" {
		return ""
	}
	return m.Attrs().Name
}

// enslave makes a device a port of a bridge.
func (l *links) enslave(link netlink.Link, bridge string) error {
	br, err := l.bridge(bridge)
	if err != nil {
		return err
	}
	return set("make a port of "+bridge, link.Attrs().Name, l.nl.LinkSetMasterByIndex(link, br.Attrs().Index))
}
