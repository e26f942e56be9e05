package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"colod/internal/conntest"
	"colod/internal/frame"
	"colod/internal/netnstest"
	"colod/netfilter"
	"colod/proxy/afpacket"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// pair is two data paths on one host, each with a stand-in for a VM: a real
// network stack behind a real tap. The stand-ins run the same servers. What they
// cannot do is copy their state, so a test arms the pair before it opens connections.
type pair struct {
	t            *testing.T
	client, host *netnstest.NS
	guest        [2]*netnstest.NS
	vm           [2]*netnstest.VM
	path         [2]*netfilter.Path
	proxy        [2]*Proxy
	events       [2]*eventLog
	saved        [2]atomic.Pointer[[]byte] // rewritten connections
	epoch        uint64
	mac          net.HardwareAddr
}

type eventLog struct {
	mu  sync.Mutex
	all []Event
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	l.all = append(l.all, e)
	l.mu.Unlock()
}

func (l *eventLog) list() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.all...)
}

type pathAdapter struct{ p *netfilter.Path }

func (a pathAdapter) SetMode(m Mode) error {
	switch m {
	case Pass:
		return a.p.SetMode(netfilter.Pass)
	case Steal:
		return a.p.SetMode(netfilter.Steal)
	case StealBoth:
		return a.p.SetMode(netfilter.StealBoth)
	}
	return a.p.SetMode(netfilter.Mute)
}

const (
	guestMAC = "52:54:00:c0:10:0d"
	guestIP  = "192.0.2.10"
	guestIP6 = "2001:db8::10"
)

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, client: netnstest.New(t, "client"), host: netnstest.New(t, "host")}
	netnstest.Veth(p.client, "eth0", p.host, "lan")
	p.client.Addr("eth0", "192.0.2.1/24", "2001:db8::1/64")
	p.host.Bridge("br0", "lan")
	p.mac, _ = net.ParseMAC(guestMAC)
	for i := range p.proxy {
		side := string(rune('a' + i))
		p.guest[i] = netnstest.New(t, "guest-"+side)
		p.events[i] = &eventLog{}
		p.host.Must(func() (err error) {
			p.path[i], err = netfilter.Open(netfilter.Config{Bridge: "br0", Tap: "tap" + side, Uplink: "up" + side,
				Owner: "proxy-test-" + side, Dir: t.TempDir()})
			return err
		})
		path := p.path[i]
		t.Cleanup(func() { p.host.Do(path.Remove) })
		p.vm[i] = netnstest.NewVM(p.host, p.guest[i], netnstest.VMConfig{Tap: "tap" + side, MAC: guestMAC,
			Addrs: []string{guestIP + "/24", guestIP6 + "/64"}})
		p.open(i)
	}
	return p
}

