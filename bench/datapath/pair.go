// Package datapath measures the data path without virtual machines: two stand-ins for a guest (network stacks of their
// own behind real taps, running the same servers), two proxies, real TLS between them, and a client.
package datapath

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"colod/bench/load"
	"colod/bench/rig"
	"colod/internal/conntest"
	"colod/internal/frame"
	"colod/internal/netnstest"
	"colod/netfilter"
	"colod/proxy"
)

const (
	guestMAC = "52:54:00:c0:10:0d"
	guestIP  = "192.0.2.10"
	// hold is longer than any hiccup of a busy machine: the stand-ins cannot copy their state, so a
	// checkpoint in the middle of a load would end it.
	hold = 3 * time.Second
)

// Mode is what stands between client and guest.
type Mode uint8

const (
	// Kernel: tc redirects frames between tap and uplink; no proxy.
	Kernel Mode = iota
	// Alone: the proxy takes the output and releases it at once: reading, parsing and sending, nothing else.
	Alone
	// LockStep: the output is compared with the second guest's.
	LockStep
)

var modeNames = [...]string{"kernel", "proxy alone", "lock-step"}

func (m Mode) String() string { return modeNames[m] }

// Pair is two data paths on one host.
type Pair struct {
	t                  *rig.TB
	client, host, peer *netnstest.NS
	guest              [2]*netnstest.NS
	proxy              [2]*proxy.Proxy
	tid                [2]int
	servers            [2][]*exec.Cmd
	conf               *tls.Config
	epoch              uint64
	mode               Mode
	soloed             bool
	congestion         string

	mu     sync.Mutex
	faults []string
	fault  chan struct{} // gets a value when faults grows
}

type pathAdapter struct{ p *netfilter.Path }

func (a pathAdapter) SetMode(m proxy.Mode) error { return a.p.SetMode(netfilter.Mode(m)) }

// New makes the topology: client -- bridge of the host -- two taps, and a link between two addresses of its own.
func New(t *rig.TB, o Options) *Pair {
	p := &Pair{t: t, client: netnstest.New(t, "client"), host: netnstest.New(t, "host"), peer: netnstest.New(t, "peer"), fault: make(chan struct{}, 1),
		congestion: o.congestion()}
	netnstest.Veth(p.client, "eth0", p.host, "lan")
	p.client.Addr("eth0", "192.0.2.1/24")
	p.host.Bridge("br0", "lan")
	netnstest.Veth(p.host, "rep", p.peer, "rep")
	p.host.Addr("rep", "198.51.100.1/24")
	p.peer.Addr("rep", "198.51.100.2/24")
	p.conf = conntest.TLS(t)
	mac, _ := net.ParseMAC(guestMAC)
	neighbour(t, p.client, "eth0", guestIP, guestMAC)
	set(t, p.client, "ipv4/ip_local_port_range", "1024 65535")
	set(t, p.client, "ipv4/tcp_tw_reuse", "1")
	set(t, p.client, "ipv4/tcp_no_metrics_save", "1")
	for i := range p.proxy {
		side := string(rune('a' + i))
		p.guest[i] = netnstest.New(t, "guest-"+side)
		set(t, p.guest[i], "ipv4/tcp_no_metrics_save", "1") // one round must not change the next
		set(t, p.guest[i], "ipv4/tcp_max_tw_buckets", "200000")
		var path *netfilter.Path
		dir := t.TempDir()
		p.host.Must(func() (err error) {
			path, err = netfilter.Open(netfilter.Config{Bridge: "br0", Tap: "tap" + side, Uplink: "up" + side, Owner: "bench-" + side, Dir: dir})
			return err
		})
		t.Cleanup(func() {
			if err := p.host.Do(path.Remove); err != nil {
				t.Errorf("remove the path of %s: %v", side, err)
			}
		})
		netnstest.NewVM(p.host, p.guest[i], netnstest.VMConfig{Tap: "tap" + side, MAC: guestMAC, Addrs: []string{guestIP + "/24"}})
		// What a copied state would bring along: the second guest's questions for its neighbours stay unanswered.
		neighbour(t, p.guest[i], netnstest.GuestDevice, "192.0.2.1", p.client.Device("eth0").Attrs().HardwareAddr.String())
		var err error
		p.proxy[i], err = proxy.Open(proxy.Options{
			Pair: "bench", Tap: "tap" + side, Uplink: "up" + side, MAC: mac, Path: pathAdapter{path}, HoldMin: hold, HoldMax: hold,
			Setup: func() error {
				p.tid[i] = unix.Gettid()
				ns, err := netns.GetFromPath(p.host.Path())
				if err != nil {
					return err
				}
				defer ns.Close()
				return netns.Set(ns)
			},
			Log:    zerolog.Nop(),
			Events: func(e proxy.Event) { p.event(side, e) },
		})
		t.Must(err)
		px := p.proxy[i]
		t.Cleanup(func() { px.Close() })
		p.serve(i)
	}
	return p
}

