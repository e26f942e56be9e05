package proxy

import (
	"context"
)

// Solo makes this node the speaker without a peer, by the record's authority.
// The kernel carries the traffic, unless rewritten connections are left.
func (p *Proxy) Solo(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		switch p.role {
		case roleIdle, roleMuted, roleSolo:
			p.role = roleSolo
			reply(p.enterSolo())
		default:
			reply(roleError("go solo", p.role))
		}
	})
}

// enterSolo sets the path of a speaker without a peer.
func (p *Proxy) enterSolo() error {
	p.front.expire(p.nowMono)
	if len(p.front.flows) > 0 {
		err := p.openTap(true)
		if err == nil {
			err = p.openTapTX()
		}
		if err == nil {
			err = p.openUplinkTX()
		}
		if err == nil {
			err = p.openUplinkRX()
		}
		if err != nil {
			return err
		}
		return p.setMode(StealBoth)
	}
	if p.mode == Pass {
		return nil
	}
	before := realtime()
	if err := p.setMode(Pass); err != nil {
		return err
	}
	// What the sockets took before the change did not go through the kernel. What they took
	// during it may have: it is left to the senders' repetition.
	if p.tapRX != nil && p.upTX != nil {
		p.tapUntil(before)
		p.upTX.flush(p)
	}
	for p.upRX != nil && p.readUplinkUntil(before) {
	}
	p.closeSockets()
	return nil
}

// Mute takes the voice from this node: it lost the race, or its guest is gone.
func (p *Proxy) Mute(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		err := p.setMode(Mute)
		if p.link != nil {
			p.stats.addLink(p.link)
			p.link.close()
			p.link, p.linkMore, p.linkPaused = nil, false, false
		}
		if p.pri != nil {
			p.pri.linkLost()
		}
		p.dropRoles()
		p.closeSockets()
		p.front = newFront()
		p.role = roleMuted
		reply(err)
	})
}