// open starts the data path of a side.
func (p *pair) open(i int) {
	p.t.Helper()
	side := string(rune('a' + i))
	px, err := Open(Options{
		Pair: "test", Tap: "tap" + side, Uplink: "up" + side, MAC: p.mac, Path: pathAdapter{p.path[i]},
		// Long enough for a busy machine: what is held longer is held for ever.
		HoldMin: 5 * time.Second, HoldMax: 5 * time.Second,
		In:        p.host.Do,
		SaveFront: func(b []byte) { p.saved[i].Store(&b) },
		Log:       zerolog.New(zerolog.NewTestWriter(p.t)).With().Str("side", side).Logger(),
		Events:    p.events[i].add,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.proxy[i] = px
	p.t.Cleanup(func() { px.Close() })
}

func (p *pair) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p.t.Cleanup(cancel)
	return ctx
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// protect joins a (primary) and b (secondary) and arms them.
func (p *pair) protect(a, b int) {
	p.t.Helper()
	ctx := p.ctx()
	p.must(p.proxy[a].Solo(ctx))
	la, lb := p.links()
	var key [16]byte
	rand.Read(key[:])
	p.must(p.proxy[b].StartSecondary(ctx, lb, Session{Key: key, TapFD: -1}))
	p.must(p.proxy[a].StartPrimary(ctx, la, Session{Key: key, TapFD: -1}))
	p.checkpoint(a, b)
}

// checkpoint goes through the protocol of one. The stand-ins' states are not touched by it.
func (p *pair) checkpoint(a, b int) {
	p.t.Helper()
	p.epoch++
	ctx := p.ctx()
	p.must(p.proxy[a].BeginCheckpoint(ctx, p.epoch))
	now := time.Now()
	p.proxy[b].SecondaryStopped(now)
	p.proxy[a].Stopped(p.epoch, now)
	p.proxy[b].SecondaryResumed(time.Now())
	p.must(p.proxy[a].EndCheckpoint(ctx, p.epoch, time.Now()))
}

// links is a net link between two ends on this host.
func (p *pair) links() (a, b *Link) {
	p.t.Helper()
	conf := conntest.TLS(p.t)
	ca, cb := conntest.Loopback(p.t)
	type result struct {
		l   *Link
		err error
	}
	ch := make(chan result, 1)
	go func() {
		l, err := Handshake(p.ctx(), cb, conf, true, Hello{}, func(h Hello) error {
			if h.Pair != "test" || h.Session != 7 {
				return fmt.Errorf("unexpected hello %+v", h)
			}
			return nil
		})
		ch <- result{l, err}
	}()
	a, err := Handshake(p.ctx(), ca, conf, false, Hello{Pair: "test", Session: 7}, nil)
	p.must(err)
	r := <-ch
	p.must(r.err)
	return a, r.l
}

// serve runs the same TCP server in both guests.
func (p *pair) serve(port int, handle func(side int, c net.Conn)) {
	for i, g := range p.guest {
		for _, ip := range []string{guestIP, "[" + guestIP6 + "]"} {
			ln := g.Listen(fmt.Sprintf("%s:%d", ip, port))
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						handle(i, c)
					}()
				}
			}()
		}
	}
}

func (p *pair) dial(ip string, port int) net.Conn {
	p.t.Helper()
	c, err := p.client.Dial(p.ctx(), "tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
	if err != nil {
		p.t.Fatalf("dial %s port %d: %v\nA %+v\nB %+v\nevents %v", ip, port, err, p.proxy[0].Stats(), p.proxy[1].Stats(), p.events[0].list())
	}
	p.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return c
}

// pattern is byte number i of every test stream.
func pattern(i uint64) byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], i/8*0x9e3779b97f4a7c15)
	return b[i%8] ^ byte(i>>16)
}

func fill(b []byte, from uint64) {
	for i := range b {
		b[i] = pattern(from + uint64(i))
	}
}

// checker reads a stream of the pattern.
type checker struct{ at uint64 }

func (c *checker) Write(b []byte) (int, error) {
	for i := range b {
		if b[i] != pattern(c.at+uint64(i)) {
			return 0, fmt.Errorf("byte %d is wrong", c.at+uint64(i))
		}
	}
	c.at += uint64(len(b))
	return len(b), nil
}

// noDivergence fails the test when the pair has seen one.
func (p *pair) noDivergence() {
	p.t.Helper()
	for i, l := range p.events {
		for _, e := range l.list() {
			switch e := e.(type) {
			case Diverged:
				if e.Key.Kind == frame.KindND || e.Key.Kind == frame.KindGroup {
					continue // the stand-ins' kernels do not start in the same instant
				}
				p.t.Errorf("side %d diverged: %+v", i, e)
			case LinkLost, InputLost, OutputLost:
				p.t.Errorf("side %d: %#v", i, e)
			}
		}
	}
}

