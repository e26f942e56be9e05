package chardev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"colod/compare"
)

// Options say where the four sockets are and bound the comparator.
//
// An endpoint is "unix:PATH" or "tcp:HOST:PORT", with ",server" behind it to listen instead of connecting.
type Options struct {
	Primary, Secondary, Out string
	Notify                  string // "" for none
	// Vnet says that frames carry a virtio-net header (QEMU's vnet_hdr_support).
	Vnet bool
	// Hold is how long a frame may wait for the secondary; default 3 s, that of QEMU's compare_timeout.
	Hold time.Duration
	// Keep is how many released TCP segments are kept for repetitions by the primary, and of longer ones as many as make
	// 2 KiB times it; default 512. What is kept is memory that the caches do not hold: at 2048 it makes a quarter of the
	// cost of a frame.
	Keep int
	// Flows, Frames and Bytes bound the flow table and what is held on each side; defaults 65536 flows, 16384 frames, 64 MiB.
	Flows, Frames int
	Bytes         int64
	// Diverged, if set, is called with each divergence.
	Diverged func(compare.Divergence)
}

func (o Options) withDefaults() Options {
	if o.Hold <= 0 {
		o.Hold = 3 * time.Second
	}
	if o.Keep <= 0 {
		o.Keep = 512
	}
	if o.Flows <= 0 {
		o.Flows = 65536
	}
	if o.Frames <= 0 {
		o.Frames = 16384
	}
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	return o
}

const (
	doCheckpoint   = "DO_CHECKPOINT"
	coloCheckpoint = "COLO_CHECKPOINT"

	readSize = 256 << 10
	maxIOV   = 1024 // IOV_MAX of Linux
	// maxOut bounds the released frames that wait for the outgoing socket: beyond it nothing is read.
	maxOut = 4096
)

// server is the poll loop.
type server struct {
	*core
	fds      [4]int // primary, secondary, out, notify; -1: none
	rd       [2]*reader
	nrd      *reader
	iovs     []unix.Iovec
	unsent   []byte // of notify
	wakefd   int
	released int // items at the front of out that are sent
}

// Serve connects the sockets and compares until ctx ends or a peer closes one of them, which is no error.
func Serve(ctx context.Context, o Options) (Stats, error) {
	o = o.withDefaults()
	s := &server{core: newCore(o), nrd: newReader(make([]byte, leastBuf), false), iovs: make([]unix.Iovec, 0, maxIOV), fds: [4]int{-1, -1, -1, -1}}
	for i := range s.rd {
		s.rd[i] = newReader(s.pool.arena.take(max(readSize, leastBuf)), o.Vnet)
	}
	defer s.pool.arena.close()
	defer func() {
		for _, fd := range s.fds {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	if err := s.open(ctx, o); err != nil {
		return Stats{}, err
	}
	var err error
	if s.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return Stats{}, os.NewSyscallError("eventfd", err)
	}
	stopped := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(stopped)
		one := [8]byte{1}
		unix.Write(s.wakefd, one[:])
	})
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- s.loop()
	}()
	err = <-done
	if !cancel() {
		<-stopped
	}
	unix.Close(s.wakefd)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return s.stats, err
}

