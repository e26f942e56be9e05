package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Machine is what a VM's guest sees of its machine, and what of it is in the stream of its state: as QEMU tells it.
type Machine struct {
	Version Version
	Type    string // such as pc-i440fx-7.2, without QEMU's "-machine"
	KVM     bool
	Memory  int64 // bytes
	CPUs    int
	Devices []Device
	Blocks  []RAMBlock
}

// Device is one device. The Nth of a type without an address has At "#N".
type Device struct {
	Type  string
	At    string            // bus and address, such as "pci.0 02.0"
	Props map[string]string // JSON of its properties, but for those that name things of this process
}

// RAMBlock is one block of memory in the state stream.
type RAMBlock struct {
	Name string
	Size uint64 // bytes, at most
}

// What says nothing of the guest's machine: names of backends, and what changes while the guest runs.
var passing = map[string]bool{
	"type": true, "realized": true, "hotplugged": true, "hotpluggable": true, "parent_bus": true,
	"netdev": true, "drive": true, "chardev": true, "memdev": true, "rtc-time": true, "date": true, "crash-information": true,
	"feature-words": true, "filtered-features": true, "unavailable-features": true, "fd": true,
	"cpu-hotplug-legacy": true, "pm_io_base": true, "smb_io_base": true, // registers that the firmware sets
	"acpi_index": true, "acpi-index": true, "failover_pair_id": true, "x-pcie-lnksta-dllla": true,
}

type qomProperty struct{ Name, Type string }

// ReadMachine asks a VM what its machine is. It takes some hundred questions; the guest runs meanwhile.
func (v *VM) ReadMachine(ctx context.Context) (*Machine, error) { return readMachine(ctx, v.mon) }

func readMachine(ctx context.Context, q *Monitor) (*Machine, error) {
	m := &Machine{Version: q.Version()}
	fail := func(err error) (*Machine, error) { return nil, fmt.Errorf("read machine: %w", err) }
	var kind string
	if err := q.Run(ctx, "qom-get", map[string]string{"path": "/machine", "property": "type"}, &kind); err != nil {
		return fail(err)
	}
	m.Type = strings.TrimSuffix(kind, "-machine")
	var kvm struct{ Enabled bool }
	if err := q.Run(ctx, "query-kvm", nil, &kvm); err != nil {
		return fail(err)
	}
	m.KVM = kvm.Enabled
	var memory struct {
		Base int64 `json:"base-memory"`
	}
	if err := q.Run(ctx, "query-memory-size-summary", nil, &memory); err != nil {
		return fail(err)
	}
	m.Memory = memory.Base
	var cpus []json.RawMessage
	if err := q.Run(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return fail(err)
	}
	m.CPUs = len(cpus)
	var blocks string
	if err := q.Run(ctx, "human-monitor-command", map[string]string{"command-line": "info ramblock"}, &blocks); err != nil {
		return fail(err)
	}
	m.Blocks = ramBlocks(blocks)
	r := deviceReader{q: q, seen: map[string]int{}}
	for _, root := range []string{"/machine/unattached", "/machine/peripheral", "/machine/peripheral-anon", "/machine"} {
		if err := r.read(ctx, root, 0); err != nil {
			return fail(err)
		}
	}
	m.Devices = r.found
	return m, nil
}

