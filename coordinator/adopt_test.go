package coordinator

import (
	"slices"
	"strings"
	"testing"

	"colod/coordinator/config"
	"colod/qmp"
)

// TestCompareVM: what fits has no misfit; each thing that does not is named,
// with where it was read and a cure.
func TestCompareVM(t *testing.T) {
	machine := func() *qmp.Machine {
		return &qmp.Machine{
			Version: qmp.Version{Major: 7, Minor: 2, Micro: 22}, Type: "pc-i440fx-7.2", Memory: 256 << 20, CPUs: 1,
			Devices: []qmp.Device{
				{Type: "virtio-net-pci", At: "pci.0 02.0", Props: map[string]string{"mac": `"52:54:00:12:34:56"`, "guest_announce": "false"}},
				{Type: "isa-serial", At: "#0", Props: map[string]string{"index": "0"}},
			},
			Blocks: []qmp.RAMBlock{{Name: "pc.ram", Size: 256 << 20}},
		}
	}
	p := &config.Pair{Name: "guest1", VM: config.VM{QEMU: "qemu-system-x86_64", Env: map[string]string{"LD_PRELOAD": "/shim.so"}}}
	fits := func() *foreignVM {
		return &foreignVM{
			Machine: machine(), Status: "running", COLO: "none",
			Process: qmp.Process{PID: 7, Taps: []string{"vnet0"}, Env: []string{"LD_PRELOAD=/shim.so"}},
		}
	}
	if got := compareVM(p, fits(), machine()); len(got) > 0 {
		t.Fatalf("what fits does not: %v", got)
	}
	for _, c := range []struct {
		name  string
		spoil func(*foreignVM)
		what  string
	}{
		{"QEMU", func(f *foreignVM) { f.Machine.Version.Micro = 1 }, "it runs in QEMU 7.2.1"},
		{"machine", func(f *foreignVM) { f.Machine.Type = "pc-q35-7.2" }, "the machine is pc-q35-7.2"},
		{"memory", func(f *foreignVM) { f.Machine.Memory = 512 << 20 }, "512 MiB"},
		{"processors", func(f *foreignVM) { f.Machine.CPUs = 2 }, "2 processors"},
		{"accelerator", func(f *foreignVM) { f.Machine.KVM = true }, "KVM is on"},
		{"property", func(f *foreignVM) { f.Machine.Devices[0].Props["guest_announce"] = "true" }, "guest_announce of the virtio-net-pci at pci.0 02.0 is true"},
		{"other device", func(f *foreignVM) { f.Machine.Devices[0].Type = "e1000" }, "a e1000, and the configuration makes a virtio-net-pci"},
		{"missing device", func(f *foreignVM) { f.Machine.Devices = f.Machine.Devices[:1] }, "no isa-serial at #0"},
		{"further device", func(f *foreignVM) {
			f.Machine.Devices = append(f.Machine.Devices, qmp.Device{Type: "virtio-balloon-pci", At: "pci.0 03.0"})
		}, "a virtio-balloon-pci at pci.0 03.0"},
		{"ROM", func(f *foreignVM) {
			f.Machine.Blocks = append(f.Machine.Blocks, qmp.RAMBlock{Name: "0000:00:02.0/virtio-net-pci.rom", Size: 1 << 18})
		}, "memory block 0000:00:02.0/virtio-net-pci.rom"},
		{"disk", func(f *foreignVM) {
			f.Disks = []foreignDisk{{Device: "vda", Node: "#block1", Driver: "qcow2", File: "/g.qcow2", Writable: true}}
		}, "the guest writes to /g.qcow2"},
		{"paused", func(f *foreignVM) { f.Status = "paused" }, "it is paused"},
		{"COLO", func(f *foreignVM) { f.COLO = "primary" }, "in COLO already"},
		{"migration", func(f *foreignVM) { f.Moving = "active" }, "being migrated"},
		{"blocked", func(f *foreignVM) { f.Blocked = []string{"a 9p mount"} }, "a 9p mount"},
		{"filter", func(f *foreignVM) { f.Objects = []string{"filter-dump"} }, "filter-dump"},
		{"vhost", func(f *foreignVM) { f.Process.VHost = true }, "vhost-net"},
		{"two taps", func(f *foreignVM) { f.Process.Taps = []string{"a", "b"} }, "2 taps"},
		{"rights", func(f *foreignVM) { f.Process.Deny = []string{"send it a signal: EPERM"} }, "colod may not send it a signal"},
		{"environment", func(f *foreignVM) { f.Process.Env = []string{"PATH=/bin"} }, "LD_PRELOAD"},
	} {
		f := fits()
		c.spoil(f)
		got := compareVM(p, f, machine())
		if !slices.ContainsFunc(got, func(m Misfit) bool { return strings.Contains(m.What, c.what) && m.Read != "" && m.Cure != "" }) {
			t.Errorf("%s: %q is not among %v", c.name, c.what, got)
		}
	}
}

// A read-only disk that the configuration does not know does no harm.
func TestCompareDisksReadOnly(t *testing.T) {
	p := &config.Pair{}
	if got := compareDisks(p, []foreignDisk{{Device: "cd", Node: "#block0", File: "/cd.iso"}}); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
