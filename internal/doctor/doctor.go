// Package doctor looks at a host and says what keeps colod from working on
// it, before anything is started. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator/config"
	"colod/internal/certs"
	"colod/netfilter"
	"colod/qmp"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Note Level = "note" // works, but something better is possible
	Bad  Level = "bad"  // colod will not work
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	What  string `json:"what"`
	Cure  string `json:"cure,omitempty"`
}

// Healthy reports whether no finding is bad.
func Healthy(fs []Finding) bool {
	for _, f := range fs {
		if f.Level == Bad {
			return false
		}
	}
	return true
}

// Options say what to look for.
type Options struct {
	Config *config.Config // nil: the host alone is looked at
	QEMU   string         // without Config: the binary to look for
	KVM    bool           // run small guests to see whether KVM works: takes up to 16 s
}

// Run makes all checks, one after the other.
func Run(ctx context.Context, opt Options) []Finding {
	var fs []Finding
	add := func(check string, level Level, cure, format string, a ...any) {
		fs = append(fs, Finding{Check: check, Level: level, What: fmt.Sprintf(format, a...), Cure: cure})
	}
	permissions(add)
	device(add, "/dev/net/tun", "load the module tun (modprobe tun), or give the container the device")
	network(add)
	clock(add)
	binaries := []string{opt.QEMU}
	kernel := ""
	if c := opt.Config; c != nil {
		binaries = nil
		for i := range c.Pairs {
			p := &c.Pairs[i]
			if !contains(binaries, p.VM.QEMU) {
				binaries = append(binaries, p.VM.QEMU)
			}
			if kernel == "" {
				kernel = p.VM.Kernel
			}
		}
	}
	for _, b := range binaries {
		qemu(ctx, add, b)
	}
	if opt.KVM {
		kvm(ctx, add, binaries[0], kernel)
	} else {
		kvmDevice(add, "/dev/kvm")
	}
	if opt.Config != nil {
		configured(add, opt.Config)
	} else {
		free, err := qmp.FreeMemory()
		if err != nil {
			add("memory", Note, "", "free memory is not known: %v", err)
		} else {
			add("memory", OK, "", "%d MiB free; a node needs about twice its guest's memory", free>>20)
		}
	}
	return fs
}

type adder func(check string, level Level, cure, format string, a ...any)

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// capabilities that colod needs, with what for (capabilities(7)).
var capabilities = []struct {
	bit  int
	name string
	why  string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "tap, veth and tc filters"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "packet sockets"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "emptying the tap's queue of a running QEMU"},
}

func permissions(add adder) {
	var hdr unix.CapUserHeader
	hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		add("permissions", Bad, "run as root", "capabilities cannot be read: %v", err)
		return
	}
	missing := false
	for _, c := range capabilities {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = true
			add("permissions", Bad, "run as root, or give the service "+c.name, "%s is missing; it is needed for %s", c.name, c.why)
		}
	}
	if !missing {
		add("permissions", OK, "", "all capabilities are there")
	}
}

func device(add adder, path, cure string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		add(path, Bad, cure, "%v", err)
		return
	}
	f.Close()
	add(path, OK, "", "can be opened")
}

// kvmDevice looks at KVM's device without proving that it works.
func kvmDevice(add adder, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		add("kvm", Note, "enable virtualisation in the firmware, or nested virtualisation on the host above", "%v; guests run in software (accel: tcg), many times slower", err)
		return
	}
	f.Close()
	add("kvm", OK, "", "%s can be opened; colod doctor --kvm proves that guests run with it", path)
}

func network(add adder) {
	r, err := netfilter.Probe()
	if err != nil {
		add("network", Bad, "run as root", "the kernel's features cannot be tried: %v", err)
		return
	}
	for _, f := range r.Missing() {
		add("network", Bad, f.Cure, "the kernel has no %s: %v", f.Name, f.Err)
	}
	if len(r.Missing()) > 0 {
		return
	}
	add("network", OK, "", "all of the kernel's features are there")
}

