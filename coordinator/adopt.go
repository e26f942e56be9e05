package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/statefile"
	"colod/netfilter"
	"colod/qmp"
)

// foreignPlatform is a Platform that can adopt VMs of others.
type foreignPlatform interface {
	// TakePath is OpenPath for the tap of a running guest, which may be a
	// port of the pair's bridge.
	TakePath(p *config.Pair) (Path, error)
	// CleanPaths removes what is left of a pair's paths.
	CleanPaths(p *config.Pair) error
	// InspectVM looks at the VM behind a monitor, and at the machine that the
	// pair's configuration makes.
	InspectVM(ctx context.Context, p *config.Pair, monitor string) (*foreignVM, *qmp.Machine, error)
	// ClaimVM makes that VM the one of dir.
	ClaimVM(ctx context.Context, dir string, f qmp.Foreign) (VM, error)
}

var errNotHere = errors.New("this platform has no VMs of others")

// AdoptRequest asks for the adoption of a running VM.
type AdoptRequest struct {
	Monitor string `json:"monitor"`       // QMP socket of the VM that nobody else uses; "": that of the VM that was let go here
	OOB     string `json:"oob,omitempty"` // a second one, for emergencies
	Log     string `json:"log,omitempty"` // file with QEMU's messages
	Check   bool   `json:"check"`         // only say whether it fits
	// Arguments asks only for those with which QEMU makes the devices that fit.
	Arguments bool `json:"arguments,omitempty"`
}

// AdoptAnswer says whether a running VM fits its pair, and what became of it.
type AdoptAnswer struct {
	Pair    string   `json:"pair"`
	PID     int      `json:"pid"`
	QEMU    string   `json:"qemu"`
	Tap     string   `json:"tap"`
	Fits    bool     `json:"fits"`
	Misfits []Misfit `json:"misfits"`
	Adopted bool     `json:"adopted"`
	// Arguments are those of the pair's VM, without network device, monitors and name.
	Arguments []string    `json:"arguments,omitempty"`
	Status    *PairStatus `json:"status,omitempty"` // after the adoption
}

// adoption is a VM that is to be taken instead of a launch.
type adoption struct{ f qmp.Foreign }

// letGo is what is kept of a VM that was let go: it may run on.
type letGo struct {
	Process qmp.Process `json:"process"`
	Foreign qmp.Foreign `json:"foreign"`
	Since   time.Time   `json:"since"`
}

const (
	letGoKind      = "colod-released-1"
	inspectTimeout = 90 * time.Second
)

func (d *driver) letGoFile() string { return filepath.Join(d.state, "released") }

// released is the VM that was let go here and still runs, or nil.
func (d *driver) released() *letGo { return releasedVM(d.letGoFile()) }

func releasedVM(path string) *letGo {
	l := new(letGo)
	if err := statefile.Read(path, letGoKind, l); err != nil || !l.Process.Alive() {
		return nil
	}
	return l
}

// openWay opens the pair's way to the network as this node needs it: that of
// the VM that was adopted and runs, or none while a VM that was let go has it.
func (d *driver) openWay() error {
	w := &way{plat: d.plat, cfg: d.cfg, log: d.log, events: d.onProxy}
	d.way, d.path, d.data = w, w, w
	if l := d.released(); l != nil && l.Foreign.Tap == d.cfg.Network.Tap {
		return nil
	}
	tap, alive := qmp.RegisteredTap(d.dir)
	if tap == "" || tap == d.cfg.Network.Tap {
		return w.open(d.cfg.Network.Tap, false)
	}
	if alive {
		return w.open(tap, true)
	}
	if f, ok := d.plat.(foreignPlatform); ok {
		if err := f.CleanPaths(d.cfg); err != nil {
			d.log.Warn().Err(err).Msg("what an adopted VM that ended has left of its network is not wholly gone")
		}
	}
	return w.open(d.cfg.Network.Tap, false)
}