func download(_ int, c net.Conn) {
	var n [8]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return
	}
	buf := make([]byte, 100000)
	for at, end := uint64(0), binary.BigEndian.Uint64(n[:]); at < end; {
		b := buf[:min(uint64(len(buf)), end-at)]
		fill(b, at)
		if _, err := c.Write(b); err != nil {
			return
		}
		at += uint64(len(b))
	}
}

func upload(_ int, c net.Conn) {
	h := sha256.New()
	io.Copy(h, c)
	c.Write(h.Sum(nil))
}

func echo(_ int, c net.Conn) { io.Copy(c, c) }

func (p *pair) fetch(c net.Conn, n uint64) {
	p.t.Helper()
	var req [8]byte
	binary.BigEndian.PutUint64(req[:], n)
	if _, err := c.Write(req[:]); err != nil {
		p.t.Fatal(err)
	}
	ck := &checker{}
	if _, err := io.CopyN(ck, c, int64(n)); err != nil {
		p.t.Fatalf("download after %d of %d bytes: %v\nA %+v\nB %+v", ck.at, n, err, p.proxy[0].Stats(), p.proxy[1].Stats())
	}
}

func TestLockStep(t *testing.T) {
	p := newPair(t)
	p.serve(80, download)
	p.serve(7, echo)
	p.serve(81, upload)
	p.protect(0, 1)
	alone := p.proxy[0].Stats().Alone // before the pair was armed
	for _, ip := range []string{guestIP, guestIP6} {
		c := p.dial(ip, 7)
		for i := range 50 {
			msg := make([]byte, 1+i*97)
			fill(msg, uint64(i))
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatalf("echo %d: %v\nA %+v\nB %+v", i, err, p.proxy[0].Stats(), p.proxy[1].Stats())
			}
			if !bytes.Equal(got, msg) {
				t.Fatalf("echo %d differs", i)
			}
		}
		p.fetch(p.dial(ip, 80), 20<<20)

		c = p.dial(ip, 81)
		h := sha256.New()
		buf := make([]byte, 1<<16)
		for i := range 100 {
			fill(buf, uint64(i))
			h.Write(buf)
			if _, err := c.Write(buf); err != nil {
				t.Fatal(err)
			}
		}
		c.(*net.TCPConn).CloseWrite()
		sum, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(sum, h.Sum(nil)) {
			t.Fatalf("upload: %x, %v", sum, err)
		}
	}
	p.noDivergence()
	s := p.proxy[0].Stats()
	t.Logf("A %+v", s)
	t.Logf("B %+v", p.proxy[1].Stats())
	if s.Alone != alone {
		t.Errorf("%d frames were released alone", s.Alone-alone)
	}
}

func TestTakeover(t *testing.T) {
	p := newPair(t)
	p.serve(80, download)
	p.serve(7, echo)
	p.protect(0, 1)
	c4, c6 := p.dial(guestIP, 80), p.dial(guestIP6, 7)
	var req [8]byte
	const total = 30 << 20
	binary.BigEndian.PutUint64(req[:], total)
	c4.Write(req[:])
	ck := &checker{}
	if _, err := io.CopyN(ck, c4, 5<<20); err != nil {
		t.Fatalf("download after %d bytes: %v\nA %+v\nB %+v", ck.at, err, p.proxy[0].Stats(), p.proxy[1].Stats())
	}
	// The primary's host dies: nothing of it leaves any more.
	p.must(p.proxy[0].Mute(p.ctx()))
	p.must(p.proxy[1].Promote(p.ctx()))
	if _, err := io.CopyN(ck, c4, total-5<<20); err != nil {
		t.Fatalf("download after %d bytes: %v\nB %+v", ck.at, err, p.proxy[1].Stats())
	}
	for i := range 20 {
		c6.Write([]byte{byte(i)})
		var b [1]byte
		if _, err := io.ReadFull(c6, b[:]); err != nil || b[0] != byte(i) {
			t.Fatalf("echo %d: %v %v", i, b, err)
		}
	}
	c4.Close()
	c6.Close()
	t.Logf("B %+v", p.proxy[1].Stats())
}