func set(t *rig.TB, ns *netnstest.NS, key, value string) {
	ns.Must(func() error {
		err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func neighbour(t *rig.TB, ns *netnstest.NS, dev, ip, mac string) {
	_, err := ns.Run("ip", "neighbour", "replace", ip, "lladdr", mac, "dev", dev, "nud", "permanent")
	t.Must(err)
}

// serve starts the servers of guest i.
func (p *Pair) serve(i int) {
	self, err := os.Executable()
	p.t.Must(err)
	c := p.guest[i].Command(p.t.Context(), self, "load", "-serve", "-ip", guestIP, "-congestion", p.congestion)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe() // open until this process ends, however it ends
	p.t.Must(err)
	p.t.Cleanup(func() { in.Close() })
	out, err := c.StdoutPipe()
	p.t.Must(err)
	p.t.Must(p.guest[i].Start(c))
	p.servers[i] = append(p.servers[i], c)
	var ready [6]byte
	if _, err := io.ReadFull(out, ready[:]); err != nil {
		p.t.Fatalf("servers of a guest do not start: %v", err)
	}
	if redis, err := exec.LookPath("redis-server"); err == nil {
		c := p.guest[i].Command(p.t.Context(), redis, "--bind", guestIP, "--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", p.t.TempDir())
		p.t.Must(p.guest[i].Start(c))
		p.servers[i] = append(p.servers[i], c)
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			conn, err := p.guest[i].Dial(p.t.Context(), "tcp", guestIP+":6379")
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(end) {
				p.t.Fatalf("redis does not start: %v", err)
			}
		}
	}
}

// event notes what spoils a measurement. It runs on a proxy's thread.
func (p *Pair) event(side string, e proxy.Event) {
	var text string
	switch e := e.(type) {
	case proxy.Diverged:
		if e.Key.Kind == frame.KindND || e.Key.Kind == frame.KindGroup || e.Key.Kind == frame.KindARP {
			return // the stand-ins' kernels do not start in the same instant
		}
		text = fmt.Sprintf("the guests differ: %s in %s: %s", e.Reason, e.Key, e.Detail)
	case proxy.OutputLost:
		text = fmt.Sprintf("%d frames of guest %s were lost", e.Frames, side)
	case proxy.InputLost:
		text = fmt.Sprintf("%d frames of input were not mirrored", e.Frames)
	case proxy.LinkLost:
		if errors.Is(e.Err, net.ErrClosed) || errors.Is(e.Err, io.EOF) {
			return // a change of mode
		}
		text = fmt.Sprintf("link of %s lost: %v", side, e.Err)
	default:
		return
	}
	p.mu.Lock()
	p.faults = append(p.faults, text)
	p.mu.Unlock()
	select {
	case p.fault <- struct{}{}:
	default:
	}
}

func (p *Pair) takeFaults() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.faults
	p.faults = nil
	select {
	case <-p.fault:
	default:
	}
	return f
}

func (p *Pair) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.t.Context(), 20*time.Second)
}

// Enter brings the pair into a mode.
func (p *Pair) Enter(m Mode) {
	ctx, cancel := p.ctx()
	defer cancel()
	if p.soloed && p.mode != Kernel {
		p.t.Must(p.proxy[0].GoSolo(ctx))
	} else if !p.soloed {
		p.t.Must(p.proxy[0].Solo(ctx))
		p.soloed = true
	}
	p.mode = Kernel
	if m == Kernel {
		// The proxy hands over to the kernel some time after it has lost its peer.
		for p.proxy[0].Stats().Mode != proxy.Pass.String() {
			if ctx.Err() != nil {
				p.t.Fatalf("the kernel does not carry the traffic: the mode is %s", p.proxy[0].Stats().Mode)
			}
			time.Sleep(50 * time.Millisecond)
		}
		p.quiet()
		return
	}
	a, b := Link(ctx, p.t, p.host, p.peer, p.conf)
	s := proxy.Session{TapFD: -1}
	rand.Read(s.Key[:])
	p.t.Must(p.proxy[1].StartSecondary(ctx, b, s))
	p.t.Must(p.proxy[0].StartPrimary(ctx, a, s))
	p.mode = m
	if m == LockStep {
		p.epoch++
		p.t.Must(p.proxy[0].BeginCheckpoint(ctx, p.epoch))
		now := time.Now()
		p.proxy[1].SecondaryStopped(now)
		p.proxy[0].Stopped(p.epoch, now)
		p.proxy[1].SecondaryResumed(time.Now())
		p.t.Must(p.proxy[0].EndCheckpoint(ctx, p.epoch, time.Now()))
	}
	p.quiet()
}

