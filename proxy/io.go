package proxy

import (
	"errors"
	"fmt"

	"colod/compare"
	"colod/internal/frame"
	"colod/proxy/afpacket"
)

// rxBatch is how many frames one system call takes at most, and how many a turn
// handles before it looks at the other sources.
const rxBatch = afpacket.MaxBatch

// rxFirst is how many buffers of 64 KiB and more a data path has until a batch has needed more.
const rxFirst = 4

// moreBuffers makes room for n more frames in a batch.
func (p *Proxy) moreBuffers(n int) {
	for range min(n, p.rxMost-len(p.rxBufs)) {
		p.rxBufs = append(p.rxBufs, make([]byte, bigBuf))
		p.rxMeta = append(p.rxMeta, afpacket.Meta{})
	}
}

// recv takes the frames that wait in r.
func (p *Proxy) recv(r *rx) (int, error) {
	n, err := r.Recv(p.rxBufs, p.rxMeta)
	if n == len(p.rxBufs) {
		p.moreBuffers(n)
	}
	return n, err
}

// rx is a receiving socket with what this package has to remember of it.
type rx struct {
	Receiver
	inputToo bool  // it sees input as well
	since    int64 // frames of before (ns, CLOCK_REALTIME) were handled by somebody else
	lost     uint32
}

// outq collects what a turn sends out of one device.
type outq struct {
	tx   Sender
	msgs []afpacket.Msg
	// after[i] goes back to the pool when msgs[i] is sent; nil: nothing does.
	after []*compare.Frame
}

func (q *outq) pending() bool { return len(q.msgs) > 0 }

// add queues a frame made of head and payload. Both must stay unchanged until flush has sent them.
func (q *outq) add(head, payload []byte, after *compare.Frame) {
	q.msgs = append(q.msgs, afpacket.Msg{A: head, B: payload})
	q.after = append(q.after, after)
}

// maxUnsent bounds the frames that wait for a device that takes none.
const maxUnsent = 4096

// flush sends what the device takes. What it does not take now stays queued.
func (q *outq) flush(p *Proxy) {
	done := 0
	for done < len(q.msgs) {
		n, err := q.tx.Send(q.msgs[done:])
		for _, i := range q.tx.Refused() {
			p.stats.Refused++
			m := &q.msgs[done+i]
			p.few.Warn().Hex("head", m.A[:min(len(m.A), 80)]).Int("head_len", len(m.A)).Int("payload_len", len(m.B)).Msg("the kernel refuses a frame")
		}
		for i := done; i < done+n; i++ {
			if f := q.after[i]; f != nil {
				p.pool.put(f)
			}
		}
		done += n
		if err != nil {
			p.stats.SendErrors++
			if p.stats.SendErrors&(p.stats.SendErrors-1) == 0 { // 1, 2, 4, 8...: no flood of lines
				p.log.Warn().Err(err).Uint64("errors", p.stats.SendErrors).Msg("send a frame")
			}
			if n == 0 {
				break
			}
			continue
		}
		if n == 0 {
			break
		}
	}
	for len(q.msgs)-done > maxUnsent {
		if f := q.after[done]; f != nil {
			p.pool.put(f)
		}
		p.stats.SendErrors++
		done++
	}
	if done == len(q.msgs) {
		clear(q.msgs)
		clear(q.after)
		q.msgs, q.after = q.msgs[:0], q.after[:0]
		return
	}
	// The heads lie in memory that the next turn uses again.
	k := copy(q.msgs, q.msgs[done:])
	copy(q.after, q.after[done:])
	q.msgs, q.after = q.msgs[:k], q.after[:k]
	for i := range q.msgs {
		q.msgs[i].A = append([]byte(nil), q.msgs[i].A...)
		if q.after[i] == nil {
			q.msgs[i].B = append([]byte(nil), q.msgs[i].B...)
		}
	}
}

// openTap opens the socket on the tap, unless there is one that sees enough.
func (p *Proxy) openTap(inputToo bool) error {
	if p.tapRX != nil && (p.tapRX.inputToo || !inputToo) {
		return nil
	}
	r, err := p.dev.OpenRX(p.opt.Tap, afpacket.Options{IgnoreOutgoing: !inputToo})
	if err != nil {
		return err
	}
	fresh := &rx{Receiver: r, inputToo: inputToo}
	if p.tapRX != nil {
		// The new socket sees all from its opening on; the old one has the rest.
		fresh.since = p.dev.Realtime()
		p.drainTap()
		p.tapRX.Close()
	}
	p.tapRX = fresh
	return nil
}

