package netfilter_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"colod/internal/netnstest"
	"colod/netfilter"
	"colod/proxy/afpacket"
)

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const guestMAC = "52:54:00:12:34:56"

// site is a host with a bridge, a client behind the bridge, and a guest behind the path's tap.
type site struct {
	host, client, guest *netnstest.NS
	config              netfilter.Config
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{host: netnstest.New(t, "host"), client: netnstest.New(t, "client"), guest: netnstest.New(t, "guest")}
	netnstest.Veth(s.client, "eth0", s.host, "port0")
	s.host.Bridge("br0", "port0")
	s.client.Addr("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.config = netfilter.Config{Bridge: "br0", Tap: "vm0", Uplink: "vm0up", Owner: "guest1", Dir: t.TempDir()}
	return s
}

// open opens the path; it is removed when the test ends.
func (s *site) open(t testing.TB) *netfilter.Path {
	t.Helper()
	var p *netfilter.Path
	s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (s *site) vm(t testing.TB) *netnstest.VM {
	t.Helper()
	return netnstest.NewVM(s.host, s.guest, netnstest.VMConfig{Tap: s.config.Tap, MAC: guestMAC,
		Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
}

func setMode(t testing.TB, p *netfilter.Path, m netfilter.Mode) {
	t.Helper()
	if err := p.SetMode(m); err != nil {
		t.Fatal(err)
	}
	if p.Mode() != m {
		t.Fatalf("mode is %v after SetMode(%v)", p.Mode(), m)
	}
	if err := p.Verify(); err != nil {
		t.Fatal(err)
	}
}

// connected is a TCP connection from one namespace to a server in another: the client's end and the server's.
func connected(t testing.TB, from, to *netnstest.NS, addr string) [2]net.Conn {
	t.Helper()
	l := to.Listen(net.JoinHostPort(addr, "0"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	srv, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return [2]net.Conn{c, srv}
}

// exchange sends size random bytes each way over a TCP connection from one namespace to a server in another.
func exchange(t testing.TB, from, to *netnstest.NS, addr string, size int64) {
	t.Helper()
	ends := connected(t, from, to, addr)
	sums := make(chan string, 4)
	for i, c := range ends {
		c.SetDeadline(time.Now().Add(2 * patience))
		go func() {
			h := sha256.New()
			_, err := io.CopyN(io.MultiWriter(c, h), rand.NewChaCha8([32]byte{byte(i)}), size)
			sums <- fmt.Sprintf("%x %v", h.Sum(nil), err)
		}()
		go func() {
			h := sha256.New()
			_, err := io.CopyN(h, c, size)
			sums <- fmt.Sprintf("%x %v", h.Sum(nil), err)
		}()
	}
	count := map[string]int{}
	for range 4 {
		count[<-sums]++
	}
	for sum, n := range count {
		if n != 2 || !strings.HasSuffix(sum, " <nil>") {
			t.Fatalf("what was sent and received: %v", count)
		}
	}
}

// TestPassCarriesRealTCP sends TCP with offloads through the kernel's path, both families and both ways of opening.
func TestPassCarriesRealTCP(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	s.vm(t)
	setMode(t, p, netfilter.Pass)
	for _, a := range []string{"192.0.2.2", "2001:db8::2"} {
		exchange(t, s.client, s.guest, a, 4<<20)
	}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		exchange(t, s.guest, s.client, a, 4<<20)
	}
}

// forward releases what the guest sends, as the proxy does, until the test ends. both carries the other direction too.
func forward(t testing.TB, s *site, p *netfilter.Path, both bool) (big func() int) {
	t.Helper()
	type leg struct {
		rx *afpacket.RX
		tx *afpacket.TX
	}
	pairs := [][2]string{{p.Tap(), p.Uplink()}, {p.Uplink(), p.Tap()}}
	if !both {
		pairs = pairs[:1]
	}
	var mu sync.Mutex
	count := 0
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, d := range pairs {
		var l leg
		s.host.Must(func() (err error) {
			if l.rx, err = afpacket.OpenRX(d[0], afpacket.Options{IgnoreOutgoing: true}); err == nil {
				l.tx, err = afpacket.OpenTX(d[1])
			}
			return err
		})
		wg.Go(func() {
			bufs, meta, msgs := make([][]byte, 64), make([]afpacket.Meta, 64), make([]afpacket.Msg, 64)
			for i := range bufs {
				bufs[i] = make([]byte, afpacket.BufSize)
			}
			for {
				select {
				case <-stop:
					l.rx.Close()
					l.tx.Close()
					return
				default:
				}
				n, err := l.rx.Recv(bufs, meta)
				if err != nil {
					t.Error(err)
					return
				}
				if n == 0 {
					unix.Poll([]unix.PollFd{{Fd: int32(l.rx.FD()), Events: unix.POLLIN}}, 20)
					continue
				}
				for i := range n {
					msgs[i].A = bufs[i][:meta[i].Len]
					if meta[i].Len > 2048 {
						mu.Lock()
						count++
						mu.Unlock()
					}
				}
				for off := 0; off < n; {
					k, err := l.tx.Send(msgs[off:n])
					if err != nil {
						t.Error(err)
						return
					}
					off += k
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); wg.Wait() })
	return func() int { mu.Lock(); defer mu.Unlock(); return count }
}

// TestStolenTrafficReleased is the proxy's way with real TCP: whole segments, both families, tagged and plain guests.
func TestStolenTrafficReleased(t *testing.T) {
	const q, ad = unix.ETH_P_8021Q << 16, unix.ETH_P_8021AD << 16
	for _, c := range []struct {
		name string
		tags []uint32
		mode netfilter.Mode
	}{
		{"Steal", nil, netfilter.Steal},
		{"StealBoth", nil, netfilter.StealBoth},
		{"Steal 802.1Q", []uint32{q | 5}, netfilter.Steal},
		{"StealBoth QinQ", []uint32{ad | 5, q | 9}, netfilter.StealBoth},
		{"Pass QinQ", []uint32{ad | 5, q | 9}, netfilter.Pass},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			p := s.open(t)
			// The client tags too, so it is a stand-in on a port of the bridge.
			far := netnstest.New(t, "far")
			netnstest.NewVM(s.host, far, netnstest.VMConfig{Tap: "port1", MAC: "52:54:00:00:00:01",
				Addrs: []string{"192.0.2.3/24", "2001:db8::3/64"}, Tags: c.tags})
			s.host.Quiet("port1")
			s.host.Up("port1")
			if err := s.host.Netlink().LinkSetMaster(s.host.Device("port1"), s.host.Device("br0")); err != nil {
				t.Fatal(err)
			}
			netnstest.NewVM(s.host, s.guest, netnstest.VMConfig{Tap: "vm0", MAC: guestMAC,
				Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}, Tags: c.tags})
			big := func() int { return 1 }
			if c.mode != netfilter.Pass {
				big = forward(t, s, p, c.mode == netfilter.StealBoth)
			}
			setMode(t, p, c.mode)
			for _, a := range []string{"192.0.2.2", "2001:db8::2"} {
				exchange(t, far, s.guest, a, 4<<20)
			}
			if big() == 0 {
				t.Error("no frame over 2 KiB was carried: segments do not stay whole")
			}
		})
	}
}

// snapshot is what a host looks like, for before and after.
func snapshot(t testing.TB, s *site) string {
	t.Helper()
	var b strings.Builder
	links, err := s.host.Netlink().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		a := l.Attrs()
		ipv6 := ""
		s.host.Must(func() error {
			text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + a.Name + "/disable_ipv6")
			ipv6 = strings.TrimSpace(string(text))
			return err
		})
		fmt.Fprintf(&b, "%d %s %s mtu %d qlen %d master %d up %v alias %q ipv6 off %s\n", a.Index, a.Name, l.Type(), a.MTU, a.TxQLen, a.MasterIndex, a.Flags&net.FlagUp != 0, a.Alias, ipv6)
		qdiscs, err := s.host.Netlink().QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				fmt.Fprintf(&b, "  clsact\n")
			}
		}
	}
	files, err := os.ReadDir(s.config.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		fmt.Fprintf(&b, "file %s\n", f.Name())
	}
	return b.String()
}

