// Package datapath measures the data path without virtual machines: two stand-ins for a guest (network stacks of their
// own behind real taps, running the same servers), two proxies, real TLS between them, and a client.
package datapath

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"colod/bench/load"
	"colod/bench/rig"
	"colod/internal/conntest"
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
	node               [2]*remote
	servers            [2][]*exec.Cmd
	epoch              uint64
	mode               Mode
	soloed             bool
	congestion         string
	line               int // Mbit/s, of the client's line; 0: what the devices can

	fault chan struct{} // gets a value at a fault of a data path
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
	keys := conntest.NewKeys(t)
	neighbour(t, p.client, "eth0", guestIP, guestMAC)
	set(t, p.client, "ipv4/ip_local_port_range", "1024 65535")
	set(t, p.client, "ipv4/tcp_tw_reuse", "1")
	set(t, p.client, "ipv4/tcp_no_metrics_save", "1")
	for i := range p.node {
		side := string(rune('a' + i))
		p.guest[i] = netnstest.New(t, "guest-"+side)
		set(t, p.guest[i], "ipv4/tcp_no_metrics_save", "1") // one round must not change the next
		set(t, p.guest[i], "ipv4/tcp_max_tw_buckets", "200000")
		var args []string
		if o.Profile != "" && i == 0 {
			args = []string{"-cpuprofile", o.Profile}
		}
		p.node[i] = start(t, p.host, args...)
		ctx, cancel := p.ctx()
		p.node[i].must(ctx, "Open", Settings{Side: side, Dir: t.TempDir(), Peer: p.peer.Path(), Keys: keys}, nil)
		cancel()
		go p.faults(p.node[i])
		netnstest.NewVM(p.host, p.guest[i], netnstest.VMConfig{Tap: "tap" + side, MAC: guestMAC, Addrs: []string{guestIP + "/24"}})
		// What a copied state would bring along: the second guest's questions for its neighbours stay unanswered.
		neighbour(t, p.guest[i], netnstest.GuestDevice, "192.0.2.1", p.client.Device("eth0").Attrs().HardwareAddr.String())
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

// faults tells of a data path's faults until its process ends.
func (p *Pair) faults(r *remote) {
	for n := 0; r.call(context.Background(), "Wait", n, &n) == nil; {
		select {
		case p.fault <- struct{}{}:
		default:
		}
	}
}

// takeFaults returns what has spoilt measurements since the last call.
func (p *Pair) takeFaults() (all []string) {
	ctx, cancel := p.ctx()
	defer cancel()
	for _, r := range p.node {
		var texts []string
		r.must(ctx, "Faults", None{}, &texts)
		all = append(all, texts...)
	}
	select {
	case <-p.fault:
	default:
	}
	return all
}

func (p *Pair) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.t.Context(), 20*time.Second)
}

// Enter brings the pair into a mode.
func (p *Pair) Enter(m Mode) {
	ctx, cancel := p.ctx()
	defer cancel()
	a, b := p.node[0], p.node[1]
	if p.soloed && p.mode != Kernel {
		a.must(ctx, "GoSolo", None{}, nil)
	} else if !p.soloed {
		a.must(ctx, "Solo", None{}, nil)
		p.soloed = true
	}
	p.mode = Kernel
	if m == Kernel {
		// The proxy hands over to the kernel some time after it has lost its peer.
		for {
			mode := a.stats(ctx).Mode
			if mode == proxy.Pass.String() {
				break
			}
			if ctx.Err() != nil {
				p.t.Fatalf("the kernel does not carry the traffic: the mode is %s", mode)
			}
			time.Sleep(50 * time.Millisecond)
		}
		p.quiet()
		return
	}
	var addr string
	b.must(ctx, "Listen", None{}, &addr)
	accepted := make(chan error, 1)
	go func() { accepted <- b.call(ctx, "Accept", None{}, nil) }()
	a.must(ctx, "Dial", addr, nil)
	p.t.Must(<-accepted)
	var s Session
	rand.Read(s.Key[:])
	b.must(ctx, "StartSecondary", s, nil)
	a.must(ctx, "StartPrimary", s, nil)
	p.mode = m
	if m == LockStep {
		p.epoch++
		a.must(ctx, "BeginCheckpoint", Moment{N: p.epoch}, nil)
		now := time.Now()
		b.must(ctx, "SecondaryStopped", Moment{At: now}, nil)
		a.must(ctx, "Stopped", Moment{N: p.epoch, At: now}, nil)
		b.must(ctx, "SecondaryResumed", Moment{At: time.Now()}, nil)
		a.must(ctx, "EndCheckpoint", Moment{N: p.epoch, At: time.Now()}, nil)
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
	A, B     time.Duration // CPU of the data paths' processes
	Stands   time.Duration // of this process: the stand-ins for QEMU
	Server   [2]time.Duration
	StatsA   proxy.Stats // of this load; gauges are those of its end
	LinkWire uint64      // bytes on the link's device, both directions, all headers
}

// Load runs a load in the present mode. An error means that the sample is void; the pair has to Enter a mode again.
func (p *Pair) Load(kind string, each time.Duration) (Sample, error) {
	self, err := os.Executable()
	p.t.Must(err)
	k, _ := load.Find(kind)
	p.shape(k.Line)
	p.takeFaults()
	ctx, cancel := context.WithTimeout(p.t.Context(), each+20*time.Second)
	defer cancel()
	c := p.client.Command(ctx, self, "load", "-kind", kind, "-ip", guestIP, "-time", each.String(), "-congestion", p.congestion)
	var out, text bytes.Buffer
	c.Stdout, c.Stderr = &out, &text
	var s Sample
	before := p.node[0].stats(ctx)
	a, b := p.node[0].used(), p.node[1].used()
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
	s.A, s.B = p.node[0].used()-a, p.node[1].used()-b
	own, after := p.own()
	s.Stands = own - self0
	for i := range s.Server {
		s.Server[i] = after[i] - servers[i]
	}
	s.LinkWire = p.wire() - wire
	s.StatsA = sub(p.node[0].stats(context.WithoutCancel(ctx)), before)
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

// shape makes the client's line as fast as wanted, in both directions.
func (p *Pair) shape(line int) {
	if p.line == line {
		return
	}
	p.line = line
	for _, end := range []struct {
		ns  *netnstest.NS
		dev string
	}{{p.client, "eth0"}, {p.host, "lan"}} {
		args := []string{"qdisc", "del", "dev", end.dev, "root"}
		if line > 0 {
			// The burst takes a few of the largest segments, the queue 20 ms of the line.
			args = []string{"qdisc", "replace", "dev", end.dev, "root", "tbf", "rate", fmt.Sprintf("%dmbit", line), "burst", "256kb", "latency", "20ms"}
		}
		_, err := end.ns.Run("tc", args...)
		p.t.Must(err)
	}
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