// open connects all sockets; those to listen on are bound before any is waited for.
func (s *server) open(ctx context.Context, o Options) error {
	addrs := [4]string{o.Primary, o.Secondary, o.Out, o.Notify}
	names := [4]string{"primary", "secondary", "out", "notify"}
	var ls [4]net.Listener
	defer func() {
		for _, l := range ls {
			if l != nil {
				l.Close()
			}
		}
	}()
	for i, a := range addrs {
		if a == "" && i == 3 {
			continue
		}
		network, addr, server, err := endpoint(a)
		if err == nil && server {
			ls[i], err = net.Listen(network, addr)
		}
		if err != nil {
			return fmt.Errorf("open the %s socket %q: %w", names[i], a, err)
		}
	}
	stop := context.AfterFunc(ctx, func() {
		for _, l := range ls {
			if l != nil {
				l.Close()
			}
		}
	})
	defer stop()
	for i, a := range addrs {
		if a == "" {
			continue
		}
		var c net.Conn
		var err error
		if ls[i] != nil {
			c, err = ls[i].Accept()
		} else {
			network, addr, _, _ := endpoint(a)
			c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		if err == nil {
			s.fds[i], err = descriptor(c)
		}
		if err != nil {
			return fmt.Errorf("open the %s socket %q: %w", names[i], a, err)
		}
	}
	return nil
}

func endpoint(s string) (network, addr string, server bool, err error) {
	s, opt, has := strings.Cut(s, ",")
	if has && opt != "server" {
		return "", "", false, fmt.Errorf("option %q: only server is known", opt)
	}
	network, addr, ok := strings.Cut(s, ":")
	if !ok || network != "unix" && network != "tcp" || addr == "" {
		return "", "", false, errors.New("an endpoint is unix:PATH or tcp:HOST:PORT")
	}
	return network, addr, has, nil
}

// descriptor takes a nonblocking descriptor of c out of the runtime's poller and closes c.
func descriptor(c net.Conn) (int, error) {
	defer c.Close()
	sc, ok := c.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("a connection of type %T has no descriptor", c)
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dup error
	if err := rc.Control(func(f uintptr) { fd, dup = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dup == nil {
		dup = unix.SetNonblock(fd, true)
	}
	return fd, os.NewSyscallError("fcntl", dup)
}

// loop turns until a socket is closed.
func (s *server) loop() error {
	start := time.Now()
	set := make([]unix.PollFd, 0, 5)
	for {
		set = append(set[:0], unix.PollFd{Fd: int32(s.wakefd), Events: unix.POLLIN})
		full := len(s.out)-s.released > maxOut
		for i, fd := range s.fds {
			var ev int16
			switch {
			case i < 2 && !full:
				ev = unix.POLLIN
			case i == 2 && len(s.out) > s.released:
				ev = unix.POLLOUT
			case i == 3 && len(s.unsent) > 0:
				ev = unix.POLLIN | unix.POLLOUT
			case i == 3:
				ev = unix.POLLIN
			}
			set = append(set, unix.PollFd{Fd: int32(fd), Events: ev})
		}
		now := int64(time.Since(start)) + 2
		if err := poll(set, s.wait(now)); err != nil {
			return os.NewSyscallError("ppoll", err)
		}
		if set[0].Revents != 0 {
			return nil
		}
		now = int64(time.Since(start)) + 2
		s.tick(now)
		// The secondary first: what it has said already need not be waited for.
		for _, i := range [2]int{1, 0} {
			if set[1+i].Revents != 0 && !full {
				if _, err := s.read(now, i); err != nil {
					return err
				}
				if i == 1 {
					s.settle(now) // the primary's frames are compared as they are read, while they are in the cache
				}
			}
		}
		if s.fds[3] >= 0 && set[4].Revents&^unix.POLLOUT != 0 {
			if err := s.notified(now); err != nil {
				return err
			}
		}
		s.settle(now)
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.notify(); err != nil {
			return err
		}
	}
}

func poll(set []unix.PollFd, wait time.Duration) error {
	var ts *unix.Timespec
	if wait >= 0 {
		t := unix.NsecToTimespec(int64(wait))
		ts = &t
	}
	if _, err := unix.Ppoll(set, ts, nil); err != nil && err != unix.EINTR {
		return err
	} else if err == unix.EINTR {
		for i := range set {
			set[i].Revents = 0
		}
	}
	return nil
}

// read takes one read's worth of side i: 0 the primary, 1 the secondary. It returns the bytes read, 0 when there are none.
func (s *server) read(now int64, i int) (int, error) {
	r := s.rd[i]
	n, err := rawIO(unix.SYS_READ, s.fds[i], r.room())
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil
	case err == unix.ECONNRESET || err == 0 && n == 0:
		return 0, io.EOF
	case err != 0:
		return 0, os.NewSyscallError("read", err)
	}
	r.filled(n)
	for {
		b, vnet, err := r.next()
		if err != nil || b == nil {
			return n, err
		}
		if i == 0 {
			s.primary(now, b, vnet)
		} else {
			s.secondary(now, b, vnet)
		}
	}
}

// notified handles what came on the notify socket.
func (s *server) notified(now int64) error {
	n, err := rawIO(unix.SYS_READ, s.fds[3], s.nrd.room())
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err == unix.ECONNRESET || err == 0 && n == 0:
		return io.EOF
	case err != 0:
		return os.NewSyscallError("read", err)
	}
	s.nrd.filled(n)
	for {
		b, _, err := s.nrd.next()
		if err != nil || b == nil {
			return err
		}
		if string(b) != coloCheckpoint {
			continue
		}
		// What both guests sent before they were stopped may still lie in the sockets.
		for _, i := range [2]int{1, 0} {
			for {
				n, err := s.read(now, i)
				if err != nil {
					return err
				}
				if n == 0 {
					break
				}
			}
		}
		s.settle(now)
		s.checkpoint(now)
	}
}

// notify asks for a checkpoint where one is wanted.
func (s *server) notify() error {
	if s.wanted {
		s.wanted = false
		if s.fds[3] >= 0 && len(s.unsent) < 1<<16 {
			s.unsent = binary.BigEndian.AppendUint32(s.unsent, uint32(len(doCheckpoint)))
			s.unsent = append(s.unsent, doCheckpoint...)
		}
	}
	if len(s.unsent) == 0 {
		return nil
	}
	n, err := rawIO(unix.SYS_WRITE, s.fds[3], s.unsent)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err == unix.EPIPE || err == unix.ECONNRESET:
		return io.EOF
	case err != 0:
		return os.NewSyscallError("write", err)
	}
	s.unsent = s.unsent[:copy(s.unsent, s.unsent[n:])]
	return nil
}

// flush sends released frames, as many as the socket takes.
func (s *server) flush() error {
	for s.released < len(s.out) {
		s.iovs = s.iovs[:0]
		for i := s.released; i < len(s.out) && len(s.iovs) < maxIOV; i++ {
			v := unix.Iovec{Base: unsafe.SliceData(s.out[i].a)}
			v.SetLen(len(s.out[i].a))
			s.iovs = append(s.iovs, v)
		}
		r, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(s.fds[2]), uintptr(unsafe.Pointer(&s.iovs[0])), uintptr(len(s.iovs)))
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			return nil
		case e == unix.EPIPE || e == unix.ECONNRESET:
			return io.EOF
		case e != 0:
			return os.NewSyscallError("writev", e)
		}
		for n := int(r); n > 0; {
			it := &s.out[s.released]
			if n < len(it.a) {
				it.a = it.a[n:]
				break
			}
			n -= len(it.a)
			s.pool.put(it.f)
			*it = item{}
			s.released++
		}
	}
	s.out, s.released = s.out[:0], 0
	return nil
}

// rawIO reads or writes without telling the scheduler: the descriptors are nonblocking.
func rawIO(call uintptr, fd int, b []byte) (int, unix.Errno) {
	r, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(r), 0
}