func TestNewPath(t *testing.T) {
	s := newSite(t)
	s.host.MTU("port0", 1400)
	s.host.MTU("br0", 1400)
	before := snapshot(t, s)
	p := s.open(t)
	if p.Mode() != netfilter.Mute {
		t.Errorf("a new path is in mode %v, want mute", p.Mode())
	}
	for _, name := range []string{"vm0", "vm0up", "vm0upbr"} {
		l := s.host.Device(name)
		a := l.Attrs()
		if a.MTU != 1400 || a.Alias != "colod:guest1" || a.Flags&net.FlagUp == 0 {
			t.Errorf("%s: MTU %d, alias %q, flags %v", name, a.MTU, a.Alias, a.Flags)
		}
		addrs, err := s.host.Netlink().AddrList(l, netlink.FAMILY_ALL)
		if err != nil || len(addrs) != 0 {
			t.Errorf("%s has addresses %v, %v", name, addrs, err)
		}
		s.host.Must(func() error {
			text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
			if string(text) != "1\n" {
				t.Errorf("%s: disable_ipv6 is %q", name, text)
			}
			return err
		})
	}
	tap := s.host.Device("vm0").(*netlink.Tuntap)
	if tap.TxQLen != netfilter.TxQueueLen || tap.NonPersist || tap.Flags&netlink.TUNTAP_VNET_HDR == 0 || tap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		t.Errorf("tap: %+v", tap)
	}
	if mtu := s.host.Device("br0").Attrs().MTU; mtu != 1400 {
		t.Errorf("the bridge's MTU became %d", mtu)
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, s); after != before {
		t.Errorf("the path left a trace. Before:\n%sAfter:\n%s", before, after)
	}
	if err := p.SetMode(netfilter.Pass); err == nil {
		t.Error("a removed path takes a mode")
	}
	if err := errors.Join(p.Remove(), p.Detach()); err != nil {
		t.Error(err)
	}
}

