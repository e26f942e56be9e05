package coordinator

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/config"
	"colod/netfilter"
	"colod/proxy"
	"colod/qmp"
	"colod/qmp/relay"
)

// Host is the Platform of a real host.
type Host struct {
	runDir   string
	context  int // bytes around a difference in reports
	stateDir string
	accel    *accelChoice
}

// NewHost prepares the platform of the node with this configuration.
func NewHost(cfg *config.Config) *Host {
	return &Host{runDir: cfg.RunDir, context: cfg.Reports.ContextBytes, stateDir: cfg.StateDir, accel: newAccelChoice(cfg.RunDir)}
}

// hostPath gives netfilter's path the proxy's type of mode; the values are the same.
type hostPath struct{ *netfilter.Path }

func (p hostPath) SetMode(m proxy.Mode) error { return p.Path.SetMode(netfilter.Mode(m)) }

// OpenPath makes or adopts the devices between guest and bridge.
func (h *Host) OpenPath(p *config.Pair) (Path, error) {
	path, err := netfilter.Open(netfilter.Config{
		Bridge: p.Network.Bridge, Tap: p.Network.Tap, Uplink: p.Network.Uplink, MTU: p.Network.MTU,
		Owner: p.Name, Dir: filepath.Join(h.runDir, "netfilter"),
	})
	if err != nil {
		return nil, err
	}
	return hostPath{path}, nil
}

// hostDataPath gives the proxy the coordinator's type of link.
type hostDataPath struct {
	*proxy.Proxy
	conns *connections
}

type hostLink struct{ *proxy.Link }

func (l hostLink) PeerName() string { return l.Peer }

func (d hostDataPath) StartPrimary(ctx context.Context, l NetLink, s proxy.Session) error {
	return d.Proxy.StartPrimary(ctx, l.(hostLink).Link, s)
}

func (d hostDataPath) StartSecondary(ctx context.Context, l NetLink, s proxy.Session) error {
	return d.Proxy.StartSecondary(ctx, l.(hostLink).Link, s)
}

// OpenDataPath starts the data path.
func (h *Host) OpenDataPath(p *config.Pair, path Path, log zerolog.Logger, events func(proxy.Event)) (DataPath, error) {
	conns := &connections{dir: vmDir(h.runDir, p.Name), log: log}
	px, err := proxy.Open(proxy.Options{
		SaveFront: conns.save,
		Pair:      p.Name, Tap: p.Network.Tap, Uplink: p.Network.Uplink, MAC: p.Network.HardwareAddr(), Path: path,
		HoldMin: p.Hold.Min.D(), HoldMax: p.Hold.Max.D(), Log: log, Events: events,
		Tolerances: p.Compared(), Context: h.context,
	})
	if err != nil {
		return nil, err
	}
	return hostDataPath{px, conns}, nil
}

// Link secures a connection of class net.
func (h *Host) Link(ctx context.Context, raw net.Conn, conf *tls.Config, server bool, hello proxy.Hello, check func(proxy.Hello) error) (NetLink, error) {
	l, err := proxy.Handshake(ctx, raw, conf, server, hello, check)
	if err != nil {
		return nil, err
	}
	return hostLink{l}, nil
}

// LaunchVM launches a VM.
func (h *Host) LaunchVM(ctx context.Context, p *config.Pair, dir string, incoming bool) (VM, error) {
	accel, err := h.accel.of(ctx, &p.VM)
	if err != nil {
		return nil, err
	}
	cfg := vmConfig(p, dir, accel)
	disks, err := prepareDisks(ctx, diskLayout(p, h.stateDir), incoming)
	if err != nil {
		return nil, err
	}
	cfg.Args = append(disks, cfg.Args...)
	vm, err := qmp.Launch(ctx, cfg, incoming)
	if err != nil {
		return nil, err
	}
	// It has inherited ours. Whoever may raise a priority may lower it.
	_ = setNice(vm.PID(), 0)
	return newHostVM(ctx, vm), nil
}

// tellMigrations makes QEMU send MIGRATION events, by which somebody else's
// migration is known. A VM that is just being copied refuses; it was asked
// when it was launched.
func tellMigrations(ctx context.Context, vm *qmp.VM) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	_ = vm.Monitor().Run(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"events", true}}}, nil)
}

// hostVM is a VM whose threads have the priorities of a guest, and whose events come as a plain channel.
type hostVM struct {
	*qmp.VM
	threads *guestThreads
}

func newHostVM(ctx context.Context, vm *qmp.VM) hostVM {
	tellMigrations(ctx, vm)
	return hostVM{vm, newGuestThreads(vm)}
}

func (v hostVM) Events() (<-chan qmp.Event, func()) {
	sub := v.Subscribe(4096)
	return sub.C, sub.Close
}

func vmConfig(p *config.Pair, dir string, accel qmp.Accel) qmp.VMConfig {
	env := make([]string, 0, len(p.VM.Env))
	for k, v := range p.VM.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return qmp.VMConfig{
		Name: p.Name, Binary: p.VM.QEMU, Accel: accel, Machine: p.VM.Machine, CPU: p.VM.CPU,
		Memory: int64(p.VM.Memory), SMP: p.VM.SMP, Kernel: p.VM.Kernel, Initrd: p.VM.Initrd, Append: p.VM.Append,
		Tap: p.Network.Tap, MAC: p.Network.HardwareAddr().String(), Args: p.VM.Args, Env: env, RunDir: dir,
	}
}

// LostHeartbeat lets the VM go on alone. Its guest stands still meanwhile, so
// that nothing else on the host is more urgent.
func (v hostVM) LostHeartbeat(ctx context.Context) (time.Time, error) {
	defer urge(v.PID())()
	return v.VM.LostHeartbeat(ctx)
}

// Disown lets the VM run on as any other.
func (v hostVM) Disown() error {
	if err := v.VM.Disown(); err != nil {
		return err // it is still ours
	}
	v.threads.leave()
	return nil
}

// Tend gives threads that the VM has made meanwhile their priorities.
func (v hostVM) Tend(ctx context.Context) { v.threads.tend(ctx) }

// AdoptVM takes over a running VM.
func (h *Host) AdoptVM(ctx context.Context, dir string) (VM, error) {
	vm, err := qmp.Adopt(ctx, dir)
	if err != nil {
		return nil, err
	}
	return newHostVM(ctx, vm), nil
}

// EndStale ends a VM that cannot be adopted.
func (h *Host) EndStale(ctx context.Context, dir string) error { return qmp.EndStale(ctx, dir) }

// PrimaryRelay carries the state from the primary's QEMU.
func (h *Host) PrimaryRelay(sock string, dial func(context.Context) (net.Conn, error), opt relay.Options) (Relay, error) {
	r, err := relay.NewPrimary(sock, dial, opt)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// SecondaryRelay carries the state to the secondary's QEMU.
func (h *Host) SecondaryRelay(ctx context.Context, conn net.Conn, sock string, opt relay.Options) (Relay, error) {
	r, err := relay.NewSecondary(ctx, conn, sock, opt)
	if err != nil {
		return nil, err
	}
	return r, nil
}

var _ Platform = (*Host)(nil)

// vmDir is where a pair's VM has its sockets and registry.
func vmDir(runDir, pair string) string { return filepath.Join(runDir, "vm", pair) }

func (h *Host) String() string { return fmt.Sprintf("host with run directory %s", h.runDir) }
