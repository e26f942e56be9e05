package colocompare

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// outcome is what one comparator did with one trace.
type outcome struct {
	frames      int64 // of the primary, fed
	bytes       int64 // of them, Ethernet
	wall        time.Duration
	asked       int64 // DO_CHECKPOINT
	checkpoints int64 // done for that
	stalls      int64 // checkpoints done because nothing came any more
	reordered   int64 // frames released behind a later one of their flow
	released    int64
	lost        int64 // units that never came
}

const (
	chunk = 256 << 10
	// stall is how long nothing may come before a checkpoint is done unasked; above the comparators' own timeouts.
	stall = 900 * time.Millisecond
	// gone is how long after that what has not come is lost.
	gone = 400 * time.Millisecond
)

// feeder plays both guests and the network to a comparator.
type feeder struct {
	p   *peer
	t   *trace
	out outcome

	sent     [2]int // bytes of the wire
	frame    [2]int // frames wholly or partly in them
	progress int64  // units released in this loop
	high     []uint32
	in       []byte
	have     int
	note     []byte

	pending bool // a checkpoint is wanted
	target  int  // bar at which it is done, -1: not chosen
}

func newFeeder(p *peer, t *trace) *feeder {
	f := &feeder{p: p, t: t, in: make([]byte, 1<<20), high: make([]uint32, t.flows)}
	for i := range f.high {
		switch {
		case t.udp:
			f.high[i] = 0
		case t.acks:
			f.high[i] = firstAck
		default:
			f.high[i] = firstSeq
		}
	}
	return f
}

// loop feeds the trace once and waits until all of it was released.
func (f *feeder) loop(ctx context.Context) error {
	t := f.t
	f.sent, f.frame, f.progress, f.pending, f.target = [2]int{}, [2]int{}, 0, false, -1
	start := time.Now()
	last, forced := start, false
	var set [4]unix.PollFd
	for f.progress < t.units {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i := range set {
			set[i] = unix.PollFd{Fd: int32(f.p.fds[i]), Events: unix.POLLIN}
		}
		for i := range t.side {
			set[i].Events = 0
			if f.limit(i) > f.sent[i] {
				set[i].Events = unix.POLLOUT
			}
		}
		wait := unix.NsecToTimespec(int64(20 * time.Millisecond))
		if f.pending && f.settled() {
			wait = unix.Timespec{Nsec: 50_000} // the peer's reading is not told by poll
		}
		if _, err := unix.Ppoll(set[:], &wait, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for the comparator: %w", err)
		}
		before := f.progress
		if set[2].Revents != 0 {
			if err := f.receive(); err != nil {
				return err
			}
		}
		if set[3].Revents != 0 {
			if err := f.notified(); err != nil {
				return err
			}
		}
		for _, i := range [2]int{1, 0} {
			if set[i].Revents != 0 {
				if err := f.send(i); err != nil {
					return err
				}
			}
		}
		if f.pending && f.settled() && unread(f.p.fds[0]) == 0 && unread(f.p.fds[1]) == 0 {
			if err := f.checkpoint(); err != nil {
				return err
			}
		}
		now := time.Now()
		switch {
		case f.progress != before:
			last, forced = now, false
		case !forced && now.Sub(last) > stall:
			f.out.stalls++
			f.want()
			forced, last = true, now
		case forced && !f.pending && now.Sub(last) > gone:
			told := f.said(0)
			f.out.lost += told - f.progress
			f.progress, last, forced = told, now, false
		}
	}
	f.out.wall += time.Since(start)
	f.out.frames += int64(len(t.side[0].ends))
	f.out.bytes += int64(len(t.side[0].wire) - 4*len(t.side[0].ends))
	t.next()
	return nil
}

// said is the units that side has said in whole frames.
func (f *feeder) said(side int) int64 {
	s := &f.t.side[side]
	n := f.frame[side]
	if n > 0 && s.ends[n-1] > f.sent[side] {
		n--
	}
	if n == len(s.at) {
		return f.t.units
	}
	return s.at[n]
}