// TestExistingTap takes over a tap that an operator made, and gives it back as it was.
func TestExistingTap(t *testing.T) {
	s := newSite(t)
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "vm0"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	s.host.Must(func() error { return s.host.Netlink().LinkAdd(tap) })
	nl := s.host.Netlink()
	if err := errors.Join(nl.LinkSetMTU(tap, 1450), nl.LinkSetTxQLen(tap, 777), nl.LinkSetAlias(tap, "tap of guest1")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, s)
	p := s.open(t)
	s.vm(t)
	setMode(t, p, netfilter.Pass)
	exchange(t, s.client, s.guest, "192.0.2.2", 1<<20)
	if a := s.host.Device("vm0").Attrs(); a.Alias != "colod:guest1:adopted" || a.TxQLen != netfilter.TxQueueLen || a.MTU != 1500 {
		t.Errorf("adopted tap: %+v", a)
	}
	// A new process takes it over once more; what stood there before our time is not forgotten.
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	p = s.open(t)
	if p.Mode() != netfilter.Pass {
		t.Errorf("mode is %v", p.Mode())
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, s); after != before {
		t.Errorf("the tap is not what it was. Before:\n%sAfter:\n%s", before, after)
	}
}

// TestRestartGoesUnnoticed keeps a connection busy while the path changes hands.
func TestRestartGoesUnnoticed(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	s.vm(t)
	setMode(t, p, netfilter.Pass)
	done := make(chan struct{})
	go func() {
		defer close(done)
		exchange(t, s.client, s.guest, "192.0.2.2", 64<<20)
	}()
	for range 10 {
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
		s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
		if p.Mode() != netfilter.Pass {
			t.Fatalf("mode is %v", p.Mode())
		}
	}
	<-done
	for _, m := range []netfilter.Mode{netfilter.Steal, netfilter.Mute} {
		setMode(t, p, m)
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
		s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
		if p.Mode() != m {
			t.Errorf("mode is %v, want %v", p.Mode(), m)
		}
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
}

// TestDevicesGoneAndBack deletes each device under a path that is at work.
func TestDevicesGoneAndBack(t *testing.T) {
	for _, c := range []struct {
		name, device string
		detected     error
		again        error // of Open, while it is missing
	}{
		{"tap", "vm0", netfilter.ErrGone, nil},
		{"uplink", "vm0up", nil, nil},
		{"port", "vm0upbr", nil, nil},
		{"bridge", "br0", netfilter.ErrMissing, netfilter.ErrMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			p := s.open(t)
			setMode(t, p, netfilter.Pass)
			s.host.Delete(c.device)
			err := p.Verify()
			if err == nil || c.detected != nil && !errors.Is(err, c.detected) {
				t.Errorf("verify: %v", err)
			}
			t.Log(err)
			if c.device == "vm0" {
				if err := p.SetMode(netfilter.Steal); !errors.Is(err, netfilter.ErrGone) || p.Mode() != 0 {
					t.Errorf("set mode: %v, mode %v", err, p.Mode())
				}
			}
			if err := p.Detach(); err != nil {
				t.Fatal(err)
			}
			if c.again != nil {
				s.host.Must(func() error {
					if _, err := netfilter.Open(s.config); !errors.Is(err, c.again) {
						t.Errorf("open without %s: %v", c.device, err)
					}
					return nil
				})
				s.host.Bridge("br0", "port0")
			}
			p = s.open(t)
			s.vm(t)
			setMode(t, p, netfilter.Pass)
			exchange(t, s.client, s.guest, "192.0.2.2", 1<<20)
		})
	}
}

