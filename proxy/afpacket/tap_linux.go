package afpacket

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rwfNowait (RWF_NOWAIT, linux/fs.h) makes one read fail with EAGAIN rather than wait, whatever the descriptor's flags.
const rwfNowait = 0x8

// DrainTap throws away every frame that waits in a tap's queue for its reader, and returns how many there were. fd is
// a descriptor of the tap, or a duplicate of another process's (pidfd_getfd(2)): reading never waits and the flags,
// which the duplicate shares with the original, are left alone. The other process may read at the same time.
//
// A node does this to the tap of a VM that stood still: what queued up meanwhile has been counted as input already.
func DrainTap(fd int) (frames int, err error) {
	buf := make([]byte, BufSize)
	iov := [][]byte{buf}
	// A reader that is fast enough could go on for ever under traffic: the queue itself is never longer than this.
	const limit = 1 << 20
	for frames < limit {
		_, err := unix.Preadv2(fd, iov, -1, rwfNowait)
		if errors.Is(err, unix.EOPNOTSUPP) {
			_, err = readNonblocking(fd, buf)
		}
		switch {
		case err == nil:
			frames++
		case errors.Is(err, unix.EAGAIN):
			return frames, nil
		case errors.Is(err, unix.EINTR):
		default:
			return frames, fmt.Errorf("drain tap: %w", err)
		}
	}
	return frames, nil
}

// readNonblocking reads from a descriptor if it is known not to wait (kernels before 5.12 have no RWF_NOWAIT on taps).
func readNonblocking(fd int, buf []byte) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, err
	}
	if flags&unix.O_NONBLOCK == 0 {
		return 0, errors.New("the descriptor waits for frames and this kernel cannot read without waiting")
	}
	return unix.Read(fd, buf)
}

// Offloads which the reader of a tap can take (TUNSETOFFLOAD): frames of up to 64 KiB which the reader would have to
// cut, and checksums which it would have to complete.
const (
	OffloadCsum = unix.TUN_F_CSUM
	OffloadTSO  = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
)

// OpenTap attaches to the tap of that name as its reader, with the virtio-net header and one queue as QEMU does it
// (vnet_hdr=on), and creates a tap that vanishes at Close where there is none. Offload is a set of the Offload
// constants, 0 for none. The file is nonblocking and serves Read and Write of one frame each, behind Go's poller.
// A tap that another process reads is refused with EBUSY.
func OpenTap(name string, offload int) (*os.File, error) {
	fail := func(op string, err error) (*os.File, error) {
		return nil, &Error{Op: "attach to tap", Device: name, Err: fmt.Errorf("%s: %w", op, err)}
	}
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open "+path, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return fail("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload); err != nil {
		unix.Close(fd)
		return fail("TUNSETOFFLOAD", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
