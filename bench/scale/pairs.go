package scale

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"colod/bench/datapath"
	"colod/bench/rig"
	"colod/internal/conntest"
	"colod/internal/frame"
	"colod/internal/netnstest"
	"colod/netfilter"
	"colod/proxy"
)

// Load of the busy phase: echo requests to every pair.
const (
	echoEvery = 20 * time.Millisecond
	hold      = 3 * time.Second // longer than any hiccup: stand-ins cannot be checkpointed
)

// node has many pairs' data paths on one host: primaries and secondaries, each on a thread and a bridge's ports of its own,
// each guest a network stack behind a tap.
type node struct {
	t            *rig.TB
	client, host *netnstest.NS
	paths        []*proxy.Proxy
	guests       [][4]byte
	diverged     atomic.Int64
	why          atomic.Pointer[string]
	rss          int64 // bytes of the process before the data paths
}

type pathMode struct{ p *netfilter.Path }

func (a pathMode) SetMode(m proxy.Mode) error { return a.p.SetMode(netfilter.Mode(m)) }

// newNode makes n pairs, in lock-step.
func newNode(t *rig.TB, n int) *node {
	x := &node{t: t, client: netnstest.New(t, "client"), host: netnstest.New(t, "host")}
	netnstest.Veth(x.client, "eth0", x.host, "lan")
	x.client.Quiet("eth0")
	x.client.Addr("eth0", "192.0.2.1/24")
	x.host.Bridge("br0", "lan")
	peer := netnstest.New(t, "peer")
	netnstest.Veth(x.host, "rep", peer, "rep")
	x.host.Addr("rep", "198.51.100.1/24")
	peer.Addr("rep", "198.51.100.2/24")
	conf := conntest.TLS(t)
	clientMAC := x.client.Device("eth0").Attrs().HardwareAddr.String()
	var paths [][2]*netfilter.Path
	for i := range n {
		mac, ip := fmt.Sprintf("52:54:00:c0:%02x:0d", i), net.IPv4(192, 0, 2, byte(10+i)).To4()
		x.guests = append(x.guests, [4]byte(ip))
		x.neighbour(x.client, "eth0", ip.String(), mac)
		var two [2]*netfilter.Path
		for k := range two {
			side := fmt.Sprintf("%c%d", 'a'+k, i)
			guest, dir := netnstest.New(t, "guest-"+side), t.TempDir()
			x.host.Must(func() (err error) {
				two[k], err = netfilter.Open(netfilter.Config{Bridge: "br0", Tap: "tap" + side, Uplink: "up" + side, Owner: "scale-" + side, Dir: dir})
				return err
			})
			t.Cleanup(func() {
				if err := x.host.Do(two[k].Remove); err != nil {
					t.Errorf("remove the path of %s: %v", side, err)
				}
			})
			netnstest.NewVM(x.host, guest, netnstest.VMConfig{Tap: "tap" + side, MAC: mac, Addrs: []string{ip.String() + "/24"}})
			x.neighbour(guest, netnstest.GuestDevice, "192.0.2.1", clientMAC)
		}
		paths = append(paths, two)
	}
	x.rss = resident()
	for i := range n {
		var two [2]*proxy.Proxy
		for k := range two {
			two[k] = x.open(i, k, paths[i][k])
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		a, b := datapath.Link(ctx, t, x.host, peer, conf)
		s := proxy.Session{TapFD: -1}
		rand.Read(s.Key[:])
		t.Must(two[0].Solo(ctx))
		t.Must(two[1].StartSecondary(ctx, b, s))
		t.Must(two[0].StartPrimary(ctx, a, s))
		t.Must(two[0].BeginCheckpoint(ctx, 1))
		now := time.Now()
		two[1].SecondaryStopped(now)
		two[0].Stopped(1, now)
		two[1].SecondaryResumed(time.Now())
		t.Must(two[0].EndCheckpoint(ctx, 1, time.Now()))
		cancel()
	}
	return x
}

// open opens the data path of side k of pair i.
func (x *node) open(i, k int, path *netfilter.Path) *proxy.Proxy {
	side := fmt.Sprintf("%c%d", 'a'+k, i)
	p, err := proxy.Open(proxy.Options{
		Pair: "scale", Tap: "tap" + side, Uplink: "up" + side, MAC: net.HardwareAddr{0x52, 0x54, 0, 0xc0, byte(i), 0x0d}, Path: pathMode{path},
		HoldMin: hold, HoldMax: hold,
		In: x.host.Do, CountCPU: true,
		Log: zerolog.Nop(), Events: x.event,
	})
	x.t.Must(err)
	x.t.Cleanup(func() { p.Close() })
	x.paths = append(x.paths, p)
	return p
}

// event counts divergences of what is measured; what the stand-ins' kernels say on their own does not start in the same
// instant.
func (x *node) event(e proxy.Event) {
	if d, ok := e.(proxy.Diverged); ok && d.Key.Kind != frame.KindND && d.Key.Kind != frame.KindGroup && d.Key.Kind != frame.KindARP {
		x.diverged.Add(1)
		why := fmt.Sprintf("%s in %s", d.Reason, d.Key)
		x.why.CompareAndSwap(nil, &why)
	}
}

func (x *node) neighbour(ns *netnstest.NS, dev, ip, mac string) {
	_, err := ns.Run("ip", "neighbour", "replace", ip, "lladdr", mac, "dev", dev, "nud", "permanent")
	x.t.Must(err)
}

// nodeSample is what a data path costs a pair, both sides together.
type nodeSample struct {
	cpu    float64 // % of one CPU
	wakes  float64 // 1/s
	frames float64 // echo replies a second that came, all pairs
}

// watch looks at the data paths' threads for a while.
func (x *node) watch(each time.Duration, busy bool) nodeSample {
	var replies func() float64
	stop := func() {}
	if busy {
		stop, replies = x.echo()
		time.Sleep(200 * time.Millisecond)
		replies()
	}
	cpu, wakes, began := x.used()
	time.Sleep(each)
	cpu2, wakes2, now := x.used()
	var s nodeSample
	took := now.Sub(began).Seconds()
	pairs := float64(len(x.guests))
	s.cpu, s.wakes = 100*(cpu2-cpu).Seconds()/took/pairs, float64(wakes2-wakes)/took/pairs
	if busy {
		s.frames = replies() / took
	}
	stop()
	return s
}

// used is the processor time that the data paths' turns took, and how many turns there were.
func (x *node) used() (cpu time.Duration, turns int64, at time.Time) {
	for _, p := range x.paths {
		s := p.Stats()
		cpu, turns = cpu+s.CPU, turns+int64(s.Turns)
	}
	return cpu, turns, time.Now()
}

// echo sends echo requests to all guests until it is stopped; replies counts those that have come since the last call.
func (x *node) echo() (stop func(), replies func() float64) {
	var fd int
	x.client.Must(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	x.t.Must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}))
	x.t.Must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20))
	var got atomic.Int64
	end, sent, read := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 2048)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err == nil && n > 28 && buf[20] == 0 { // an echo reply behind 20 bytes of IPv4
				got.Add(1)
			}
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	go func() {
		defer close(sent)
		t := time.NewTicker(echoEvery)
		defer t.Stop()
		msg := make([]byte, 64)
		msg[0] = 8
		for seq := uint16(1); ; seq++ {
			binary.BigEndian.PutUint16(msg[6:], seq)
			binary.BigEndian.PutUint16(msg[2:], 0)
			var sum uint32
			for i := 0; i < len(msg); i += 2 {
				sum += uint32(binary.BigEndian.Uint16(msg[i:]))
			}
			sum = sum>>16 + sum&0xffff
			binary.BigEndian.PutUint16(msg[2:], ^uint16(sum+sum>>16))
			for _, ip := range x.guests {
				unix.Sendto(fd, msg, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: ip}) // what does not fit is missing in the replies
			}
			select {
			case <-end:
				return
			case <-t.C:
			}
		}
	}()
	return func() { close(end); <-sent; <-read; unix.Close(fd) }, func() float64 { return float64(got.Swap(0)) }
}

// resident is the process's memory (bytes).
func resident() int64 {
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}
