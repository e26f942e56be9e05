package qmp

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/netnstest"
	"colod/qmp/relay"
)

// makeTap makes a persistent tap in the namespace, as package netfilter does, and a packet socket on it.
func makeTap(t testing.TB, ns *netnstest.NS, name string) (sniff int) {
	t.Helper()
	if err := ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ns.Up(name)
	if err := ns.Do(func() (err error) {
		if sniff, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return unix.Bind(sniff, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index}) // ETH_P_ALL
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sniff) })
	return sniff
}

func launchWithTap(t testing.TB, ns *netnstest.NS, name, tap string, incoming bool) (*VM, error) {
	t.Helper()
	cfg := loadedConfig(t, name)
	cfg.Tap, cfg.MAC = tap, "52:54:00:12:34:56"
	var v *VM
	err := ns.Do(func() (err error) {
		v, err = Launch(testContext(t, 30*time.Second), cfg, incoming)
		return err
	})
	if err == nil {
		endAtCleanup(t, v)
	}
	return v, err
}

func TestRealTap(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	ns := netnstest.New(t, "node")
	makeTap(t, ns, "vm0")
	sniff := makeTap(t, ns, "vm1")
	p, err := launchWithTap(t, ns, "p", "vm0", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.TapFD("vm0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ifr, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, ifr); err != nil || ifr.Name() != "vm0" || ifr.Uint16()&unix.IFF_VNET_HDR == 0 {
		t.Errorf("duplicate is %q, flags %#x, %v", ifr.Name(), ifr.Uint16(), err)
	}
	if _, err := p.TapFD("vm1"); err == nil || !strings.Contains(err.Error(), "duplicate tap vm1 of process") {
		t.Errorf("a tap it does not have: %v", err)
	}
	// A busy tap and one that is not there: QEMU's words reach the operator.
	for tap, want := range map[string]string{"vm0": "busy", "nosuch": "nosuch"} {
		if _, err := launchWithTap(t, ns, "x", tap, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("tap %s: %v", tap, err)
		}
	}

	// A takeover sends nothing from the guest's NIC that the guest did not send.
	s, err := launchWithTap(t, ns, "s", "vm1", true)
	if err != nil {
		t.Fatal(err)
	}
	x := protect(t, p, s, relay.Options{})
	for range 3 {
		if _, err := p.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
	}
	killNow(t, p)
	x.cut()
	survive(t, s)
	works(t, s)
	time.Sleep(100 * time.Millisecond) // QEMU's first announcement would come at once, the second after 50 ms
	buf := make([]byte, 2000)
	for {
		n, from, err := unix.Recvfrom(sniff, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		mac := []byte{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && n >= 12 && bytes.Equal(buf[6:12], mac) {
			t.Errorf("QEMU sent a frame of its own: %x", buf[:n])
		}
	}
}
