package afpacket

import (
	"time"

	"golang.org/x/sys/unix"
)

// Settle waits until every frame which any processor was handling when it was called has been handled to its end. A
// change of tc rules works at once for frames that come later, and not for those under way. It takes a grace period of
// RCU, some milliseconds to some tens of them, and does not load the machine.
func Settle() {
	// membarrier(2): the global command is one grace period (kernel/sched/membarrier.c), and the kernel handles frames
	// inside a read-side section. Machines with nohz_full refuse it.
	const global = 1
	if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); e != 0 {
		time.Sleep(50 * time.Millisecond)
	}
}

// Seam tells, around a change of tc rules that takes frames from the kernel or gives them back, which frames of a tap the
// kernel has carried to the uplink by itself and which it left to the caller. It is a packet socket on the uplink that
// takes note of when frames left.
//
// It is exact because a tap with one queue has one writer, in whose context the kernel does everything: frame i is seen
// on the tap, leaves (or not), and only then frame i+1 is seen on the tap. The times of the two sockets, of one clock,
// therefore order all of it.
//
// From kernel to caller (netfilter: Pass to Steal): open the Seam, then open the receiving socket on the tap or take and
// forget what it has, change the mode, Settle, Poll. Of the frames from the guest seen since, the kernel has carried
// exactly those with KTime <= Last.
//
// From caller to kernel (Steal to Pass): stop sending, open the Seam, change the mode, Settle, take what the tap's socket
// has, Poll. Of the frames from the guest
// the kernel has carried the last one with KTime <= First and all after it; the others are the caller's to send. If First
// is 0, it has carried none.
//
// The caller must send nothing out of the uplink while a Seam is open: it would count as carried by the kernel.
type Seam struct {
	rx          *RX
	bufs        [][]byte
	meta        []Meta
	first, last int64
	frames      uint64
}

// OpenSeam opens a Seam on the uplink.
func OpenSeam(uplink string) (*Seam, error) {
	rx, err := OpenRX(uplink, Options{})
	if err != nil {
		return nil, err
	}
	s := &Seam{rx: rx, bufs: make([][]byte, MaxBatch), meta: make([]Meta, MaxBatch)}
	for i := range s.bufs {
		s.bufs[i] = make([]byte, 64) // the time is all that is wanted
	}
	return s, nil
}

// Poll takes note of the frames that have left so far. Call it now and then while the Seam is open under load, so that
// the socket does not overflow: a loss makes the answer inexact, and Lost tells.
func (s *Seam) Poll() error {
	for {
		n, err := s.rx.Recv(s.bufs, s.meta)
		if err != nil {
			return err
		}
		if n == 0 {
			_, err := s.rx.Drops()
			return err
		}
		for _, m := range s.meta[:n] {
			if !m.Outgoing {
				continue
			}
			if s.first == 0 {
				s.first = m.KTime
			}
			s.last = max(s.last, m.KTime)
			s.frames++
		}
	}
}

// First and Last are the times at which the first and the latest frame left, as of the last Poll, in nanoseconds of
// CLOCK_REALTIME; 0 if none did.
func (s *Seam) First() int64 { return s.first }
func (s *Seam) Last() int64  { return s.last }

// Frames is the number of frames that left.
func (s *Seam) Frames() uint64 { return s.frames }

// Lost is the number of frames that the Seam may have missed.
func (s *Seam) Lost() uint64 { return s.rx.stats.Lost }

// Close ends the Seam.
func (s *Seam) Close() error { return s.rx.Close() }