func (p *Proxy) openTapTX() error {
	if p.tapTX != nil {
		return nil
	}
	tx, err := p.dev.OpenTX(p.opt.Tap)
	if err == nil {
		p.tapTX = &outq{tx: tx}
	}
	return err
}

func (p *Proxy) openUplinkTX() error {
	if p.upTX != nil {
		return nil
	}
	tx, err := p.dev.OpenTX(p.opt.Uplink)
	if err == nil {
		p.upTX = &outq{tx: tx}
	}
	return err
}

func (p *Proxy) openUplinkRX() error {
	if p.upRX != nil {
		return nil
	}
	r, err := p.dev.OpenRX(p.opt.Uplink, afpacket.Options{IgnoreOutgoing: true})
	if err == nil {
		p.upRX = &rx{Receiver: r}
	}
	return err
}

func (p *Proxy) closeUplinkRX() {
	if p.upRX != nil {
		p.upRX.Close()
		p.upRX = nil
	}
}

func (p *Proxy) closeSockets() {
	if p.tapRX != nil {
		p.tapRX.Close()
		p.tapRX = nil
	}
	p.closeUplinkRX()
	for _, q := range []**outq{&p.tapTX, &p.upTX} {
		if *q != nil {
			(*q).flush(p)
			(*q).tx.Close()
			*q = nil
		}
	}
}

// take moves frame i of the batch into a buffer of the pool. Small frames are
// copied, large ones change places with a fresh buffer.
func (p *Proxy) take(i int) *compare.Frame {
	m := &p.rxMeta[i]
	f := p.pool.get(m.Len)
	if f == nil {
		return nil
	}
	if m.Len <= smallBuf {
		copy(f.Buf, p.rxBufs[i][:m.Len])
	} else {
		f.Buf, p.rxBufs[i] = p.rxBufs[i][:m.Len], f.Buf[:cap(f.Buf)]
	}
	f.KTime = m.KTime
	return f
}

// readTap handles one batch of what the guest sent and, for a primary, of what it was sent.
func (p *Proxy) readTap() bool {
	if p.tapRX == nil || p.throttled() {
		return false
	}
	n, err := p.recv(p.tapRX)
	if err != nil {
		p.deviceError(err)
	}
	var pd frame.Parsed
	for i := range n {
		m := &p.rxMeta[i]
		if m.KTime < p.tapRX.since {
			continue
		}
		if m.Lost != p.tapRX.lost {
			lost := uint64(m.Lost - p.tapRX.lost)
			p.tapRX.lost = m.Lost
			p.stats.OutputLost += lost
			p.opt.Events(OutputLost{Frames: lost})
		}
		if m.Outgoing {
			if p.role == rolePrimary {
				buf := p.rxBufs[i][:m.Len]
				frame.Parse(buf, &pd)
				p.pri.input(p, m.KTime, buf, &pd)
			}
			continue
		}
		f := p.take(i)
		if f == nil {
			p.stats.OutputLost++
			p.opt.Events(OutputLost{Frames: 1})
			continue
		}
		frame.Parse(f.Buf, &f.P)
		p.addrs.learn(&f.P)
		if p.owed != nil {
			p.owedAck(&f.P)
		}
		switch p.role {
		case rolePrimary:
			p.pri.engine.Primary(p.nowMono, f)
		case roleSecondary:
			p.sec.output(p, f)
		case roleSolo:
			p.releaseAlone(f)
		default:
			p.pool.put(f)
		}
	}
	return n > 0
}

// drainTap handles all that waits in the tap's socket.
func (p *Proxy) drainTap() {
	for p.readTap() {
	}
}

// readUplink handles one batch of what clients sent, where the kernel does not pass it on.
func (p *Proxy) readUplink() bool {
	if p.upRX == nil {
		return false
	}
	n, err := p.recv(p.upRX)
	if err != nil {
		p.deviceError(err)
	}
	for i := range n {
		if m := &p.rxMeta[i]; m.KTime >= p.upRX.since {
			p.inputByUs(p.rxBufs[i][:m.Len])
		}
	}
	if n > 0 && p.tapTX != nil {
		// The buffers are used again by the next batch.
		p.tapTX.flush(p)
	}
	return n > 0
}

// tapFrames takes all that the guest has sent and that waits in the tap's socket.
func (p *Proxy) tapFrames() (all []*compare.Frame) {
	for {
		n, err := p.recv(p.tapRX)
		for i := range n {
			m := &p.rxMeta[i]
			if m.Outgoing || m.KTime < p.tapRX.since {
				continue
			}
			f := p.take(i)
			if f == nil {
				p.stats.OutputLost++
				continue
			}
			frame.Parse(f.Buf, &f.P)
			all = append(all, f)
		}
		if n == 0 || err != nil {
			return all
		}
	}
}

