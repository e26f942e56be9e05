// Package pollset waits for some descriptors and a time, as ppoll(2) does, without keeping a thread in the kernel: the
// descriptors are watched by an epoll(7) set, and that set by the Go runtime.
//
// A goroutine that waits in ppoll(2) itself holds one of the runtime's GOMAXPROCS places. The runtime's monitor thread
// (sysmon, runtime/proc.go) takes such places back, and looks every 20 µs for the next one as long as it finds some:
// measured, 2,400 wake-ups a second of a process whose data path waits 1,000 times a second, and 5 % of a processor.
package pollset

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Max is how many descriptors a set holds.
const Max = 64

// Events to wait for. An error or the other end's hanging up is always one of them.
const (
	In  uint32 = unix.EPOLLIN
	Out uint32 = unix.EPOLLOUT
)

// Set waits for descriptors. It belongs to one goroutine.
type Set struct {
	file    *os.File // the epoll set
	raw     syscall.RawConn
	look    func(uintptr) bool
	ep      int
	timer   int
	started time.Time
	armed   time.Duration // when the timer ends, since started; 0: it does not run

	want, have []entry
	events     [Max + 1]unix.EpollEvent
	ready      int // how many of events count
	err        error
}

// entry is a descriptor that is watched.
type entry struct {
	fd     int32
	events uint32
	owner  any
}

// New makes an empty set.
func New() (*Set, error) {
	s := &Set{started: time.Now(), ep: -1, timer: -1}
	var err error
	if s.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if s.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		unix.Close(s.ep)
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	// The runtime watches what does not block only.
	if err = unix.SetNonblock(s.ep, true); err == nil {
		err = unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, s.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.timer)})
	}
	s.file = os.NewFile(uintptr(s.ep), "epoll")
	if err == nil {
		err = s.file.SetReadDeadline(time.Time{}) // fails where the runtime cannot watch it
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	s.look = s.poll // made once: a method value is an allocation
	return s, nil
}

// Close closes the set, not the descriptors in it.
func (s *Set) Close() error {
	unix.Close(s.timer)
	return s.file.Close()
}

// Clear begins a new list of what to wait for.
func (s *Set) Clear() { s.want = s.want[:0] }

// Add adds a descriptor to the list, once. Owner is what the descriptor belongs to, and differs from the owner of any
// descriptor that had the same number before: what is closed leaves an epoll set by itself. It must be comparable.
func (s *Set) Add(fd int, events uint32, owner any) {
	s.want = append(s.want, entry{int32(fd), events, owner})
}

// Wait waits until something of the list is ready or d has passed; d of 0 only looks, below 0 is for ever. It may return
// early with nothing ready.
func (s *Set) Wait(d time.Duration) error {
	s.ready, s.err = 0, nil
	if err := s.sync(); err != nil {
		return err
	}
	if d > 0 {
		if err := s.arm(d); err != nil {
			return err
		}
	}
	if d == 0 {
		s.poll(0)
	} else if err := s.raw.Read(s.look); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	return s.err
}

// Ready says whether a descriptor was found ready by the last Wait.
func (s *Set) Ready(fd int) bool {
	for i := range s.events[:s.ready] {
		if s.events[i].Fd == int32(fd) {
			return true
		}
	}
	return false
}

// Has says whether the last Wait looked at a descriptor.
func (s *Set) Has(fd int) bool {
	for i := range s.have {
		if s.have[i].fd == int32(fd) {
			return true
		}
	}
	return false
}

// poll looks what is ready; false: nothing, wait.
func (s *Set) poll(uintptr) bool {
	n, err := unix.EpollWait(s.ep, s.events[:], 0)
	if err == unix.EINTR {
		return true
	}
	if err != nil {
		s.err = os.NewSyscallError("epoll_wait", err)
		return true
	}
	s.ready = n
	if n > 0 && s.Ready(s.timer) {
		var ticks [8]byte
		unix.Read(s.timer, ticks[:])
		s.armed = 0
	}
	return n > 0
}

// arm makes the timer end after d at the latest.
func (s *Set) arm(d time.Duration) error {
	at := time.Since(s.started) + d
	if s.armed != 0 && s.armed <= at {
		return nil
	}
	if err := unix.TimerfdSettime(s.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	s.armed = at
	return nil
}

// sync makes the epoll set what the list says.
func (s *Set) sync() error {
	same := len(s.want) == len(s.have)
	for i := 0; same && i < len(s.want); i++ {
		same = s.want[i] == s.have[i]
	}
	if same {
		return nil
	}
	if len(s.want) > Max {
		return fmt.Errorf("wait for %d descriptors: %d are possible", len(s.want), Max)
	}
	for _, h := range s.have {
		if find(s.want, h.fd) == nil {
			// What was closed is not in it any more.
			_ = unix.EpollCtl(s.ep, unix.EPOLL_CTL_DEL, int(h.fd), nil)
		}
	}
	for _, w := range s.want {
		h := find(s.have, w.fd)
		if h != nil && *h == w {
			continue
		}
		op, other := unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_MOD
		if h != nil && h.owner == w.owner {
			op, other = other, op
		}
		ev := unix.EpollEvent{Events: w.events, Fd: w.fd}
		err := unix.EpollCtl(s.ep, op, int(w.fd), &ev)
		if err == unix.EEXIST || err == unix.ENOENT {
			err = unix.EpollCtl(s.ep, other, int(w.fd), &ev)
		}
		if err != nil {
			return fmt.Errorf("watch descriptor %d: %w", w.fd, os.NewSyscallError("epoll_ctl", err))
		}
	}
	s.have = append(s.have[:0], s.want...)
	return nil
}

func find(list []entry, fd int32) *entry {
	for i := range list {
		if list[i].fd == fd {
			return &list[i]
		}
	}
	return nil
}
