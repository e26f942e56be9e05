package afpacket

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2): the compiler pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// recvmmsg receives up to len(v) messages without waiting. RawSyscall6 is right because MSG_DONTWAIT never sleeps:
// the scheduler need not hand the processor over, which is worth about 100 ns a call.
func recvmmsg(fd int, v []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// sendmmsg sends up to len(v) messages without waiting.
func sendmmsg(fd int, v []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// getsockopt reads a socket option that is a structure into *p of the given size.
func getsockopt(fd, level, name int, p unsafe.Pointer, size uintptr) error {
	l := uint32(size)
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(p),
		uintptr(unsafe.Pointer(&l)), 0)
	if e != 0 {
		return e
	}
	if uintptr(l) < size {
		return fmt.Errorf("kernel returned %d of %d bytes", l, size)
	}
	return nil
}

// packetSocket opens a packet socket with virtio-net headers, bound to nothing yet: with protocol 0 it receives no
// frame of any device until it is bound.
func packetSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return -1, fmt.Errorf("create packet socket: %w (run as root or with CAP_NET_RAW)", err)
		}
		return -1, fmt.Errorf("create packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set PACKET_VNET_HDR: %w", err)
	}
	return fd, nil
}

// setBuf sets the size of a socket's buffer, beyond the system's limit where the process may (CAP_NET_ADMIN).
func setBuf(fd, force, plain, size int) error {
	if size == 0 {
		size = DefaultBuf
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
}

// bindTo binds a packet socket to a device and a protocol in host byte order.
func bindTo(fd int, ifname string, proto uint16) (ifindex int, err error) {
	dev, err := net.InterfaceByName(ifname)
	if err != nil {
		return 0, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	ll := unix.SockaddrLinklayer{Ifindex: dev.Index, Protocol: proto<<8 | proto>>8}
	if err := unix.Bind(fd, &ll); err != nil {
		return 0, explain(err)
	}
	return dev.Index, nil
}

// explain adds ErrDown or ErrGone to an errno that means it.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w (%w)", ErrDown, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w (%w)", ErrGone, err)
	}
	return err
}

// deviceError reports an error of a bound socket. The kernel says ENETDOWN both when a device goes down and when it
// is deleted; in the second case the socket is bound to no device any more.
func deviceError(op, device string, fd int, e unix.Errno) error {
	err := explain(e)
	if e == unix.ENETDOWN {
		if sa, e2 := unix.Getsockname(fd); e2 == nil {
			if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Ifindex <= 0 {
				err = fmt.Errorf("%w (%w)", ErrGone, e)
			}
		}
	}
	return &Error{Op: op, Device: device, Err: err}
}