// TestInvariant7RewrittenConnections: connections that lived through a takeover live through the end of the process that
// rewrites them, be it killed or stopped.
func TestInvariant7RewrittenConnections(t *testing.T) {
	for _, killed := range []bool{true, false} {
		t.Run(fmt.Sprintf("killed=%t", killed), func(t *testing.T) {
			p := newPair(t)
			p.serve(7, echo)
			p.protect(0, 1)
			c := p.dial(guestIP, 7)
			say := func(b byte) {
				t.Helper()
				c.Write([]byte{b})
				var got [1]byte
				if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != b {
					t.Fatalf("echo %d: %v %v\nB %+v", b, got, err, p.proxy[1].Stats())
				}
			}
			say(1)
			p.must(p.proxy[0].Mute(p.ctx()))
			p.must(p.proxy[1].Promote(p.ctx()))
			say(2)
			saved := p.saved[1].Load()
			if saved == nil || *saved == nil {
				t.Fatal("no connection was saved at the takeover")
			}
			if killed {
				p.on(1, func(px *Proxy) { // as if the process were gone: its sockets are, the kernel's filters stay
					px.closeSockets()
					px.role = roleIdle
				})
			}
			p.proxy[1].Close()
			c.Write([]byte{3}) // meanwhile
			p.open(1)
			p.must(p.proxy[1].Mute(p.ctx()))
			p.must(p.proxy[1].RestoreFront(p.ctx(), *saved))
			p.must(p.proxy[1].Solo(p.ctx()))
			var got [1]byte
			if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != 3 {
				t.Fatalf("what was said meanwhile: %v %v", got, err)
			}
			say(4)
		})
	}
}

// TestAnnouncedAgain: after a takeover, and when the other node is heard again, the guest's address is announced several
// times, also when the kernel carries the traffic; never by a node that does not speak alone.
func TestAnnouncedAgain(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	var rx *afpacket.RX
	p.client.Must(func() (err error) {
		rx, err = afpacket.OpenRX("eth0", afpacket.Options{IgnoreOutgoing: true})
		return err
	})
	defer rx.Close()
	bufs, meta := [][]byte{make([]byte, 1<<17)}, make([]afpacket.Meta, 1)
	seen := 0
	heard := func() int {
		for {
			n, err := rx.Recv(bufs, meta)
			p.must(err)
			if n == 0 {
				return seen
			}
			if b := bufs[0][frame.VnetLen:meta[0].Len]; len(b) > 14 && b[12] == 0x80 && b[13] == 0x35 {
				seen++
			}
		}
	}
	p.protect(0, 1)
	p.proxy[1].Announce()
	p.proxy[0].Announce()
	say := p.dial(guestIP, 7)
	say.Write([]byte{1})
	io.ReadFull(say, make([]byte, 1))
	before := heard() // at first protection node a spoke alone
	time.Sleep(300 * time.Millisecond)
	if n := heard(); n != before {
		t.Errorf("%d announcements by a pair in lock-step", n-before)
	}
	p.must(p.proxy[0].Mute(p.ctx()))
	p.must(p.proxy[1].Promote(p.ctx()))
	waitFor(t, "three announcements", func() bool { return heard() >= before+3 })
	say.Close()
	p.must(p.proxy[1].Solo(p.ctx()))
	before = heard()
	p.proxy[1].Announce()
	waitFor(t, "three more", func() bool { return heard() >= before+3 })
}

