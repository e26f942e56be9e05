package proxy

import (
	"fmt"

	"colod/internal/frame"
	"colod/proxy/inputlog"
)

// toLog remembers, on the primary, which client bytes are on their way to the input log of the other side: clients may be
// told that they arrived when that has them.
type toLog struct {
	q    []toldInput
	head int
	done uint64 // answered, since the link began
}

// toldInput is a range of a client's stream.
type toldInput struct {
	key      frame.FlowKey
	seq, end frame.Num
}

// sent notes input that was put on the link as msgInputTold.
func (t *toLog) sent(p *frame.Parsed) {
	if t.head > 1024 && t.head > len(t.q)/2 {
		t.q = t.q[:copy(t.q, t.q[t.head:])]
		t.head = 0
	}
	t.q = append(t.q, toldInput{p.Key(false), p.Seq, p.SegEnd()})
}

// arrived takes the other side's word that it has dealt with the first n, and gives out those that it had not before;
// ranges that follow each other are given as one.
func (t *toLog) arrived(n uint64, give func(*toldInput)) error {
	if n < t.done || n-t.done > uint64(len(t.q)-t.head) {
		return fmt.Errorf("%d inputs are said to be logged, of %d sent", n, t.done+uint64(len(t.q)-t.head))
	}
	var in *toldInput
	for ; t.done < n; t.done++ {
		next := &t.q[t.head]
		t.head++
		if in != nil && in.key == next.key && in.end == next.seq {
			in.end = next.end
			continue
		}
		if in != nil {
			give(in)
		}
		in = next
	}
	if in != nil {
		give(in)
	}
	if t.head == len(t.q) {
		t.q, t.head = t.q[:0], 0
	}
	return nil
}

// owed is input that clients were told to have arrived when this node's guest was the secondary: after a takeover
// nobody but this node can give it to the guest.
type owed struct {
	log   *inputlog.Log
	since int64
}

// owedLongest is how long (ns) protection waits for a guest to take what it is owed. A guest that has closed a connection
// without a word takes nothing more of it.
const owedLongest = int64(20e9)

// owe gives the guest all input that it has not acknowledged, rewritten for good into its own space, and remembers what
// of it clients were told of.
func (s *secondary) owe(p *Proxy) {
	var pd frame.Parsed
	s.log.Promoted()
	s.log.Replay(p.nowMono, func(buf []byte) {
		frame.Parse(buf, &pd)
		s.inject(p, pd.Key(false), &pd, buf)
		p.stats.Replayed++
	})
	p.tapTX.flush(p)
	if s.log.Owed() > 0 {
		p.owed = &owed{s.log, p.nowMono}
	}
}

// owedAck notes what the guest says that it has.
func (p *Proxy) owedAck(pd *frame.Parsed) {
	if pd.Kind != frame.KindTCP {
		return
	}
	key := pd.Key(true)
	if pd.Flags&frame.ACK != 0 {
		p.owed.log.GuestAcked(key, pd.Ack)
	}
	if pd.Flags&frame.RST != 0 {
		p.owed.log.GuestReset(key)
	}
}

// giveAgain gives the guest what nobody else will send: on a secondary what the log says, after a takeover what is owed.
func (p *Proxy) giveAgain() {
	if s := p.sec; s != nil && p.role == roleSecondary && !s.inCkpt && !s.inputHeld && s.log.Bytes() > 0 {
		var pd frame.Parsed
		s.log.Again(p.nowMono, func(buf []byte) {
			f := p.pool.get(len(buf))
			if f == nil {
				return
			}
			copy(f.Buf, buf) // the log keeps the client's space
			frame.Parse(f.Buf, &pd)
			s.inject(p, pd.Key(false), &pd, f.Buf)
			p.tapTX.flush(p)
			p.stats.Replayed++
			p.pool.put(f)
		})
	}
	if p.owed == nil {
		return
	}
	n := p.owed.log.Owed()
	late := p.pri != nil && p.pri.arm != nil && p.nowMono-p.owed.since > owedLongest
	if late {
		p.log.Warn().Int("frames", n).Msg("the guest does not take input that clients were told of; it is given up")
	}
	if n == 0 || late || p.tapTX == nil {
		p.owed = nil
		if p.pri != nil {
			p.pri.mayArm()
		}
		return
	}
	p.owed.log.Again(p.nowMono, func(buf []byte) {
		p.tapTX.add(nil, buf, nil)
		p.stats.Replayed++
	})
	p.tapTX.flush(p)
}
