package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/netconn"
)

const (
	pipeSize = 1 << 20 // bytes in flight in a splice pipe; the default of unprivileged users' limit
	copySize = 256 << 10
	// recordSize is the most that one of TLS's records holds (RFC 8446, 5.1).
	recordSize = 16 << 10
)

// pumpForward moves the forward stream until its end (nil) or an error.
func (r *Relay) pumpForward(to, from net.Conn) error {
	src, ok1 := from.(syscall.Conn)
	dst, ok2 := to.(syscall.Conn)
	if ok1 && ok2 && !r.opt.Copy { // TLS is none
		moved, err := r.splice(dst, src)
		if moved || !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return r.copy(to, from)
}

// splice moves bytes between two sockets through a pipe, in the kernel. moved is false if it never
// got anything across, so that copying can be tried instead.
func (r *Relay) splice(to, from syscall.Conn) (moved bool, err error) {
	src, err := from.SyscallConn()
	if err != nil {
		return false, err
	}
	dst, err := to.SyscallConn()
	if err != nil {
		return false, err
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return false, unix.EINVAL // short of descriptors: copy instead
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pipeSize) // smaller is slower, no more

	for {
		n, err := spliceOnce(src.Read, func(fd int) (int64, error) {
			return unix.Splice(fd, nil, p[1], nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		})
		if err != nil {
			return moved, err
		}
		if n == 0 {
			return true, nil
		}
		if !moved {
			moved = true
			r.spliced.Store(true)
		}
		// Counted before it is passed on, so that no answer can come before the count.
		r.forward.Add(uint64(n))
		r.track.sawForward(time.Now())
		r.writing.Store(true)
		for n > 0 {
			m, err := spliceOnce(dst.Write, func(fd int) (int64, error) {
				return unix.Splice(p[0], nil, fd, nil, int(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			if err != nil {
				return moved, err
			}
			n -= m
		}
		r.writing.Store(false)
	}
}

// spliceOnce waits in the runtime's poller, by wait, until op does not say "try again".
func spliceOnce(wait func(func(uintptr) bool) error, op func(fd int) (int64, error)) (n int64, err error) {
	werr := wait(func(fd uintptr) bool {
		for {
			n, err = op(int(fd))
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return false
			}
			return true
		}
	})
	if werr != nil {
		return 0, werr
	}
	return n, err
}

// copy moves bytes through our own memory, each piece as soon as it is there.
func (r *Relay) copy(to, from net.Conn) error {
	buf := make([]byte, copySize)
	out, in := netconn.RecordsOf(to), netconn.RecordsOf(from)
	if t, ok := to.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil { // done already as a rule
			return err
		}
	}
	for {
		n, err := from.Read(buf)
		for in != nil && err == nil && len(buf)-n >= recordSize && in.Whole() {
			var more int
			more, err = from.Read(buf[n:]) // does not wait: the record is here
			n += more
		}
		if n > 0 {
			r.forward.Add(uint64(n))
			r.track.sawForward(time.Now())
			r.writing.Store(true)
			err := pass(to, out, buf[:n])
			r.writing.Store(false)
			if err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// pass writes b, all records of it together where the connection is TLS.
func pass(to net.Conn, out *netconn.Records, b []byte) error {
	if out == nil {
		_, err := to.Write(b)
		return err
	}
	out.Hold()
	if _, err := to.Write(b); err != nil {
		return err
	}
	return out.Flush()
}

// pumpBack moves the back channel, reading what it says, all of it: also what cannot be passed on any more.
func (r *Relay) pumpBack(to io.Writer, from io.Reader) error {
	buf := make([]byte, 4096)
	var broken error
	for {
		n, err := from.Read(buf)
		if n > 0 {
			r.track.sawBack(time.Now(), buf[:n], r.opt.OnCheckpoint)
			if broken == nil {
				if _, broken = to.Write(buf[:n]); broken != nil {
					r.end(fmt.Errorf("back: %w", broken)) // QEMU's end is shut down by this: the reading ends
				}
			}
		}
		switch {
		case broken != nil && err != nil:
			return broken
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