// clock: the path of a frame over a checkpoint is decided by times of one
// host's clock, which must not jump.
func clock(add adder) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	const unsynchronised = 0x0040 // STA_UNSYNC, adjtimex(2)
	switch {
	case err != nil:
		add("clock", Note, "", "its state is not known: %v", err)
	case state == 5 || tx.Status&unsynchronised != 0: // TIME_ERROR
		add("clock", Note, "run a time service that slews, such as chrony; a step of the clock costs a checkpoint", "the clock is not synchronised")
	default:
		add("clock", OK, "", "synchronised, estimated error %s", time.Duration(tx.Esterror)*time.Microsecond)
	}
}

func qemu(ctx context.Context, add adder, binary string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if binary == "" {
		binary = "qemu-system-x86_64"
	}
	info, err := qmp.Probe(ctx, binary)
	switch {
	case err != nil:
		add("qemu", Bad, "install it (Debian: apt install qemu-system-x86), or set vm.qemu", "%v", err)
	case len(info.Missing) > 0:
		add("qemu", Bad, "use a build that has it", "%s %s lacks %v", info.Binary, info.Version, info.Missing)
	case info.Support == qmp.Unsupported:
		add("qemu", Bad, "use 7.2, 10.0.13 or 11.1", "%s %s: %s", info.Binary, info.Version, info.Why)
	case info.Support == qmp.Unverified:
		add("qemu", Note, "", "%s %s: %s", info.Binary, info.Version, info.Why)
	default:
		add("qemu", OK, "", "%s %s", info.Binary, info.Version)
	}
}

func kvm(ctx context.Context, add adder, binary, kernel string) {
	if err := qmp.CheckKVM(ctx, binary, kernel); err != nil {
		add("kvm", Note, "", "guests do not run with it, so they run in software (accel: tcg), many times slower: %v", err)
		return
	}
	add("kvm", OK, "", "guests run with it")
}

// configured checks what a configuration asks of the host.
func configured(add adder, c *config.Config) {
	if id, err := certs.Load(c.TLS.CA, c.TLS.Cert, c.TLS.Key, c.Node); err != nil {
		add("certificate", Bad, "colod cert ca and colod cert node make the files", "%v", err)
	} else if left := time.Until(id.Expires()); left < 30*24*time.Hour {
		add("certificate", Note, "make a new one with colod cert node", "it ends on %s", id.Expires().Format(time.DateOnly))
	} else {
		add("certificate", OK, "", "valid until %s", id.Expires().Format(time.DateOnly))
	}
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if err := writable(dir); err != nil {
			add("directory", Bad, "make it writable for colod", "%v", err)
		} else {
			add("directory", OK, "", "%s is writable", dir)
		}
	}
	for i := range c.Pairs {
		p := &c.Pairs[i]
		if _, err := os.Stat(filepath.Join("/sys/class/net", p.Network.Bridge, "bridge")); err != nil {
			add("bridge", Bad, "make it: ip link add "+p.Network.Bridge+" type bridge", "pair %s: %s is not a bridge of this host", p.Name, p.Network.Bridge)
		} else {
			add("bridge", OK, "", "pair %s: %s", p.Name, p.Network.Bridge)
		}
		for _, f := range []string{p.VM.Kernel, p.VM.Initrd} {
			if f == "" {
				continue
			}
			if h, err := os.Open(f); err != nil {
				add("boot file", Bad, "correct vm.kernel or vm.initrd", "pair %s: %v", p.Name, err)
			} else {
				h.Close()
			}
		}
		need := qmp.NeededMemory(int64(p.VM.Memory))
		if err := qmp.CheckMemory(int64(p.VM.Memory)); err != nil {
			add("memory", Bad, "give the host more memory, or the guest less", "pair %s: %v", p.Name, err)
		} else {
			add("memory", OK, "", "pair %s: %d MiB may be needed and are free", p.Name, need>>20)
		}
		if _, err := exec.LookPath(p.VM.QEMU); err != nil && filepath.IsAbs(p.VM.QEMU) {
			add("qemu", Bad, "correct vm.qemu", "pair %s: %v", p.Name, err)
		}
	}
}

// writable looks at the directory, or at the nearest one above it that exists.
func writable(dir string) error {
	for d := dir; ; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if os.IsNotExist(err) && d != "/" {
			continue
		}
		switch {
		case err != nil:
			return err
		case !st.IsDir():
			return fmt.Errorf("%s is not a directory", d)
		}
		if err := unix.Access(d, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		return nil
	}
}
