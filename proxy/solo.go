package proxy

import (
	"context"

	"colod/proxy/front"
)

// kernelAfter is how long (ns) a speaker that lost its peer carries its guest's frames itself before the kernel
// does it: the change costs some milliseconds, and most often protection is back by then.
const kernelAfter = int64(2e9)

// Solo makes this node the speaker without a peer, by the record's authority.
// The kernel carries the traffic, unless rewritten connections are left.
func (p *Proxy) Solo(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		switch p.role {
		case roleIdle, roleMuted, roleSolo, roleOrphan:
			if p.role == roleOrphan {
				p.silence()
			}
			p.role = roleSolo
			err := p.carry()
			if err == nil {
				err = p.openUplinkTX()
			}
			if err == nil {
				p.announce() // a guest that was not heard here before may say nothing by itself
			}
			if err == nil && p.front.Len() == 0 {
				err = p.toKernel()
			}
			reply(err)
		default:
			reply(roleError("go solo", p.role))
		}
	})
}

// carry sets the path of a speaker without a peer so that nothing is lost from this instant on: where the
// proxy has carried frames it goes on to do so, and it must where connections are rewritten.
func (p *Proxy) carry() error {
	p.kernelAt = p.nowMono + kernelAfter
	p.front.Expire(p.nowMono)
	rewritten := p.front.Len() > 0
	if !rewritten && p.tapRX == nil {
		return nil // toKernel is all that is needed
	}
	err := p.openTap(false)
	if err == nil {
		err = p.openUplinkTX()
	}
	if err == nil && rewritten {
		err = p.openTapTX()
	}
	if err == nil && rewritten {
		err = p.openUplinkRX()
	}
	switch {
	case err != nil:
		return err
	case rewritten:
		return p.setMode(StealBoth)
	}
	return p.setMode(Steal)
}

// toKernel lets the kernel carry the traffic of a speaker without a peer.
func (p *Proxy) toKernel() error {
	if p.mode == Pass {
		return nil
	}
	if err := p.outputToKernel(); err != nil {
		return err
	}
	p.closeSockets()
	return nil
}

// outputToKernel changes to Pass. Each frame of the guest leaves once: the seam
// tells which of those that the socket saw the kernel has carried.
func (p *Proxy) outputToKernel() error {
	if p.tapRX == nil || p.upTX == nil {
		return p.setMode(Pass) // nothing was taken from the kernel
	}
	p.upTX.flush(p)
	// A frame that was read and sent may still be on its way to the filters, on a processor that was held up there: it
	// must find them as they are, or the kernel carries it as well.
	p.dev.Settle()
	seam, err := p.dev.OpenSeam(p.opt.Uplink)
	if err != nil {
		return err
	}
	defer seam.Close()
	before := p.dev.Realtime()
	if err := p.setMode(Pass); err != nil {
		return err
	}
	p.dev.Settle()
	ours := p.tapFrames()
	if err := seam.Poll(); err != nil {
		return err
	}
	if first := seam.First(); first != 0 {
		i := len(ours) - 1
		for i >= 0 && ours[i].KTime > first {
			i--
		}
		for _, f := range ours[max(i, 0):] {
			p.pool.put(f)
		}
		ours = ours[:max(i, 0)]
	}
	for _, f := range ours {
		p.releaseAlone(f)
	}
	p.upTX.flush(p)
	// A client repeats what falls between the carriers in its direction.
	for p.upRX != nil && p.readUplinkUntil(before) {
	}
	return nil
}

// outputFromKernel changes from Pass to Steal, with a new socket on the tap.
func (p *Proxy) outputFromKernel() error {
	seam, err := p.dev.OpenSeam(p.opt.Uplink)
	if err != nil {
		return err
	}
	defer seam.Close()
	if err := p.openTap(true); err != nil {
		return err
	}
	if err := p.setMode(Steal); err != nil {
		return err
	}
	p.dev.Settle()
	if err := seam.Poll(); err != nil {
		return err
	}
	p.tapRX.since = seam.Last() + 1
	return nil
}

// orphanTime is how long (ns) an orphan passes input on at most: until the other node speaks, or is lost too.
const orphanTime = int64(3e9)

// Mute takes the voice from this node: it lost the race, or its guest is gone. A
// primary with a link goes on mirroring what clients send here, so that the
// other node's guest gets what is on its way while the roles change.
func (p *Proxy) Mute(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		err := p.setMode(Mute)
		if p.pri != nil {
			p.pri.linkLost()
		}
		if p.role == rolePrimary && p.link != nil && p.pri.armed && err == nil && p.orphan() == nil {
			reply(nil)
			return
		}
		p.silence()
		reply(err)
	})
}

// orphan keeps the link and the sight of the uplink, and nothing else.
func (p *Proxy) orphan() error {
	if err := p.openUplinkRX(); err != nil {
		return err
	}
	p.dropRoles()
	p.tapRX.Close()
	p.tapRX = nil
	p.linkPaused = false
	p.role, p.orphanEnd = roleOrphan, p.nowMono+orphanTime
	return nil
}

// silence ends everything but the thread.
func (p *Proxy) silence() {
	if p.link != nil {
		p.stats.addLink(p.link)
		p.link.close()
		p.link, p.linkMore, p.linkPaused = nil, false, false
	}
	p.dropRoles()
	p.closeSockets()
	p.front = front.New()
	p.owed = nil
	p.role = roleMuted
}
