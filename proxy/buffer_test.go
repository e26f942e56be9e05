package proxy

import (
	"testing"
	"time"

	"colod/internal/frame"
)

// TestBufferedEpochs: output waits for the checkpoint that covers it, and the pair goes back to comparing with the next one.
func TestBufferedEpochs(t *testing.T) {
	p := newPair(t)
	for _, g := range p.guest {
		pc := g.ListenPacket(guestIP + ":7")
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo(buf[:n], from)
			}
		}()
	}
	p.protect(0, 1)
	say, got, _ := p.talk(frame.KindUDP)
	say()
	waitFor(t, "an answer in lock-step", func() bool { return got() == 1 })
	p.proxy[0].SetBuffered(true)
	p.checkpoint(0, 1)
	before := p.proxy[0].Stats()
	for i := range 5 {
		held := p.proxy[0].Stats().Held
		say()
		waitFor(t, "the held answer", func() bool { return p.proxy[0].Stats().Held > held })
		if n := got(); n != 1+i {
			t.Fatalf("%d answers after %d checkpoints", n, i)
		}
		time.Sleep(10 * time.Millisecond)
		p.checkpoint(0, 1)
		if c := p.lastCovered(); c.N != p.epoch || c.Frames == 0 || c.Bytes == 0 || c.Longest < 10*time.Millisecond {
			t.Errorf("checkpoint %d says that it has let out %+v", p.epoch, c)
		}
		waitFor(t, "the answer", func() bool { return got() == 2+i })
	}
	after := p.proxy[0].Stats()
	if after.Agreed != before.Agreed || after.Covered < before.Covered+5 || after.Described != before.Described || after.Mirrored != before.Mirrored {
		t.Errorf("stats %+v, before %+v: want nothing compared, described or mirrored", after, before)
	}
	p.proxy[0].SetBuffered(false)
	p.checkpoint(0, 1)
	say()
	waitFor(t, "an answer in lock-step again", func() bool { return got() == 7 })
	if s := p.proxy[0].Stats(); s.Agreed <= after.Agreed {
		t.Errorf("nothing was agreed on after the return to lock-step: %+v", s)
	}
	// The loss of the primary in a buffered epoch: nothing of it was heard, so the client asks again.
	p.proxy[0].SetBuffered(true)
	p.checkpoint(0, 1)
	held := p.proxy[0].Stats().Held
	say()
	waitFor(t, "the held answer", func() bool { return p.proxy[0].Stats().Held > held })
	p.must(p.proxy[0].Mute(p.ctx()))
	p.must(p.proxy[1].Promote(p.ctx()))
	for n := got(); got() == n; {
		say()
		time.Sleep(20 * time.Millisecond)
	}
}

// lastCovered is what the last checkpoint told of the output that it has let out.
func (p *pair) lastCovered() (c Covered) {
	for _, e := range p.events[0].list() {
		if e, ok := e.(Covered); ok {
			c = e
		}
	}
	return c
}
