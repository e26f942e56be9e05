package checkpoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"colod/bench/rig"
	"colod/internal/lab"
	"colod/internal/lab/guest"
	"colod/internal/netconn"
	"colod/qmp"
	"colod/qmp/relay"
)

// channel is how the state goes from one QEMU to the other.
type channel struct {
	name         string
	relay        bool
	secure, copy bool
	tcp          bool // QEMU's own
}

const (
	ownUnix = "QEMU, unix socket"
	ownTCP  = "QEMU, TCP"
	plain   = "colod, spliced"
	copied  = "colod, copied"
	secured = "colod, TLS"
)

// channels in the order of the report; the first is the reference.
var channels = []channel{
	{name: ownUnix},
	{name: ownTCP, tcp: true},
	{name: plain, relay: true},
	{name: copied, relay: true, copy: true},
	{name: secured, relay: true, secure: true},
}

// host is the lab's two nodes with a guest on node a that keeps a known amount of memory changing.
type host struct {
	t       *rig.TB
	lab     *lab.Lab
	dir     string
	certs   string
	cfg     qmp.VMConfig // of either side, but for its run directory
	primary *qmp.VM
	n       int // protections so far
}

const (
	memory   = 256 << 20
	vmTap    = "vm0"
	bootTime = 3 * time.Minute // under TCG, on a busy machine
)

// newHost makes the guests' taps, and boots a guest that keeps dirty MiB changing.
func newHost(t *rig.TB, l *lab.Lab, dirty int) *host {
	h := &host{t: t, lab: l, certs: t.TempDir()}
	var err error
	h.dir, err = os.MkdirTemp(l.Dir(), "k") // the sockets' paths are short: lab directories are
	t.Must(err)
	t.Must(rig.Certificates(h.certs, lab.NodeA, lab.NodeB))
	kernel, initrd, cmdline := l.Boot()
	h.cfg = qmp.VMConfig{
		Name: "guest", Accel: qmp.TCG, CPU: l.CPU(), Memory: memory, Kernel: kernel, Initrd: initrd,
		Append: cmdline + " colod.dirty=" + strconv.Itoa(dirty), Tap: vmTap, MAC: lab.GuestMAC,
	}
	if accel, _ := l.Accel(); accel == "kvm" {
		h.cfg.Accel = qmp.KVM
	}
	if s := l.Shim(); s != "" {
		h.cfg.Env = []string{"LD_PRELOAD=" + s}
	}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		for _, args := range [][]string{{"tuntap", "add", vmTap, "mode", "tap", "vnet_hdr"}, {"link", "set", vmTap, "up"}} {
			if out, err := l.Command(t.Context(), node, append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("make tap on node %s: %v: %s", node, err, out)
			}
		}
		t.Cleanup(func() {
			_ = l.Command(context.Background(), node, "ip", "link", "del", vmTap).Run() // gone with the lab at the latest
		})
	}
	h.primary = h.launch(t, lab.NodeA, "p", false)
	t.Cleanup(func() { t.Must(end(h.primary)) })
	h.await(guest.Ready)
	if dirty > 0 {
		h.await(guest.DirtyReady)
	}
	return h
}

// await waits for what the guest says on its console.
func (h *host) await(text string) {
	for end := time.Now().Add(bootTime); ; time.Sleep(50 * time.Millisecond) {
		said := h.console()
		if bytes.Contains(said, []byte(text)) {
			return
		}
		if err := h.t.Context().Err(); err != nil {
			h.t.Fatalf("%v", err)
		}
		if time.Now().After(end) {
			h.t.Fatalf("the guest did not say %q in %s; it said: %s", text, bootTime, said[max(0, len(said)-400):])
		}
	}
}

func (h *host) console() []byte {
	b, err := os.ReadFile(filepath.Join(h.primary.RunDir(), qmp.FileConsole))
	h.t.Must(err)
	return b
}

func (h *host) launch(t *rig.TB, node, name string, incoming bool) (v *qmp.VM) {
	cfg := h.cfg
	cfg.RunDir = filepath.Join(h.dir, name)
	t.Must(h.lab.In(node, func() (err error) {
		v, err = qmp.Launch(t.Context(), cfg, incoming)
		return err
	}))
	return v
}

