package netnstest

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"colod/proxy/afpacket"
)

// VM stands in for a virtual machine: it reads and writes a tap of a host as QEMU does, with the virtio-net header
// and every offload, and its "guest" is the network stack of a namespace of its own, behind device eth0. TCP with 64 KiB
// segments and partial checksums is therefore real.
type VM struct {
	host, guest *os.File
	tags        []uint32
	wg          sync.WaitGroup

	mu sync.RWMutex // held by the pumps for reading while a frame is on its way, by Freeze for writing

	// ToHost and ToGuest count the frames carried.
	ToHost, ToGuest atomic.Uint64
}

// GuestDevice is the name of the stand-in guest's network device.
const GuestDevice = "eth0"

// VMConfig describes a stand-in.
type VMConfig struct {
	Tap   string   // the host's tap; made if it does not exist
	MAC   string   // hardware address of the guest
	Addrs []string // addresses of the guest, CIDR
	// Tags are VLAN tags (tag protocol identifier << 16 | tag control information), outermost first, which every frame
	// of the guest carries on the host's side: a guest that tags its frames itself. The guest's MTU is lowered for them.
	Tags []uint32
}

// NewVM attaches a stand-in to a tap of host; its guest lives in the namespace guest. It is detached when the test ends.
func NewVM(host, guest *NS, c VMConfig) *VM {
	host.t.Helper()
	v := &VM{tags: c.Tags}
	host.Must(func() (err error) { v.host, err = afpacket.OpenTap(c.Tap, afpacket.OffloadTSO); return err })
	guest.Must(func() (err error) { v.guest, err = afpacket.OpenTap(GuestDevice, afpacket.OffloadTSO); return err })
	guest.Quiet(GuestDevice)
	guest.MAC(GuestDevice, c.MAC)
	guest.MTU(GuestDevice, 1500-afpacket.TagLen*len(c.Tags))
	guest.Up(GuestDevice)
	guest.Addr(GuestDevice, c.Addrs...)
	v.wg.Add(2)
	go v.pump(v.host, v.guest, v.untag, &v.ToGuest)
	go v.pump(v.guest, v.host, v.tag, &v.ToHost)
	host.t.Cleanup(v.Close)
	return v
}

// File is the descriptor by which the stand-in holds the host's tap.
func (v *VM) File() *os.File { return v.host }

// Freeze stops the stand-in, as SIGSTOP stops QEMU: frames for it pile up in the tap. Thaw lets it go on; it must be
// called before Close.
func (v *VM) Freeze() { v.mu.Lock() }

// Thaw ends Freeze.
func (v *VM) Thaw() { v.mu.Unlock() }

// Close detaches the stand-in from both taps. It may be called twice.
func (v *VM) Close() {
	v.host.Close()
	v.guest.Close()
	v.wg.Wait()
}

// tag puts the VM's tags into a frame, innermost first.
func (v *VM) tag(buf []byte, n int) (int, bool) {
	for i := len(v.tags) - 1; i >= 0; i-- {
		n = afpacket.InsertTag(buf, n, v.tags[i])
	}
	return n, true
}

// untag takes the VM's tags out of a frame; a frame which does not carry them is not for this guest.
func (v *VM) untag(buf []byte, n int) (int, bool) {
	const at = afpacket.VnetLen + 12
	for _, tag := range v.tags {
		if n < at+afpacket.TagLen || binary.BigEndian.Uint32(buf[at:]) != tag {
			return n, false
		}
		copy(buf[at:], buf[at+afpacket.TagLen:n])
		n -= afpacket.TagLen
		if buf[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			lower(buf[6:])
		}
		if buf[1] != unix.VIRTIO_NET_HDR_GSO_NONE {
			lower(buf[2:])
		}
	}
	return n, true
}

func lower(b []byte) { binary.LittleEndian.PutUint16(b, binary.LittleEndian.Uint16(b)-afpacket.TagLen) }

func (v *VM) pump(from, to *os.File, change func([]byte, int) (int, bool), count *atomic.Uint64) {
	defer v.wg.Done()
	buf := make([]byte, afpacket.BufSize)
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	for {
		n := 0
		err := conn.Read(func(fd uintptr) bool {
			v.mu.RLock()
			var e error
			n, e = unix.Read(int(fd), buf)
			v.mu.RUnlock()
			return !errors.Is(e, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if n <= 0 {
			time.Sleep(time.Millisecond) // the device is gone, and the descriptor readable all the time
			continue
		}
		n, ok := change(buf, n)
		if !ok {
			continue
		}
		v.mu.RLock()
		_, err = to.Write(buf[:n])
		v.mu.RUnlock()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		count.Add(1)
	}
}