// adopt takes a running VM that somebody else started, if it fits, and makes
// this node the speaker with it.
func (d *driver) adopt(ctx context.Context, req AdoptRequest) (*AdoptAnswer, error) {
	if req.Arguments {
		return &AdoptAnswer{Pair: d.cfg.Name, Misfits: []Misfit{}, Arguments: d.arguments()}, nil
	}
	if !d.adopting.CompareAndSwap(false, true) {
		return nil, errors.New("another adoption or release is under way")
	}
	defer d.adopting.Store(false)
	f, ok := d.plat.(foreignPlatform)
	if !ok {
		return nil, errNotHere
	}
	if h := d.vm.Load(); h != nil {
		return nil, fmt.Errorf("colod runs the pair's VM here already, as process %d", h.PID())
	}
	if req.Monitor == "" {
		l := d.released()
		if l == nil {
			return nil, errors.New("no VM was let go here that still runs; name the QMP socket of the VM: --monitor")
		}
		req.Monitor, req.OOB, req.Log = l.Foreign.Monitor, l.Foreign.OOB, l.Foreign.Log
	}
	for _, p := range []string{req.Monitor, req.OOB, req.Log} {
		if p != "" && !filepath.IsAbs(p) {
			return nil, fmt.Errorf("%q is not an absolute path", p)
		}
	}
	ictx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	got, want, err := f.InspectVM(ictx, d.cfg, req.Monitor)
	if err != nil {
		return nil, err
	}
	a := &AdoptAnswer{Pair: d.cfg.Name, PID: got.Process.PID, QEMU: got.Machine.Version.String(), Misfits: compareVM(d.cfg, got, want)}
	if len(got.Process.Taps) == 1 {
		a.Tap = got.Process.Taps[0]
	}
	if a.Misfits == nil {
		a.Misfits = []Misfit{}
	}
	if a.Fits = len(a.Misfits) == 0; !a.Fits || req.Check {
		return a, nil
	}
	d.foreign.Store(true) // a launch that is tried again would make a second guest
	d.launches.Store(false)
	d.pending.Store(&adoption{qmp.Foreign{Name: d.cfg.Name, Monitor: req.Monitor, OOB: req.OOB, Log: req.Log, Tap: a.Tap}})
	defer d.pending.Store(nil)
	if err := d.Ask(ctx, pair.Ask{Op: pair.OpStart, On: true, Force: true}); err != nil {
		return a, err
	}
	h := d.vm.Load()
	if h == nil || h.PID() != a.PID {
		return a, errors.New("the pair's guest runs by now, and not in this VM; see colod status")
	}
	d.foreign.Store(false)
	a.Adopted = true
	return a, nil
}

// arguments are what a VM has to be started with to fit, but for what names
// files and devices of its own.
func (d *driver) arguments() []string {
	vm := &d.cfg.VM
	a := []string{"-nodefaults", "-machine", vm.Machine, "-cpu", vm.CPU, "-m", fmt.Sprintf("size=%dM", int64(vm.Memory)>>20), "-smp", fmt.Sprint(vm.SMP),
		"-serial", "CHARDEV", "-qmp", "unix:SOCKET,server=on,wait=off"}
	nic := *d.cfg
	nic.Network.Tap = "TAP"
	a = append(a, nicArgs(&nic)...)
	for _, o := range [][2]string{{"-kernel", vm.Kernel}, {"-initrd", vm.Initrd}, {"-append", vm.Append}} {
		if o[1] != "" {
			a = append(a, o[0], o[1])
		}
	}
	if d.disks != nil {
		a = append(a, d.disks.layout.Args(false)...)
	}
	return append(a, vm.Args...)
}

// takeForeign takes the VM that is to be adopted; on the VM's lane.
func (d *driver) takeForeign(ctx context.Context, a *adoption) (VM, error) {
	vm, err := d.plat.(foreignPlatform).ClaimVM(ctx, d.dir, a.f)
	if err != nil {
		return nil, err
	}
	if err := d.way.use(a.f.Tap, true); err != nil {
		if v, ok := vm.(interface{ Disown() error }); ok {
			err = errors.Join(err, v.Disown())
		}
		return nil, errors.Join(err, vm.Close())
	}
	d.releasing.Store(false)
	if err := statefile.Remove(d.letGoFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn().Err(err).Msg("cannot forget the VM that was let go")
	}
	return vm, nil
}

// startVM launches the VM, or takes the running one that is to be adopted; on
// the VM's lane.
func (d *driver) startVM(ctx context.Context, incoming bool) (VM, error) {
	if !incoming {
		if a := d.pending.Swap(nil); a != nil {
			return d.takeForeign(ctx, a)
		}
		if (d.cfg.VM.Adopt || d.foreign.Load()) && !d.launches.Load() {
			return nil, fmt.Errorf("somebody else starts this guest: colod adopt %s --monitor SOCKET takes it, colod start %s launches one", d.cfg.Name, d.cfg.Name)
		}
	}
	if err := d.runsReleased(); err != nil {
		return nil, err
	}
	d.releasing.Store(false)
	if err := d.way.use(d.cfg.Network.Tap, false); err != nil {
		return nil, err
	}
	return d.plat.LaunchVM(ctx, d.cfg, d.dir, incoming)
}

// runsReleased is the reason why no VM may be launched here: one that was let
// go still runs the guest.
func (d *driver) runsReleased() error {
	l := d.released()
	if l == nil {
		return nil
	}
	return fmt.Errorf("process %d, which was let go %s ago, still runs the guest: adopt it (colod adopt %s) or end it", l.Process.PID, time.Since(l.Since).Round(time.Second), d.cfg.Name)
}