func end(v *qmp.VM) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := v.Kill(ctx)
	v.Close()
	return err
}

// protection is a pair in COLO over one channel.
type protection struct {
	h       *host
	ch      channel
	second  *qmp.VM
	relays  []*relay.Relay
	records chan relay.Checkpoint
	began   time.Duration // from the first command to both guests running
}

// protect starts a secondary on node b and COLO over ch.
func (h *host) protect(t *rig.TB, ch channel) *protection {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	h.n++
	p := &protection{h: h, ch: ch, records: make(chan relay.Checkpoint, 16)}
	p.second = h.launch(t, lab.NodeB, fmt.Sprintf("s%d", h.n), true)
	t.Cleanup(p.end)
	began := time.Now()
	in, out := filepath.Join(h.dir, fmt.Sprintf("i%d", h.n)), filepath.Join(h.dir, fmt.Sprintf("o%d", h.n))
	switch {
	case ch.tcp:
		uri := fmt.Sprintf("tcp:%s:%d", lab.NodeBIPv4, 4400+h.n%500)
		t.Must(p.second.PrepareSecondaryAt(ctx, uri))
		_, err := h.primary.StartColoAt(ctx, uri)
		t.Must(err)
	case !ch.relay:
		t.Must(p.second.PrepareSecondary(ctx, in))
		_, err := h.primary.StartColo(ctx, in)
		t.Must(err)
	default:
		t.Must(p.second.PrepareSecondary(ctx, in))
		p.join(t, ctx, in, out)
		_, err := h.primary.StartColo(ctx, out)
		t.Must(err)
	}
	p.began = time.Since(began)
	return p
}

// join makes the relays of both nodes, over TCP on the wire between them.
func (p *protection) join(t *rig.TB, ctx context.Context, in, out string) {
	var a, b net.Conn
	var l net.Listener
	t.Must(p.h.lab.In(lab.NodeB, func() (err error) { l, err = net.Listen("tcp", lab.NodeBIPv4+":0"); return err }))
	defer l.Close()
	t.Must(p.h.lab.In(lab.NodeA, func() (err error) {
		a, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		return err
	}))
	b, err := l.Accept()
	t.Must(err)
	if p.ch.secure {
		ida, err := rig.Identity(p.h.certs, lab.NodeA)
		t.Must(err)
		idb, err := rig.Identity(p.h.certs, lab.NodeB)
		t.Must(err)
		ca, cb := tls.Client(netconn.Gather(a), ida.Client(lab.NodeB)), tls.Server(netconn.Gather(b), idb.Server([]string{lab.NodeA}))
		done := make(chan error, 1)
		go func() { done <- cb.HandshakeContext(ctx) }()
		t.Must(errors.Join(ca.HandshakeContext(ctx), <-done))
		a, b = ca, cb
	}
	opt := relay.Options{Copy: p.ch.copy}
	rs, err := relay.NewSecondary(ctx, b, in, opt)
	t.Must(err)
	p.relays = append(p.relays, rs)
	opt.OnCheckpoint = func(c relay.Checkpoint) {
		select {
		case p.records <- c:
		default: // nobody reads: not a checkpoint that is measured
		}
	}
	rp, err := relay.NewPrimary(out, func(context.Context) (net.Conn, error) { return a, nil }, opt)
	t.Must(err)
	p.relays = append(p.relays, rp)
}

// end leaves the primary alone and running.
func (p *protection) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, r := range p.relays {
		r.Cut()
	}
	err := end(p.second)
	_, lost := p.h.primary.LostHeartbeat(ctx)
	if err := errors.Join(err, lost); err != nil {
		p.h.t.Errorf("end a protection: %v", err)
	}
}

// sample is one checkpoint.
type sample struct {
	qmp.Checkpoint
	relay relay.Checkpoint // zero without a relay
}

// checkpoint takes one.
func (p *protection) checkpoint(ctx context.Context) (s sample, err error) {
	for len(p.records) > 0 {
		<-p.records
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s.Checkpoint, err = p.h.primary.Checkpoint(ctx); err != nil || !p.ch.relay {
		return s, err
	}
	select {
	case s.relay = <-p.records: // told before the guest goes on
	case <-ctx.Done():
		err = errors.New("the relay did not tell of a checkpoint")
	}
	return s, err
}