// TestMalformedFrames: what neither side understands harms nobody.
func TestMalformedFrames(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	p.protect(0, 1)
	r := mrand.New(mrand.NewPCG(1, 2))
	send := func(ns *netnstest.NS, dev string) {
		ns.Must(func() error {
			tx, err := afpacket.OpenTX(dev)
			if err != nil {
				return err
			}
			defer tx.Close()
			for range 300 {
				b := make([]byte, frame.VnetLen+14+r.IntN(200))
				for i := frame.VnetLen; i < len(b); i++ {
					b[i] = byte(r.Uint32())
				}
				copy(b[frame.VnetLen:], p.mac)
				if r.IntN(4) > 0 { // an IP or TCP header that lies
					b[frame.VnetLen+12], b[frame.VnetLen+13] = 8, 0
					if len(b) > frame.VnetLen+34 {
						b[frame.VnetLen+14] = 0x40 | byte(r.IntN(16))
						b[frame.VnetLen+23] = frame.ProtoTCP
					}
				}
				if _, err := tx.Send([]afpacket.Msg{{A: b}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	send(p.client, "eth0")
	send(p.guest[0], netnstest.GuestDevice)
	// What the primary's guest said alone is a divergence; a checkpoint heals it.
	waitFor(t, "a divergence", func() bool {
		for _, e := range p.events[0].list() {
			if _, ok := e.(Diverged); ok {
				return true
			}
		}
		return false
	})
	p.checkpoint(0, 1)
	c := p.dial(guestIP, 7)
	for i := range 20 {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != byte(i) {
			t.Fatalf("echo %d: %v %v\nA %+v", i, b, err, p.proxy[0].Stats())
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// TestInvariant1Mute: a primary whose peer is gone says nothing until it may.
func TestInvariant1Mute(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	p.protect(0, 1)
	c := p.dial(guestIP, 7)
	c.Write([]byte("x"))
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
	p.proxy[1].Close()
	waitFor(t, "the loss of the link", func() bool {
		for _, e := range p.events[0].list() {
			if _, ok := e.(LinkLost); ok {
				return true
			}
		}
		return false
	})
	before := p.proxy[0].Stats()
	c.Write([]byte("y"))
	c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, _ := c.Read(b[:]); n != 0 {
		t.Fatalf("output %q was released without agreement or authority", b)
	}
	// What both sides have said before may be repeated, such as an ARP reply; nothing else may leave.
	if s := p.proxy[0].Stats(); s.Alone != before.Alone || s.Covered != before.Covered || s.MadeAcks != before.MadeAcks {
		t.Fatalf("frames were released without agreement or authority: %+v, before %+v", s, before)
	}
	sc, err := c.(*net.TCPConn).SyscallConn()
	p.must(err)
	p.must(sc.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err != nil || n != 1 {
			t.Errorf("input was acknowledged that only the primary has: %d bytes unacknowledged, %v", n, err)
		}
	}))
	p.must(p.proxy[0].GoSolo(p.ctx()))
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != 'y' {
		t.Fatalf("after the record was won: %q, %v", b, err)
	}
}

// TestInvariant3TakeoverUpload: what clients send while the roles change reaches the guest that lives.
func TestInvariant3TakeoverUpload(t *testing.T) {
	p := newPair(t)
	p.serve(81, upload)
	p.protect(0, 1)
	c := p.dial(guestIP, 81)
	h := sha256.New()
	sum := make(chan []byte, 1)
	go func() {
		buf := make([]byte, 1<<16)
		for i := range 600 {
			fill(buf, uint64(i))
			h.Write(buf)
			if _, err := c.Write(buf); err != nil {
				t.Error(err)
				break
			}
		}
		c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		sum <- got
	}()
	waitFor(t, "input", func() bool { return p.proxy[0].Stats().MirroredBytes > 5<<20 })
	// The primary's guest dies; its node lives.
	p.must(p.proxy[0].Mute(p.ctx()))
	if r := p.proxy[0].Stats().Role; r != "orphan" {
		t.Errorf("role %s of a node whose guest died", r)
	}
	time.Sleep(10 * time.Millisecond)
	p.must(p.proxy[1].Promote(p.ctx()))
	got := <-sum
	if !bytes.Equal(got, h.Sum(nil)) {
		t.Fatalf("upload: %x\nA %+v\nB %+v", got, p.proxy[0].Stats(), p.proxy[1].Stats())
	}
	waitFor(t, "the end of the orphan", func() bool { return p.proxy[0].Stats().Role == "muted" })
	before := p.proxy[0].Stats().ReleasedFrames
	if before == 0 {
		t.Error("nothing was ever released by the primary")
	}
}

// TestCheckpointsCloseTogether: the next one may begin before the peer is done with the one before.
func TestCheckpointsCloseTogether(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	p.protect(0, 1)
	ctx := p.ctx()
	for range 20 {
		p.epoch++
		p.must(p.proxy[0].BeginCheckpoint(ctx, p.epoch))
		now := time.Now()
		p.proxy[1].SecondaryStopped(now)
		p.proxy[0].Stopped(p.epoch, now)
		p.must(p.proxy[0].EndCheckpoint(ctx, p.epoch, time.Now()))
		begun := make(chan error, 1)
		p.epoch++
		go func() { begun <- p.proxy[0].BeginCheckpoint(ctx, p.epoch) }()
		time.Sleep(time.Millisecond)
		p.proxy[1].SecondaryResumed(time.Now())
		p.must(<-begun)
		p.must(p.proxy[0].AbortCheckpoint(ctx, p.epoch))
	}
	p.checkpoint(0, 1)
	c := p.dial(guestIP, 7)
	c.Write([]byte("x"))
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
	p.noDivergence()
}

// TestCloseAlone: a speaker without a peer that ends leaves its guest reachable.
func TestCloseAlone(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	p.protect(0, 1)
	p.must(p.proxy[0].GoSolo(p.ctx()))
	p.proxy[0].Close()
	c := p.dial(guestIP, 7)
	c.Write([]byte("x"))
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
}

func TestDivergence(t *testing.T) {
	p := newPair(t)
	p.serve(80, func(side int, c net.Conn) {
		var req [1]byte
		io.ReadFull(c, req[:])
		msg := bytes.Repeat([]byte("a"), 1000)
		msg[777] = byte('a' + side)
		c.Write(msg)
	})
	p.protect(0, 1)
	c := p.dial(guestIP, 80)
	c.Write([]byte{1})
	deadline := time.Now().Add(20 * time.Second)
	for {
		for _, e := range p.events[0].list() {
			if d, ok := e.(Diverged); ok && d.Exact {
				if d.Reason.String() != "payload" || d.Position != 777 {
					t.Fatalf("divergence %+v", d)
				}
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no divergence: %v", p.events[0].list())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestCarrierChange: between kernel and proxy, in both directions, under load: the stream stays whole.
func TestCarrierChange(t *testing.T) {
	p := newPair(t)
	p.serve(80, download)
	p.must(p.proxy[0].Solo(p.ctx()))
	c := p.dial(guestIP, 80)
	const total = 40 << 20
	var req [8]byte
	binary.BigEndian.PutUint64(req[:], total)
	c.Write(req[:])
	ck := &checker{}
	for i := range 4 {
		if _, err := io.CopyN(ck, c, 5<<20); err != nil {
			t.Fatalf("change %d, download after %d bytes: %v\nA %+v", i, ck.at, err, p.proxy[0].Stats())
		}
		if i%2 == 0 {
			la, lb := p.links()
			defer lb.Close()
			p.must(p.proxy[0].StartPrimary(p.ctx(), la, Session{TapFD: -1}))
			if m := p.proxy[0].Stats().Mode; m != "steal" {
				t.Fatalf("mode %s as primary", m)
			}
		} else {
			p.must(p.proxy[0].GoSolo(p.ctx()))
			waitFor(t, "the kernel's carrying", func() bool { return p.proxy[0].Stats().Mode == "pass" })
		}
	}
	if _, err := io.CopyN(ck, c, total-20<<20); err != nil {
		t.Fatalf("download after %d bytes: %v", ck.at, err)
	}
}
