package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/peer"
	"colod/proxy"
)

// The functions here run on the data path's lane unless they say otherwise.

func freshSession(name, with string) (*session, error) {
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	return newSession(name, with, secret), nil
}

func (d *driver) mute(a pair.Mute) {
	ctx, cancel := context.WithTimeout(context.Background(), pathTimeout)
	defer cancel()
	ev := pair.Muted{Op: a.Op}
	mute := d.data.Mute
	if d.releasing.Load() || d.wayIsReleased() {
		mute = func(context.Context) error { return d.way.handOver() }
	}
	if err := mute(ctx); err != nil {
		ev.Err = err.Error()
	}
	d.post(ev)
}

// speak lets the guest's output out alone. The record gives the right to; in
// which way depends on what the data path is, which may be less than the
// machine meant, such as when its link was never made.
func (d *driver) speak(a pair.Speak) {
	ctx, cancel := context.WithTimeout(context.Background(), pathTimeout)
	defer cancel()
	first := d.data.Solo
	switch a.How {
	case pair.Released:
		first = d.data.GoSolo
	case pair.TakeOver:
		first = d.data.Promote
	}
	began := time.Now()
	err := first(ctx)
	for _, other := range []func(context.Context) error{d.data.GoSolo, d.data.Promote, d.data.Solo} {
		if !errors.Is(err, proxy.ErrRole) {
			break
		}
		err = other(ctx)
	}
	ev := pair.Speaking{Op: a.Op}
	if err != nil {
		ev.Err = err.Error()
	} else {
		d.log.Debug().Stringer("how", a.How).Dur("took_ms", time.Since(began)).Msg("the guest speaks here")
	}
	d.post(ev)
}

// connect is called on the loop.
func (d *driver) connect(a pair.Link) {
	s := d.session(a.Session)
	d.pathLane.do(func() {
		ev := pair.Linked{Session: a.Session}
		if err := d.startPrimary(s); err != nil {
			ev.Err = err.Error()
		}
		d.post(ev)
	})
}

func (d *driver) startPrimary(s *session) error {
	if s == nil {
		return errors.New("the session is over")
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*dialTimeout)
	defer cancel()
	raw, err := d.net.dial(ctx, s.with, peer.ClassNet, false)
	if err != nil {
		return err
	}
	s.carries(raw)
	link, err := d.plat.Link(ctx, raw, d.id.Client(s.with), false, proxy.Hello{Pair: d.cfg.Name, Session: s.number()}, nil)
	if err != nil {
		return err
	}
	d.linkSess.Store(s)
	d.stats.session()
	d.reports.session()
	return d.data.StartPrimary(ctx, link, proxy.Session{Key: s.digestKey(), TapFD: -1})
}

// expectsLink decides on the greeting of a net connection, on its goroutine.
func (d *driver) expectsLink(h proxy.Hello) error {
	s := d.sessNow.Load()
	if s == nil || s.number() != h.Session || s.ctx.Err() != nil {
		return fmt.Errorf("session %x of pair %s is not expected here", h.Session, h.Pair)
	}
	return nil
}

// acceptLink gives the data path its link, on the connection's goroutine. The
// link is the caller's if an error is returned.
func (d *driver) acceptLink(link NetLink, raw net.Conn, number uint64) error {
	s := d.sessNow.Load()
	switch {
	case s == nil || s.number() != number:
		return fmt.Errorf("session %x of pair %s is over", number, d.cfg.Name)
	case link.PeerName() != s.with:
		return fmt.Errorf("node %q is not the other node of this session of pair %s, which is %q", link.PeerName(), d.cfg.Name, s.with)
	}
	s.carries(raw)
	d.pathLane.do(func() {
		ev := pair.Linked{Session: s.name}
		if err := d.startSecondary(s, link); err != nil {
			ev.Err = err.Error()
		}
		d.post(ev)
	})
	return nil
}

func (d *driver) startSecondary(s *session, link NetLink) error {
	h := d.vm.Load()
	if h == nil || s.ctx.Err() != nil {
		link.Close()
		return errors.New("the session is over")
	}
	ps := proxy.Session{Key: s.digestKey(), TapFD: -1}
	f, err := h.TapFD(d.cfg.Network.Tap)
	if err != nil {
		// Frames that wait in the tap over a checkpoint may then reach the
		// guest late; it takes them for repetitions.
		d.log.Warn().Err(err).Msg("cannot reach QEMU's descriptor of the tap")
	} else {
		if ps.TapFD, err = dupFD(f); err != nil {
			link.Close()
			return err
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, pathTimeout)
	defer cancel()
	d.linkSess.Store(s)
	return d.data.StartSecondary(ctx, link, ps)
}

// holdOutput is called on the loop.
func (d *driver) holdOutput(a pair.Hold) {
	s := d.sess
	d.stats.begin(a.N, a.Reasons)
	d.reports.begun(a.N, a.Reasons)
	d.pathLane.do(func() {
		ev := pair.Held{N: a.N}
		if s == nil {
			ev.Err = "the session is over"
		} else {
			ctx, cancel := context.WithTimeout(s.ctx, d.cfg.Checkpoint.Timeout.D())
			defer cancel()
			if err := d.data.BeginCheckpoint(ctx, a.N); err != nil {
				ev.Err = err.Error()
			}
		}
		d.post(ev)
	})
}

// cover is called on the loop.
func (d *driver) cover(a pair.Cover) {
	s := d.sess
	d.pathLane.do(func() {
		ev := pair.Covered{N: a.N}
		if s == nil {
			ev.Err = "the session is over"
		} else {
			ctx, cancel := context.WithTimeout(s.ctx, d.cfg.Checkpoint.Timeout.D())
			defer cancel()
			if err := d.data.EndCheckpoint(ctx, a.N, a.At); err != nil {
				ev.Err = err.Error()
			} else {
				cost, took, diverged := d.stats.done(a.N)
				d.data.SetCheckpointCost(cost)
				d.box.post(func() { d.lookAtMode(took, diverged) })
				d.reports.done(a.N, &d.stats)
			}
		}
		d.post(ev)
	})
}