// readUplinkUntil is readUplink for frames of before at.
func (p *Proxy) readUplinkUntil(at int64) bool {
	n, err := p.recv(p.upRX)
	if err != nil {
		return false
	}
	for i := range n {
		if m := &p.rxMeta[i]; m.KTime < at && m.KTime >= p.upRX.since {
			p.inputByUs(p.rxBufs[i][:m.Len])
		}
	}
	p.tapTX.flush(p)
	return n > 0
}

// inputByUs gives a client's frame to the guest, rewritten where its connection needs it; an orphan gives it
// to the other node's guest.
func (p *Proxy) inputByUs(buf []byte) {
	var pd frame.Parsed
	frame.Parse(buf, &pd)
	p.front.In(p.nowMono, buf, &pd)
	if p.role != roleOrphan {
		p.tapTX.add(nil, buf, nil)
	} else if p.link != nil && p.link.backlog() < softBacklog {
		p.link.input(msgInput, p.nowReal, buf)
		p.stats.Mirrored++
		p.stats.MirroredBytes += uint64(len(buf))
	}
}

// deviceError handles what a packet socket complains of.
func (p *Proxy) deviceError(err error) {
	if errors.Is(err, afpacket.ErrDown) {
		return // it serves again when the device is up
	}
	p.stats.SendErrors++
	if p.stats.SendErrors&(p.stats.SendErrors-1) == 0 {
		p.log.Error().Err(err).Msg("read frames")
	}
}

// releaseAlone sends a frame of a guest that runs unprotected.
func (p *Proxy) releaseAlone(f *compare.Frame) {
	p.front.Out(p.nowMono, f.Buf, &f.P, f.P.Len())
	p.stats.Alone++
	p.countRelease(len(f.Buf))
	p.upTX.add(nil, f.Buf, f)
}

func (p *Proxy) countRelease(n int) {
	p.stats.ReleasedFrames++
	p.stats.ReleasedBytes += uint64(n - frame.VnetLen)
}

// announce tells switches and neighbours where the guest is now.
func (p *Proxy) announce() {
	if len(p.opt.MAC) != 6 {
		return
	}
	p.announceLater()
	mac := p.opt.MAC
	// Whether or not it is known what addresses the guest has: it may have been silent.
	p.upTX.add(nil, frame.ReverseARP(mac), nil)
	for ip := range p.addrs.v4 {
		p.upTX.add(nil, frame.GratuitousARP(mac, ip), nil)
		p.upTX.add(nil, frame.GratuitousARPReply(mac, ip), nil)
	}
	for ip := range p.addrs.v6 {
		p.upTX.add(nil, frame.UnsolicitedNA(mac, ip), nil)
	}
	p.upTX.flush(p)
}

// announceAgain are the times (ns) after a takeover, or after the other node is heard again, at which the guest's address is
// announced again: a last repetition of the former speaker may have drawn it back to its port of a switch.
var announceAgain = [...]int64{200e6, 500e6, 1e9, 2e9, 5e9, 10e9}

// Announce announces the guest's address now and several times in the next seconds, while this node speaks alone. It
// belongs where the other node is heard again.
func (p *Proxy) Announce() {
	p.post(func() {
		p.nowMono = p.dev.Monotonic()
		p.announceLater()
		if p.role == roleSolo {
			p.announceNow()
		}
	})
}

// announceLater begins the repetitions anew.
func (p *Proxy) announceLater() { p.announceFrom, p.announced = p.nowMono, 0 }

// announceDue sends a repetition that is due.
func (p *Proxy) announceDue() {
	if p.role != roleSolo || p.announceFrom == 0 {
		return
	}
	if p.announced == len(announceAgain) {
		p.announceFrom = 0
		return
	}
	if p.nowMono-p.announceFrom < announceAgain[p.announced] {
		return
	}
	p.announced++
	p.announceNow()
}

// announceNow sends what needs no address of the guest, in any mode of the path.
func (p *Proxy) announceNow() {
	if len(p.opt.MAC) != 6 {
		return
	}
	had := p.upTX != nil
	if err := p.openUplinkTX(); err != nil {
		p.few.Warn().Err(err).Msg("announce the guest's address")
		return
	}
	p.upTX.add(nil, frame.ReverseARP(p.opt.MAC), nil)
	p.upTX.flush(p)
	if !had && !p.upTX.pending() {
		p.upTX.tx.Close()
		p.upTX = nil
	}
}

func roleError(want string, r role) error {
	return fmt.Errorf("%s while %s: %w", want, r, ErrRole)
}
