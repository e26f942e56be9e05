package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/frame"
)

// Witness reads the guest's frames from ports of a switch and judges them.
type Witness struct {
	fd    int
	ports map[int]string
	done  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	judge   *Judge
	dropped uint64
	err     error
}

// receiveBuffer is the room for frames that were not read yet, in bytes.
const receiveBuffer = 64 << 20

// Linux's numbers (linux/filter.h, linux/if_packet.h).
const (
	skfAdOff       = 0xfffff000
	skfAdPktType   = 4
	skfAdIfIndex   = 8
	packetOutgoing = 4
)

// Open begins to watch. It must be called inside the network namespace of the
// ports; ports names the node behind each. mac is the guest's.
//
// One socket hears all ports, so that the order of frames is the kernel's.
func Open(ports map[string]string, mac string) (*Witness, error) {
	w := &Witness{ports: map[int]string{}, done: make(chan struct{}), ended: make(chan struct{}), judge: NewJudge()}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("watch the switch: %w", err)
	}
	var indexes []int
	for name, node := range ports {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("watch port %s: %w", name, err)
		}
		w.ports[i.Index] = node
		indexes = append(indexes, i.Index)
	}
	// Protocol 0: nothing is received before the filter is there.
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("watch the switch: open packet socket: %w", err)
	}
	if err := w.prepare(filter(indexes, hw)); err != nil {
		unix.Close(w.fd)
		return nil, fmt.Errorf("watch the switch: %w", err)
	}
	go w.run()
	return w, nil
}

func (w *Witness) prepare(code []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("set filter: %w", err)
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("set timestamps: %w", err)
	}
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
		return fmt.Errorf("set time-out: %w", err)
	}
	all := binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], all)
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16(b[:])}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// filter lets in what comes out of a wire into one of the ports and is from the
// guest.
func filter(indexes []int, mac net.HardwareAddr) []unix.SockFilter {
	const (
		ldw = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ldh = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		jeq = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret = unix.BPF_RET | unix.BPF_K
	)
	code := []unix.SockFilter{
		{Code: ldw, K: skfAdOff + skfAdPktType},
		{Code: jeq, K: packetOutgoing, Jt: uint8(5 + len(indexes))}, // to the refusal
		{Code: ldw, K: 6},
		{Code: jeq, K: binary.BigEndian.Uint32(mac[:4]), Jf: uint8(3 + len(indexes))},
		{Code: ldh, K: 10},
		{Code: jeq, K: uint32(binary.BigEndian.Uint16(mac[4:])), Jf: uint8(1 + len(indexes))},
		{Code: ldw, K: skfAdOff + skfAdIfIndex},
	}
	for i, n := range indexes {
		code = append(code, unix.SockFilter{Code: jeq, K: uint32(n), Jt: uint8(len(indexes) - i)})
	}
	return append(code, unix.SockFilter{Code: ret, K: 0}, unix.SockFilter{Code: ret, K: 1 << 18})
}

func (w *Witness) run() {
	defer close(w.ended)
	buf := make([]byte, frame.VnetLen+1<<17)
	oob := make([]byte, 256)
	for {
		n, oobn, _, from, err := unix.Recvmsg(w.fd, buf[frame.VnetLen:], oob, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN):
			select {
			case <-w.done:
				return
			default:
				continue
			}
		case err != nil:
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		at := stamp(oob[:oobn])
		w.mu.Lock()
		if node, ok := w.ports[ll.Ifindex]; ok {
			w.judge.Frame(node, at, buf[:frame.VnetLen+n])
		}
		w.mu.Unlock()
	}
}

// stamp is the kernel's receive time, or now if it gave none.
func stamp(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Report returns the verdict so far.
func (w *Witness) Report() (Report, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		w.dropped += uint64(st.Drops) // reading it starts it anew
	}
	r := w.judge.Report()
	r.Dropped = w.dropped
	return r, w.err
}

// Close ends the watch and returns the verdict.
func (w *Witness) Close() (Report, error) {
	// What has come already is read first: until a read finds nothing.
	close(w.done)
	<-w.ended
	r, err := w.Report()
	return r, errors.Join(err, unix.Close(w.fd))
}