// quiet waits for what the change has left.
func (p *Pair) quiet() {
	time.Sleep(100 * time.Millisecond)
	p.takeFaults()
}

// Sample is one load's outcome with what it cost.
type Sample struct {
	load.Outcome
	A, B     time.Duration // CPU of the proxies' threads
	Stands   time.Duration // of this process beside them: the stand-ins for QEMU
	Server   [2]time.Duration
	StatsA   proxy.Stats // of this load; gauges are those of its end
	LinkWire uint64      // bytes on the link's device, both directions, all headers
}

// Load runs a load in the present mode. An error means that the sample is void; the pair has to Enter a mode again.
func (p *Pair) Load(kind string, each time.Duration) (Sample, error) {
	self, err := os.Executable()
	p.t.Must(err)
	p.takeFaults()
	ctx, cancel := context.WithTimeout(p.t.Context(), each+20*time.Second)
	defer cancel()
	c := p.client.Command(ctx, self, "load", "-kind", kind, "-ip", guestIP, "-time", each.String(), "-congestion", p.congestion)
	var out, text bytes.Buffer
	c.Stdout, c.Stderr = &out, &text
	var s Sample
	before := p.proxy[0].Stats()
	a, b := rig.ThreadCPU(p.tid[0]), rig.ThreadCPU(p.tid[1])
	self0, servers := p.own()
	wire := p.wire()
	p.t.Must(p.client.Start(c))
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err = <-ended:
	case <-p.fault:
		select { // it may yet come to its end
		case err = <-ended:
		case <-time.After(time.Second):
			cancel()
			err = <-ended
		}
	}
	s.A, s.B = rig.ThreadCPU(p.tid[0])-a, rig.ThreadCPU(p.tid[1])-b
	own, after := p.own()
	s.Stands = own - self0 - s.A - s.B
	for i := range s.Server {
		s.Server[i] = after[i] - servers[i]
	}
	s.LinkWire = p.wire() - wire
	s.StatsA = sub(p.proxy[0].Stats(), before)
	if f := p.takeFaults(); len(f) > 0 {
		return s, fmt.Errorf("%s in mode %s: %s", kind, p.mode, f[0])
	}
	if err != nil {
		return s, fmt.Errorf("%s in mode %s: %w: %s", kind, p.mode, err, bytes.TrimSpace(text.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), &s.Outcome); err != nil {
		return s, fmt.Errorf("%s in mode %s: %w", kind, p.mode, err)
	}
	if s.Bytes == 0 {
		return s, fmt.Errorf("%s in mode %s: nothing was done in %.1f s", kind, p.mode, s.Seconds)
	}
	return s, nil
}

// own is the CPU time of this process and of the servers in each guest.
func (p *Pair) own() (self time.Duration, servers [2]time.Duration) {
	var ru unix.Rusage
	p.t.Must(unix.Getrusage(unix.RUSAGE_SELF, &ru))
	for i := range servers {
		for _, c := range p.servers[i] {
			cpu, err := rig.ProcessCPU(c.Process.Pid)
			p.t.Must(err)
			servers[i] += cpu.Total
		}
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), servers
}

// All is the CPU time of all processes of the benchmark.
func (s *Sample) All() time.Duration {
	return s.A + s.B + s.Stands + s.Server[0] + s.Server[1] + time.Duration(s.CPU*1e9)
}

// wire is the number of bytes that the link's device has carried.
func (p *Pair) wire() uint64 {
	s := p.host.Device("rep").Attrs().Statistics
	if s == nil {
		return 0
	}
	return s.RxBytes + s.TxBytes
}

func sub(a, b proxy.Stats) proxy.Stats {
	a.ReleasedFrames -= b.ReleasedFrames
	a.ReleasedBytes -= b.ReleasedBytes
	a.MadeAcks -= b.MadeAcks
	a.Mirrored -= b.Mirrored
	a.MirroredBytes -= b.MirroredBytes
	a.LinkIn -= b.LinkIn
	a.LinkOut -= b.LinkOut
	return a
}
