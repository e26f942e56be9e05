package afpacket

import (
	"golang.org/x/sys/unix"
)

// TX is a socket that sends frames out of one device. It belongs to one goroutine and receives nothing.
type TX struct {
	fd      int
	device  string
	ifindex int
	stats   TXStats
	refused [MaxBatch]int // indices into the last batch
	nref    int
	msgs    [MaxBatch]mmsghdr
	iovs    [MaxBatch][2]unix.Iovec
}

// OpenTX opens a sending socket on a device. The frames pass tc's egress filters of the device and are seen, as
// outgoing, by receiving sockets on it.
func OpenTX(ifname string) (*TX, error) {
	fail := func(err error) (*TX, error) {
		return nil, &Error{Op: "open sending socket on", Device: ifname, Err: err}
	}
	fd, err := packetSocket()
	if err != nil {
		return fail(err)
	}
	t := &TX{fd: fd, device: ifname}
	if err = setBuf(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, 0); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	for i := range t.msgs {
		t.msgs[i].hdr.Iov = &t.iovs[i][0]
	}
	if t.ifindex, err = bindTo(fd, ifname, 0); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return t, nil
}

// FD is the socket, for poll(2): writable when there is room for a frame.
func (t *TX) FD() int { return t.fd }

// Ifindex is the index of the device that the socket was opened on.
func (t *TX) Ifindex() int { return t.ifindex }

// Stats returns the counters.
func (t *TX) Stats() TXStats { return t.stats }

// Close closes the socket. Frames that were sent still leave.
func (t *TX) Close() error {
	if t.fd < 0 {
		return nil
	}
	err := unix.Close(t.fd)
	t.fd = -1
	return err
}

// Send sends the frames in order without waiting. It returns how many of them, from the front, are done with: sent,
// or refused by the kernel each alone (counted in TXStats.Refused, listed by Refused). The rest is to be given again
// once FD is writable. A full device or socket is no error.
//
// An error is of type *Error and concerns the socket, not a frame: ErrDown (the caller may give the rest again when
// the device is up) or ErrGone.
func (t *TX) Send(msgs []Msg) (int, error) {
	t.nref = 0
	done := 0
	for done < len(msgs) {
		n := min(len(msgs)-done, MaxBatch)
		for i, m := range msgs[done : done+n] {
			t.set(i, m)
		}
		off := 0
		for off < n {
			sent, e := sendmmsg(t.fd, t.msgs[off:n])
			switch e {
			case 0:
				for i := off; i < off+sent; i++ {
					t.stats.Bytes += uint64(t.msgs[i].len)
				}
				t.stats.Frames += uint64(sent)
				off += sent
				continue
			case unix.EINTR:
				continue
			case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
				t.stats.Full++
				return done + off, nil
			case unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.EBADF, unix.ENOTSOCK:
				return done + off, deviceError("send to", t.device, t.fd, e)
			}
			t.refuse(done+off, e)
			off++
		}
		done += n
	}
	return done, nil
}

// set makes message i of the batch carry m.
func (t *TX) set(i int, m Msg) {
	v := &t.iovs[i]
	k := 0
	if len(m.A) > 0 {
		v[k].Base = &m.A[0]
		v[k].SetLen(len(m.A))
		k++
	}
	if len(m.B) > 0 {
		v[k].Base = &m.B[0]
		v[k].SetLen(len(m.B))
		k++
	}
	t.msgs[i].hdr.SetIovlen(k)
}

// refuse counts a frame that the kernel refused alone.
func (t *TX) refuse(index int, e unix.Errno) {
	switch e {
	case unix.EMSGSIZE:
		t.stats.Refused.TooLong++
	case unix.EINVAL:
		t.stats.Refused.Invalid++
	default:
		t.stats.Refused.Other++
	}
	t.stats.Refused.Last = e.Error()
	if t.nref < len(t.refused) {
		t.refused[t.nref] = index
		t.nref++
	}
}

// Refused lists the indices of the frames which the kernel refused in the last call of Send, at most MaxBatch of them.
// The slice is valid until the next call.
func (t *TX) Refused() []int { return t.refused[:t.nref] }