// TestRedirectToDeletedDeviceDrops checks what the package comment says of it.
func TestRedirectToDeletedDeviceDrops(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	setMode(t, p, netfilter.Pass)
	s.vm(t)
	s.host.Delete("vm0up")
	if err := p.SetMode(netfilter.Steal); err != nil { // the tap is there: its hook closes
		t.Fatal(err)
	}
	if err := p.Verify(); !errors.Is(err, netfilter.ErrMissing) && err == nil {
		t.Error("the path is said to be whole")
	}
}

// TestTapDropsAreCounted fills the queue of a guest that does not read.
func TestTapDropsAreCounted(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	tap, err := openTap(s)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	setMode(t, p, netfilter.StealBoth)
	var tx *afpacket.TX
	s.host.Must(func() (err error) { tx, err = afpacket.OpenTX(p.Tap()); return err })
	defer tx.Close()
	const more = 500
	for i := range uint64(netfilter.TxQueueLen + more) {
		if n, err := tx.Send([]afpacket.Msg{{A: numbered(i)}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	waiting, err := 0, error(nil)
	conn, _ := tap.SyscallConn()
	conn.Control(func(fd uintptr) { waiting, err = afpacket.DrainTap(int(fd)) })
	drops, err2 := p.TapDrops()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if waiting < netfilter.TxQueueLen-1 || waiting+int(drops) != netfilter.TxQueueLen+more {
		t.Errorf("%d frames waited, %d were lost, of %d", waiting, drops, netfilter.TxQueueLen+more)
	}
}

// TestPortGetsAllMulticast checks the flag by which a bridge that listens to group membership passes multicast on to a
// guest that has not spoken yet.
func TestPortGetsAllMulticast(t *testing.T) {
	s := newSite(t)
	s.open(t)
	out, err := s.host.Run("ip", "-d", "link", "show", "vm0upbr")
	if err != nil || !strings.Contains(out, "mcast_router 2") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestForeignFilterLater checks that somebody's later filter is noticed and left.
func TestForeignFilterLater(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	s.ip(t, "tc", "filter", "add", "dev", "vm0", "ingress", "prio", "9", "bpf", "da", "bytecode", "1,6 0 0 0")
	if err := p.Verify(); !errors.Is(err, netfilter.ErrForeign) {
		t.Errorf("verify: %v", err)
	}
	for _, m := range []netfilter.Mode{netfilter.Pass, netfilter.Steal} {
		if err := p.SetMode(m); err != nil {
			t.Error(err)
		}
	}
	out, err := s.host.Run("tc", "filter", "show", "dev", "vm0", "ingress")
	if err != nil || !strings.Contains(out, "pref 9 bpf") {
		t.Errorf("the filter is gone: %s %v", out, err)
	}
	if err := p.SetMode(99); err == nil || p.Mode() != netfilter.Steal {
		t.Errorf("mode 99: %v, mode is %v", err, p.Mode())
	}
}

func TestModeNames(t *testing.T) {
	var got []string
	for m := range netfilter.Mode(6) {
		got = append(got, m.String())
	}
	if want := []string{"mode 0", "pass", "steal", "steal-both", "mute", "mode 5"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestManyCallers uses one path from many goroutines, for the race detector.
func TestManyCallers(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 25 {
				if err := p.SetMode(netfilter.Mode((i+k)%4 + 1)); err != nil {
					t.Error(err)
				}
				if m := p.Mode(); m < netfilter.Pass || m > netfilter.Mute {
					t.Errorf("mode %v", m)
				}
				if err := p.Verify(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkSetMode(b *testing.B) {
	s := newSite(b)
	p := s.open(b)
	for b.Loop() {
		for _, m := range []netfilter.Mode{netfilter.Pass, netfilter.Steal} {
			if err := p.SetMode(m); err != nil {
				b.Fatal(err)
			}
		}
	}
}
