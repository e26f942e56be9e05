package afpacket

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soRxqOvfl (SO_RXQ_OVFL, asm-generic/socket.h) makes the kernel deliver, with each frame, how many were lost before it.
const soRxqOvfl = unix.SO_RXQ_OVFL

// controlLen is room for the control messages of one frame: time stamp, auxiliary data, loss count (32+40+24 bytes).
const controlLen = 128

// RX is a socket that receives the frames of one device. It belongs to one goroutine.
type RX struct {
	fd      int
	device  string
	ifindex int
	stats   RXStats
	lost    uint32 // newest loss count of SO_RXQ_OVFL
	used    int    // headers which the last call has written to
	msgs    [MaxBatch]mmsghdr
	iovs    [MaxBatch]unix.Iovec
	names   [MaxBatch]unix.RawSockaddrLinklayer
	control [MaxBatch][controlLen]byte
}

// OpenRX opens a receiving socket on a device. It sees every frame that comes in from the device, before tc's ingress
// filters, and (unless o says otherwise) every frame that the host sends out of it, after tc's egress filters, in the
// order in which the kernel handles them.
func OpenRX(ifname string, o Options) (*RX, error) {
	fail := func(err error) (*RX, error) {
		return nil, &Error{Op: "open receiving socket on", Device: ifname, Err: err}
	}
	fd, err := packetSocket()
	if err != nil {
		return fail(err)
	}
	r := &RX{fd: fd, device: ifname}
	on := []struct{ level, name int }{
		{unix.SOL_PACKET, unix.PACKET_AUXDATA},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS},
		{unix.SOL_SOCKET, soRxqOvfl},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING},
	}
	if !o.IgnoreOutgoing {
		on = on[:3]
	}
	for _, s := range on {
		if err = unix.SetsockoptInt(fd, s.level, s.name, 1); err != nil {
			unix.Close(fd)
			return fail(err)
		}
	}
	if err = setBuf(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, o.RcvBuf); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	for i := range r.msgs {
		h := &r.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.control[i][0]
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
	}
	r.used = MaxBatch
	if r.ifindex, err = bindTo(fd, ifname, unix.ETH_P_ALL); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return r, nil
}

// FD is the socket, for poll(2): readable when a frame waits or an error is pending.
func (r *RX) FD() int { return r.fd }

// Ifindex is the index of the device that the socket was opened on.
func (r *RX) Ifindex() int { return r.ifindex }

// Stats returns the counters.
func (r *RX) Stats() RXStats { return r.stats }

// Close closes the socket.
func (r *RX) Close() error {
	if r.fd < 0 {
		return nil
	}
	err := unix.Close(r.fd)
	r.fd = -1
	return err
}

// Recv takes up to min(len(bufs), len(meta), MaxBatch) waiting frames: frame i goes to bufs[i], what is known of it to
// meta[i]. It returns 0 and no error when none waits. A buffer should be BufSize bytes long; 4 bytes of it are kept
// free for a VLAN tag. The socket keeps a reference to the buffers until the next call, but writes only during Recv.
//
// An error is of type *Error. After ErrDown the socket goes on when the device is up again; after ErrGone it is of no
// more use. Frames received before the error are returned by the same or an earlier call, without error.
func (r *RX) Recv(bufs [][]byte, meta []Meta) (int, error) {
	n := min(len(bufs), len(meta), MaxBatch)
	for {
		for i := range r.used {
			h := &r.msgs[i].hdr
			h.Namelen = unix.SizeofSockaddrLinklayer
			h.SetControllen(controlLen)
			h.Flags = 0
		}
		r.used = 0
		k := 0
		for k < n && len(bufs[k]) > TagLen {
			v := &r.iovs[k]
			v.Base = &bufs[k][0]
			v.SetLen(len(bufs[k]) - TagLen)
			k++
		}
		if k == 0 {
			return 0, nil
		}
		got, e := recvmmsg(r.fd, r.msgs[:k])
		switch e {
		case 0:
			r.used = got
			for i := range got {
				r.take(i, bufs[i], &meta[i])
			}
			return got, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		case unix.EINVAL:
			// net/packet/af_packet.c packet_rcv_vnet: no virtio-net header exists for the frame, and it is thrown away.
			r.stats.Undescribed++
		default:
			return 0, deviceError("receive from", r.device, r.fd, e)
		}
	}
}

// take fills in the meta data of message i and puts a VLAN tag back.
func (r *RX) take(i int, buf []byte, m *Meta) {
	msg := &r.msgs[i]
	*m = Meta{
		Len:       int(msg.len),
		Outgoing:  r.names[i].Pkttype == unix.PACKET_OUTGOING,
		Truncated: msg.hdr.Flags&unix.MSG_TRUNC != 0,
	}
	r.parseControl(r.control[i][:min(uint64(msg.hdr.Controllen), controlLen)], m)
	if m.KTime == 0 {
		m.KTime = time.Now().UnixNano()
	}
	if m.Truncated {
		r.stats.Truncated++
	}
	if m.VLAN != 0 {
		m.Len = InsertTag(buf, m.Len, m.VLAN)
		r.stats.Tagged++
	}
	m.Lost = r.lost
	r.stats.Frames++
	r.stats.Bytes += uint64(m.Len)
}

// parseControl reads the control messages of one frame (recvmsg(2), packet(7) "struct tpacket_auxdata").
func (r *RX) parseControl(b []byte, m *Meta) {
	const head = unix.SizeofCmsghdr
	for len(b) >= head {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		l := uint64(h.Len)
		if l < head || l > uint64(len(b)) {
			return
		}
		data := b[head:l]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			m.KTime = (*unix.Timespec)(unsafe.Pointer(&data[0])).Nano()
		case h.Level == unix.SOL_SOCKET && h.Type == soRxqOvfl && len(data) >= 4:
			lost := binary.NativeEndian.Uint32(data)
			r.lost = lost
		case h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && len(data) >= 20:
			status := binary.NativeEndian.Uint32(data)
			if status&unix.TP_STATUS_VLAN_VALID != 0 {
				tpid := uint32(unix.ETH_P_8021Q)
				if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
					tpid = uint32(binary.NativeEndian.Uint16(data[18:]))
				}
				m.VLAN = tpid<<16 | uint32(binary.NativeEndian.Uint16(data[16:]))
			}
		}
		next := unix.CmsgSpace(int(l - head))
		if next >= len(b) {
			return
		}
		b = b[next:]
	}
}

// Drops returns how many frames the kernel has thrown away for want of room in the socket since the last call
// (PACKET_STATISTICS, which the kernel resets at each reading). Read it at least each time Recv has run empty: what is
// lost after the last received frame is known by no other way.
func (r *RX) Drops() (uint32, error) {
	var s unix.TpacketStats
	if err := getsockopt(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s)); err != nil {
		return 0, &Error{Op: "read the loss count of", Device: r.device, Err: err}
	}
	r.stats.Lost += uint64(s.Drops)
	return s.Drops, nil
}

// Probe says whether the kernel and this process's rights allow what the sockets of this package need. It opens a socket
// on the loopback device and closes it again.
func Probe() error {
	rx, err := OpenRX("lo", Options{})
	if err != nil {
		return err
	}
	defer rx.Close()
	if _, err := rx.Drops(); err != nil {
		return err
	}
	tx, err := OpenTX("lo")
	if err != nil {
		return err
	}
	return tx.Close()
}