// TakePath opens the path on a running guest's tap.
func (h *Host) TakePath(p *config.Pair) (Path, error) {
	path, err := netfilter.Open(netfilter.Config{
		Bridge: p.Network.Bridge, Tap: p.Network.Tap, Uplink: p.Network.Uplink, MTU: p.Network.MTU,
		Owner: p.Name, Dir: filepath.Join(h.runDir, "netfilter"), Running: true, FromBridge: true,
	})
	if err != nil {
		return nil, err
	}
	return hostPath{path}, nil
}

// CleanPaths removes what ended processes have left of the pair's paths.
func (h *Host) CleanPaths(p *config.Pair) error {
	_, err := netfilter.Clean(filepath.Join(h.runDir, "netfilter"), p.Name)
	return err
}

// ClaimVM makes a running VM the one of dir.
func (h *Host) ClaimVM(ctx context.Context, dir string, f qmp.Foreign) (VM, error) {
	vm, err := qmp.Claim(ctx, dir, f)
	if err != nil {
		return nil, err
	}
	return newHostVM(ctx, vm), nil
}

// InspectVM looks at the VM behind a monitor.
func (h *Host) InspectVM(ctx context.Context, p *config.Pair, monitor string) (*foreignVM, *qmp.Machine, error) {
	accel, err := h.accel.of(ctx, &p.VM)
	if err != nil {
		return nil, nil, err
	}
	vm, err := qmp.Adopt(ctx, monitor)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the socket must be one on which QEMU itself listens (-qmp unix:PATH,server=on,wait=off), and nobody else may be connected", err)
	}
	defer vm.Close()
	got, err := inspect(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	cfg := vmConfig(p, os.TempDir(), accel)
	cfg.Tap = ""
	cfg.Args = append(nicArgs(p), append(diskLayout(p, h.stateDir).Args(false), cfg.Args...)...)
	want, err := qmp.Expect(ctx, cfg)
	return got, want, err
}

var _ foreignPlatform = (*Host)(nil)

// inspect reads what is to be known of a running VM.
func inspect(ctx context.Context, vm *qmp.VM) (*foreignVM, error) {
	q := vm.Monitor()
	f := &foreignVM{Process: vm.Process()}
	st, err := vm.QueryStatus(ctx)
	if err != nil {
		return nil, err
	}
	f.Status = st.Status
	if colo, err := vm.QueryColo(ctx); err == nil {
		f.COLO = colo.Mode
	} else {
		f.COLO = "none"
		f.Blocked = append(f.Blocked, "it has no COLO: "+err.Error())
	}
	var mig struct {
		Status  string   `json:"status"`
		Blocked []string `json:"blocked-reasons"`
	}
	if err := q.Run(ctx, "query-migrate", nil, &mig); err != nil {
		return nil, err
	}
	f.Moving, f.Blocked = mig.Status, append(f.Blocked, mig.Blocked...)
	var objects []struct{ Name, Type string }
	if err := q.Run(ctx, "qom-list", map[string]string{"path": "/objects"}, &objects); err != nil {
		return nil, err
	}
	for _, o := range objects {
		if len(o.Type) > len("child<>") && o.Type[:len("child<")] == "child<" {
			f.Objects = append(f.Objects, o.Type[len("child<"):len(o.Type)-1])
		}
	}
	var blocks []struct {
		Device   string `json:"device"`
		Qdev     string `json:"qdev"`
		Inserted *struct {
			Node   string `json:"node-name"`
			Driver string `json:"drv"`
			File   string `json:"file"`
			RO     bool   `json:"ro"`
			Image  struct {
				Size int64 `json:"virtual-size"`
			} `json:"image"`
		} `json:"inserted"`
	}
	if err := q.Run(ctx, "query-block", nil, &blocks); err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if b.Inserted == nil {
			continue
		}
		name := b.Qdev
		if name == "" {
			name = b.Device
		}
		f.Disks = append(f.Disks, foreignDisk{
			Device: name, Node: b.Inserted.Node, Driver: b.Inserted.Driver, File: b.Inserted.File,
			Writable: !b.Inserted.RO, Size: b.Inserted.Image.Size,
		})
	}
	if len(f.Process.Taps) == 1 {
		f.MayTap = vm.MayDuplicate(f.Process.Taps[0])
	}
	f.Machine, err = vm.ReadMachine(ctx)
	return f, err
}

// nicArgs are QEMU's arguments for the pair's network card.
func nicArgs(p *config.Pair) []string {
	c := qmp.VMConfig{Tap: p.Network.Tap, MAC: p.Network.HardwareAddr().String()}
	return c.NICArgs()
}