// ramBlocks reads the answer of info ramblock: name, page size, then offset, used and total in hexadecimal.
func ramBlocks(text string) []RAMBlock {
	var all []RAMBlock
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		hex := slices.DeleteFunc(slices.Clone(f), func(w string) bool { return !strings.HasPrefix(w, "0x") })
		if len(f) == 0 || len(hex) < 3 {
			continue
		}
		size, err := strconv.ParseUint(hex[2][2:], 16, 64)
		if err == nil {
			all = append(all, RAMBlock{Name: f[0], Size: size})
		}
	}
	slices.SortFunc(all, func(a, b RAMBlock) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// deviceReader walks QEMU's tree of objects.
type deviceReader struct {
	q     *Monitor
	found []Device
	seen  map[string]int // devices without an address, by type
	cpu   bool           // one processor was read: they are alike
}

// maxDepth bounds the walk; devices lie within devices, such as a virtio device in its PCI card.
const maxDepth = 5

func (r *deviceReader) read(ctx context.Context, path string, depth int) error {
	var props []qomProperty
	if err := r.q.Run(ctx, "qom-list", map[string]string{"path": path}, &props); err != nil {
		return err
	}
	slices.SortFunc(props, func(a, b qomProperty) int { return strings.Compare(a.Name, b.Name) })
	if slices.ContainsFunc(props, func(p qomProperty) bool { return p.Name == "realized" }) {
		if err := r.device(ctx, path, props); err != nil {
			return err
		}
	}
	if depth == maxDepth {
		return nil
	}
	for _, p := range props {
		kind, child := strings.CutPrefix(p.Type, "child<")
		kind = strings.TrimSuffix(kind, ">")
		switch {
		case !child, kind == "container", kind == "irq", strings.HasPrefix(kind, "qemu:"), strings.HasSuffix(kind, "memory-region"):
			continue
		case strings.HasSuffix(kind, "-cpu"):
			if r.cpu {
				continue
			}
			r.cpu = true
		}
		if err := r.read(ctx, path+"/"+p.Name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *deviceReader) device(ctx context.Context, path string, props []qomProperty) error {
	d := Device{Props: map[string]string{}}
	get := func(name string, to any) error {
		return r.q.Run(ctx, "qom-get", map[string]string{"path": path, "property": name}, to)
	}
	if err := get("type", &d.Type); err != nil {
		return err
	}
	var addr *int
	for _, p := range props {
		switch {
		case p.Name == "addr" && strings.HasSuffix(p.Type, "32"):
			var n int
			if get(p.Name, &n) == nil {
				addr = &n
			}
		case passing[p.Name], strings.HasPrefix(p.Name, "legacy-"), strings.HasPrefix(p.Type, "child<"),
			strings.HasPrefix(p.Type, "link<"), strings.HasPrefix(p.Type, "struct"), p.Type == "GuestPanicInformation":
		default:
			var v json.RawMessage
			err := get(p.Name, &v)
			var refused *Error
			switch {
			case err == nil:
				d.Props[p.Name] = string(v)
			case errors.As(err, &refused) && refused.Cause == nil: // it has no value
			default:
				return err
			}
		}
	}
	switch {
	case addr != nil && *addr >= 0:
		var bus string
		_ = get("parent_bus", &bus) // without, the address alone has to do
		d.At = fmt.Sprintf("%s %02x.%x", filepath.Base(bus), *addr>>3, *addr&7)
	default:
		d.At = "#" + strconv.Itoa(r.seen[d.Type])
		r.seen[d.Type]++
	}
	r.found = append(r.found, d)
	return nil
}

// Expect is the machine that a configuration makes. QEMU is started for it, does not run the guest, has neither network
// nor disks, and is ended again.
func Expect(ctx context.Context, cfg VMConfig) (*Machine, error) {
	fail := func(err error) (*Machine, error) {
		return nil, fmt.Errorf("make the configuration's machine to compare with: %w", err)
	}
	if err := cfg.complete(); err != nil {
		return fail(err)
	}
	bin, err := lookBinary(cfg.Binary)
	if err != nil {
		return fail(err)
	}
	args, err := lifeless(cfg.args(false))
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "colod-expect-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	q, err := startBare(ctx, bin, dir, append(args, "-S")...)
	if err != nil {
		return fail(err)
	}
	defer q.end()
	m, err := readMachine(ctx, q.mon)
	if err != nil {
		return fail(err)
	}
	return m, nil
}

// lifeless is a command line with the same machine and devices, and nothing behind them: no file is written, no socket is
// opened. It refuses what it does not know how to cut off.
func lifeless(args []string) ([]string, error) {
	var out []string
	for i := 0; i < len(args); i++ {
		opt, value := args[i], ""
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			value = args[i]
		}
		switch opt {
		case "-name", "-display", "-vnc", "-spice", "-qmp", "-monitor", "-nodefaults", "-no-user-config", "-S", "-daemonize", "-pidfile",
			"-D", "-d", "-sandbox", "-msg", "-runas", "-incoming":
		case "-chardev":
			out = append(out, opt, "null,id="+option(value, "id"))
		case "-serial", "-parallel":
			if !strings.HasPrefix(value, "chardev:") && value != "none" {
				value = "null"
			}
			out = append(out, opt, value)
		case "-netdev":
			out = append(out, opt, "hubport,hubid=0,id="+option(value, "id"))
		case "-blockdev":
			name := option(value, "node-name")
			if strings.HasPrefix(value, "{") {
				var node struct {
					Name string `json:"node-name"`
				}
				if err := json.Unmarshal([]byte(value), &node); err != nil {
					return nil, fmt.Errorf("read argument -blockdev %s: %w", value, err)
				}
				name = node.Name
			}
			out = append(out, opt, `{"driver":"null-co","node-name":`+strconv.Quote(name)+`,"size":1073741824}`)
		case "-drive":
			kept := []string{"file=null-co://", "format=raw"}
			for _, o := range strings.Split(value, ",") {
				switch k, _, _ := strings.Cut(o, "="); k {
				case "if", "id", "index", "media", "bus", "unit", "readonly":
					kept = append(kept, o)
				}
			}
			out = append(out, opt, strings.Join(kept, ","))
		case "-object":
			kind, _, _ := strings.Cut(value, ",")
			switch kind {
			case "iothread", "rng-random", "rng-builtin", "memory-backend-ram", "secret", "throttle-group":
			default:
				return nil, fmt.Errorf("vm.args has -object %s, whose like is not made for a comparison", kind)
			}
			out = append(out, opt, value)
		case "-machine", "-M", "-cpu", "-m", "-smp", "-accel", "-device", "-global", "-kernel", "-initrd", "-append", "-bios", "-boot",
			"-rtc", "-smbios", "-uuid", "-vga", "-k", "-no-reboot", "-no-shutdown", "-no-hpet", "-no-acpi", "-enable-kvm", "-action",
			"-watchdog-action", "-overcommit", "-usb", "-usbdevice", "-numa":
			if out = append(out, opt); value != "" {
				out = append(out, value)
			}
		default:
			return nil, fmt.Errorf("vm.args has %s, whose like is not made for a comparison", opt)
		}
	}
	return out, nil
}

// option is the value of a key in QEMU's KEY=VALUE,... form.
func option(list, key string) string {
	for _, o := range strings.Split(list, ",") {
		if v, ok := strings.CutPrefix(o, key+"="); ok {
			return v
		}
	}
	return ""
}