// limit is up to where side may send now.
func (f *feeder) limit(side int) int {
	s, t := &f.t.side[side], f.t
	edge := f.progress + t.window
	if side == 1 && t.lag > 0 && !f.pending {
		if said := f.said(0); said < t.units {
			edge = min(edge, said-t.lag)
		}
	}
	n := f.frame[side]
	if f.pending {
		n = max(n, s.bars[f.target])
	} else {
		for n < len(s.at) && s.at[n] < edge {
			n++
		}
	}
	f.frame[side] = n
	if n == 0 {
		return 0
	}
	return s.ends[n-1]
}

// want starts a checkpoint: both guests run on to where they have said the same, and stop.
func (f *feeder) want() {
	if f.pending {
		return
	}
	f.pending = true
	f.target = 0
	for i := range f.t.side {
		for f.t.side[i].bars[f.target] < f.frame[i] {
			f.target++
		}
	}
}

// settled says that both guests have got to where the checkpoint is done.
func (f *feeder) settled() bool {
	for i := range f.t.side {
		s := &f.t.side[i]
		if f.sent[i] < s.ends[s.bars[f.target]-1] {
			return false
		}
	}
	return true
}

// checkpoint tells the comparator that one was done.
func (f *feeder) checkpoint() error {
	const text = "COLO_CHECKPOINT"
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	if n, err := unix.Write(f.p.fds[3], b); err != nil || n != len(b) {
		return fmt.Errorf("tell the comparator of a checkpoint: %w", err)
	}
	f.pending = false
	f.out.checkpoints++
	return nil
}

func (f *feeder) send(side int) error {
	s := &f.t.side[side]
	to := min(f.limit(side), f.sent[side]+chunk)
	if to <= f.sent[side] {
		return nil
	}
	n, err := unix.Write(f.p.fds[side], s.wire[f.sent[side]:to])
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("feed the comparator: %w", err)
	}
	f.sent[side] += n
	return nil
}

var errClosed = errors.New("the comparator closed its socket")

func (f *feeder) receive() error {
	n, err := unix.Read(f.p.fds[2], f.in[f.have:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read from the comparator: %w", err)
	}
	if n == 0 {
		return errClosed
	}
	f.have += n
	b := f.in[:f.have]
	for len(b) >= 4 {
		l := int(binary.BigEndian.Uint32(b))
		if len(b) < 4+l {
			break
		}
		f.take(b[4 : 4+l])
		b = b[4+l:]
	}
	f.have = copy(f.in, b)
	return nil
}

// take looks at a released frame.
func (f *feeder) take(b []byte) {
	t := f.t
	f.out.released++
	if len(b) < offL4+8 {
		return
	}
	flow := int(binary.BigEndian.Uint16(b[offL4+2:])) - firstPort
	if flow < 0 || flow >= t.flows {
		return
	}
	high := &f.high[flow]
	var from, to uint32
	units := 0
	switch {
	case t.udp:
		from = binary.BigEndian.Uint32(b[offL4+8:])
		to, units = from+1, t.size
	case t.acks:
		from = binary.BigEndian.Uint32(b[offL4+8:])
		to = from
	default:
		from = binary.BigEndian.Uint32(b[offL4+4:])
		units = int(binary.BigEndian.Uint16(b[offLen:])) - 20 - int(b[offL4+12]>>4)*4
		to = from + uint32(units)
	}
	d := int32(to - *high)
	if !t.repeats && int32(from-*high) < 0 {
		f.out.reordered++
	}
	if t.repeats || t.acks {
		units = max(0, int(d))
	}
	if d > 0 {
		*high = to
	}
	f.progress += int64(units)
}

func (f *feeder) notified() error {
	var b [4096]byte
	n, err := unix.Read(f.p.fds[3], b[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read notices of the comparator: %w", err)
	}
	if n == 0 {
		return errClosed
	}
	f.note = append(f.note, b[:n]...)
	for len(f.note) >= 4 {
		l := int(binary.BigEndian.Uint32(f.note))
		if len(f.note) < 4+l {
			break
		}
		if string(f.note[4:4+l]) == "DO_CHECKPOINT" {
			f.out.asked++
			f.want()
		}
		f.note = f.note[:copy(f.note, f.note[4+l:])]
	}
	return nil
}
