package coordinator

import (
	"bufio"
	"bytes"
	"context"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator/placement"
	"colod/coordinator/registry"
)

// HostFacts are what a host can run. What is empty is not known.
type HostFacts struct {
	QEMU             string
	Machines, Models []string // of QEMU
	CPU              string   // model name
	Flags            []string // of the CPU, as in /proc/cpuinfo
	Accel            []string
}

// qemuTimeout bounds one question to a QEMU binary.
const qemuTimeout = 20 * time.Second

// Facts finds out what the host can run. QEMU takes a moment to answer.
func (h *Host) Facts(ctx context.Context, binary string) HostFacts {
	say := func(args ...string) []byte {
		ctx, cancel := context.WithTimeout(ctx, qemuTimeout)
		defer cancel()
		out, _ := exec.CommandContext(ctx, binary, args...).Output() // without QEMU, the launch of a VM says so
		return out
	}
	f := HostFacts{
		QEMU: qemuVersion(say("-version")), Machines: firstWords(say("-machine", "help")), Models: cpuModels(say("-cpu", "help")),
		Accel: []string{"tcg"},
	}
	if fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
		f.Accel = append(f.Accel, "kvm")
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	f.CPU, f.Flags = cpuInfo(info)
	return f
}

// learnFacts keeps what the host can run; it does not change while colod runs.
func (n *Node) learnFacts() {
	binary := "qemu-system-x86_64"
	if len(n.cfg.Pairs) > 0 {
		binary = n.cfg.Pairs[0].VM.QEMU
	}
	f := n.opt.Platform.Facts(n.ctx, binary)
	if n.ctx.Err() == nil {
		n.facts.Store(&f)
	}
}

var versionForm = regexp.MustCompile(`version ([0-9]+(\.[0-9]+)*)`)

// qemuVersion is the number in the answer to -version.
func qemuVersion(out []byte) string {
	if m := versionForm.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

// firstWords are the first words of the lines behind the first, which is a
// headline.
func firstWords(out []byte) []string {
	var words []string
	sc := bufio.NewScanner(bytes.NewReader(out))
	for first := true; sc.Scan(); first = false {
		if w := strings.Fields(sc.Text()); !first && len(w) > 0 {
			words = append(words, w[0])
		}
	}
	return words
}

// cpuModels are the models in the answer to -cpu help: lines "x86 NAME ..." of
// older releases, or indented names, until the list of CPU flags.
func cpuModels(out []byte) []string {
	var models []string
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "Recognized CPUID flags") {
			break
		}
		w := strings.Fields(sc.Text())
		switch {
		case len(w) > 1 && w[0] == "x86":
			models = append(models, w[1])
		case len(w) > 0 && strings.HasPrefix(sc.Text(), " "):
			models = append(models, w[0])
		}
	}
	return models
}

// cpuInfo reads model and flags of the first CPU in /proc/cpuinfo.
func cpuInfo(info []byte) (model string, flags []string) {
	sc := bufio.NewScanner(bytes.NewReader(info))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() && sc.Text() != "" {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			flags = strings.Fields(value)
		}
	}
	return model, flags
}

// memory is the host's memory and what of it can be had, in bytes.
func memory() (total, free uint64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		kib, _ := strconv.ParseUint(w[1], 10, 64)
		switch w[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			free = kib << 10
		}
	}
	return total, free
}

// entry is what this node says of itself.
func (n *Node) entry() registry.Node {
	f := n.facts.Load()
	if f == nil {
		f = &HostFacts{} // not found out yet
	}
	e := registry.Node{
		Name: n.cfg.Node, Boot: n.boot, Updated: time.Now(), Colod: n.opt.Version, Domain: n.cfg.Domain,
		QEMU: f.QEMU, Accel: f.Accel, CPU: f.CPU, CPUs: runtime.NumCPU(), CPUFlags: f.Flags, Machines: f.Machines, Models: f.Models,
		Spare: n.cfg.Spare.Bridge != "",
	}
	self := n.self()
	e.Address, e.Paths = self.Address, self.Paths
	e.MemTotal, e.MemFree = memory()
	e.MemFree = n.unpromised(e.MemFree)
	held := 0
	for _, d := range n.all() {
		e.Pairs = append(e.Pairs, d.cfg.Name)
		if d.vm.Load() != nil {
			e.Running++
		}
		if d.held.Load() != nil {
			held++
		}
	}
	if held > 0 && held == len(e.Pairs) {
		e.Maintenance = "all pairs of this node are in maintenance"
	}
	return e
}

// factsOf is what the choice of a node looks at.
func factsOf(e *registry.Node) placement.Facts {
	return placement.Facts{
		Name: e.Name, Domain: e.Domain, QEMU: e.QEMU, Machines: e.Machines, CPUs: e.Models, Accel: e.Accel,
		CPUFlags: e.CPUFlags, CPUCount: e.CPUs, MemTotal: e.MemTotal, MemFree: e.MemFree, Maintenance: e.Maintenance,
		Pairs: e.Running, Spare: e.Spare,
	}
}

// unknownFacts are those of a node that has said nothing of itself: nothing
// speaks against it.
func unknownFacts(name string) placement.Facts {
	return placement.Facts{Name: name, MemTotal: math.MaxUint64, MemFree: math.MaxUint64}
}

// needs are what the pair's guest asks of the node of its secondary.
func (d *driver) needs(last []string) placement.Needs {
	vm := &d.cfg.VM
	n := placement.Needs{
		Pair: d.cfg.Name, Memory: vm.Memory.Bytes(), SMP: vm.SMP, Machine: vm.Machine, CPU: vm.CPU,
		Domain: d.domain, Last: last,
	}
	if vm.Accel != "auto" {
		n.Accel = vm.Accel
	}
	for _, l := range d.cfg.Nodes {
		n.Listed = append(n.Listed, l.Name)
	}
	if h := d.vm.Load(); h != nil {
		n.QEMU = h.Version().String()
	}
	if model, _, _ := strings.Cut(vm.CPU, ","); slices.Contains([]string{"host", "max"}, model) && n.Accel != "tcg" {
		info, _ := os.ReadFile("/proc/cpuinfo")
		_, n.CPUFeatures = cpuInfo(info)
	}
	return n
}
