package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"colod/coordinator/config"
	"colod/qmp"
	"colod/qmp/disk"
)

// Misfit is one thing that keeps a running VM from being adopted.
type Misfit struct {
	What string `json:"what"` // what does not fit
	Read string `json:"read"` // where it was read
	Cure string `json:"cure"`
}

// foreignVM is all that is known of a running VM that somebody else started.
type foreignVM struct {
	Machine *qmp.Machine
	Process qmp.Process
	Status  string   // QEMU's run state
	COLO    string   // mode
	Moving  string   // status of a migration, "" for none
	Blocked []string // why QEMU refuses to migrate it
	Objects []string // types of its user-made objects
	Disks   []foreignDisk
	MayTap  error // why its tap cannot be reached
}

// foreignDisk is one block device of the guest.
type foreignDisk struct {
	Device   string `json:"device"` // QOM path or name of the device
	Node     string `json:"node"`   // that it is on
	Driver   string `json:"driver"`
	File     string `json:"file"`
	Writable bool   `json:"writable"`
	Size     int64  `json:"size"` // bytes
}

// compareVM says what of a running VM does not fit its pair: want is the
// machine that the pair's configuration makes, whose like the secondary is.
func compareVM(p *config.Pair, got *foreignVM, want *qmp.Machine) []Misfit {
	var all []Misfit
	bad := func(read, cure, what string, args ...any) {
		all = append(all, Misfit{What: fmt.Sprintf(what, args...), Read: read, Cure: cure})
	}
	m := got.Machine
	if m.Version != want.Version {
		bad("QMP greeting", "set vm.qemu to the program that runs it, on both nodes, or start the VM with "+p.VM.QEMU,
			"it runs in QEMU %s, and %s is QEMU %s", m.Version, p.VM.QEMU, want.Version)
	}
	if s, why := m.Version.Support(); s == qmp.Unsupported {
		bad("QMP greeting", "use another QEMU", "%s", why)
	}
	if m.Type != want.Type {
		bad("qom-get /machine type", "set vm.machine to "+m.Type+" on both nodes, or start the VM with the other",
			"the machine is %s, and the configuration makes %s", m.Type, want.Type)
	}
	if m.KVM != want.KVM {
		bad("query-kvm", "set vm.accel", "KVM is %s, and %s with the configuration", onOff(m.KVM), onOff(want.KVM))
	}
	if m.Memory != want.Memory {
		bad("query-memory-size-summary", fmt.Sprintf("set vm.memory to %dM on both nodes", m.Memory>>20), "the guest has %d MiB of memory, and %d MiB in the configuration", m.Memory>>20, want.Memory>>20)
	}
	if m.CPUs != want.CPUs {
		bad("query-cpus-fast", fmt.Sprintf("set vm.smp to %d on both nodes", m.CPUs), "the guest has %d processors, and %d in the configuration", m.CPUs, want.CPUs)
	}
	all = append(all, compareDevices(m.Devices, want.Devices)...)
	all = append(all, compareBlocks(m.Blocks, want.Blocks)...)
	all = append(all, compareDisks(p, got.Disks)...)
	all = append(all, compareProcess(p, got)...)
	return all
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// compareDevices looks for devices that only one side has, and for properties
// that differ.
func compareDevices(got, want []qmp.Device) []Misfit {
	const read = "qom-list and qom-get below /machine"
	key := func(d qmp.Device) string {
		if strings.HasPrefix(d.At, "#") {
			return d.Type + " " + d.At
		}
		return d.At
	}
	have, wanted := map[string]qmp.Device{}, map[string]qmp.Device{}
	for _, d := range got {
		have[key(d)] = d
	}
	for _, d := range want {
		wanted[key(d)] = d
	}
	var all []Misfit
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		w := wanted[k]
		h, there := have[k]
		switch {
		case !there:
			all = append(all, Misfit{fmt.Sprintf("it has no %s at %s, as the configuration makes one", w.Type, w.At), read,
				"start the VM with the device, or take it out of the pair's configuration"})
		case h.Type != w.Type:
			all = append(all, Misfit{fmt.Sprintf("at %s it has a %s, and the configuration makes a %s there", w.At, h.Type, w.Type), read,
				"give the devices the same addresses: -device ...,addr= in the VM's command line, or in vm.args"})
		default:
			all = append(all, compareProps(h, w)...)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if h := have[k]; wanted[k].Type == "" {
			all = append(all, Misfit{fmt.Sprintf("it has a %s at %s, and the configuration makes none", h.Type, h.At), read,
				"start the VM without the device, or add it to vm.args on both nodes: a -device " + h.Type + " item"})
		}
	}
	return all
}

func compareProps(got, want qmp.Device) []Misfit {
	var all []Misfit
	for _, name := range slices.Sorted(maps.Keys(want.Props)) {
		h, there := got.Props[name]
		if w := want.Props[name]; there && h != w {
			all = append(all, Misfit{
				fmt.Sprintf("%s of the %s at %s is %s, and %s in the configuration", name, got.Type, got.At, h, w),
				"qom-get of " + name,
				fmt.Sprintf("start the VM with -global %s.%s=%s, or give the pair's VM the other value in vm.args", got.Type, name, strings.Trim(w, `"`)),
			})
		}
	}
	return all
}

// compareBlocks compares the memory in the state stream: a block that the
// other side lacks ends the copy.
func compareBlocks(got, want []qmp.RAMBlock) []Misfit {
	const read, cure = "info ramblock", "it follows from machine, memory and devices; a ROM from romfile= of its device"
	have := map[string]uint64{}
	for _, b := range got {
		have[b.Name] = b.Size
	}
	var all []Misfit
	for _, w := range want {
		switch size, there := have[w.Name]; {
		case !there:
			all = append(all, Misfit{fmt.Sprintf("it has no memory block %s, as the configuration makes one", w.Name), read, cure})
		case size != w.Size:
			all = append(all, Misfit{fmt.Sprintf("its memory block %s has %d bytes, and %d in the configuration", w.Name, size, w.Size), read, cure})
		}
		delete(have, w.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		all = append(all, Misfit{fmt.Sprintf("it has the memory block %s, and the configuration makes none", name), read, cure})
	}
	return all
}

// compareDisks looks at what the guest writes, and where it goes.
func compareDisks(p *config.Pair, got []foreignDisk) []Misfit {
	const read = "query-block"
	var all []Misfit
	on := map[string]foreignDisk{}
	for _, d := range got {
		on[d.Node] = d
	}
	known := map[string]bool{}
	for i, d := range p.Disks {
		node := disk.Name(i)
		known[node] = true
		h, there := on[node]
		switch {
		case !there:
			all = append(all, Misfit{fmt.Sprintf("disk %d (%s) of the configuration is not there: no device is on the block node %s", i, d.Path, node), read,
				"start the VM with the -blockdev and -device arguments that colod adopt --arguments prints"})
		case h.Size != int64(d.Size):
			all = append(all, Misfit{fmt.Sprintf("disk %d has %d bytes, and %d in the configuration", i, h.Size, int64(d.Size)), read, "set its size in disks on all nodes"})
		case h.Writable != (d.Kind == string(disk.Replicated)):
			all = append(all, Misfit{fmt.Sprintf("disk %d is %s, and %s in the configuration", i, writable(h.Writable), d.Kind), read, "set its kind, or start the VM with the other"})
		}
	}
	for _, h := range got {
		if known[h.Node] || !h.Writable {
			continue
		}
		all = append(all, Misfit{
			fmt.Sprintf("the guest writes to %s (device %s, block node %s, driver %s), which is not under a replication layer: the other node would not have what is written",
				h.File, h.Device, h.Node, h.Driver), read,
			"list it in disks and start the VM with the -blockdev and -device arguments that colod adopt --arguments prints; a disk cannot be put under a layer while the guest uses it",
		})
	}
	return all
}

func writable(b bool) string {
	if b {
		return "writable"
	}
	return "read only"
}

// compareProcess looks at what is not a part of the guest's machine.
func compareProcess(p *config.Pair, got *foreignVM) []Misfit {
	var all []Misfit
	bad := func(read, cure, what string, args ...any) {
		all = append(all, Misfit{What: fmt.Sprintf(what, args...), Read: read, Cure: cure})
	}
	proc := fmt.Sprintf("/proc/%d", got.Process.PID)
	if got.Status != "running" {
		bad("query-status", "continue the guest", "the guest does not run: it is %s", got.Status)
	}
	if got.COLO != "none" {
		bad("query-colo-status", "end what protects it now", "it is in COLO already, as %s", got.COLO)
	}
	switch got.Moving {
	case "", "none", "completed", "failed", "cancelled":
	default:
		bad("query-migrate", "wait for the end of the migration", "it is being migrated: %s", got.Moving)
	}
	for _, why := range got.Blocked {
		bad("query-migrate", "start the VM without what blocks migration", "QEMU refuses to copy it: %s", why)
	}
	for _, o := range got.Objects {
		if strings.HasPrefix(o, "filter-") || o == "colo-compare" {
			bad("qom-list /objects", "take the object out with object-del", "QEMU has a %s in the guest's network", o)
		}
	}
	for _, why := range got.Process.Deny {
		bad(proc, "run QEMU and colod as the same user, or give colod CAP_KILL, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (docs/adopt.md)",
			"colod may not %s", why)
	}
	if len(got.Process.Deny) == 0 {
		switch {
		case len(got.Process.Taps) != 1:
			bad(proc+"/fd", "start the VM with one NIC on one tap with one queue", "it has %d taps open %q, and one is possible", len(got.Process.Taps), got.Process.Taps)
		case got.MayTap != nil:
			bad("pidfd_getfd", "run QEMU and colod as the same user, or give colod CAP_SYS_PTRACE", "the descriptor of its tap cannot be reached: %v", got.MayTap)
		}
		if got.Process.VHost {
			bad(proc+"/fd", "start the VM with vhost=off (libvirt: <driver name='qemu'/> in the interface)", "the kernel's vhost-net carries its frames, and a checkpoint cannot hold them")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.VM.Env)) {
		if got.Process.Env != nil && !slices.Contains(got.Process.Env, k+"="+p.VM.Env[k]) {
			bad(proc+"/environ", "start the VM with it (libvirt: <qemu:env name='"+k+"' value='...'/>), or take it out of vm.env",
				"vm.env has %s=%s, and it was started without", k, p.VM.Env[k])
		}
	}
	return all
}
