package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Foreign says how a running VM that colod did not start is reached.
type Foreign struct {
	Name    string // pair's name
	Monitor string // QMP socket on which QEMU itself listens, and which nobody else uses
	OOB     string // a second one, for emergencies; empty: the first has to do
	Log     string // file with QEMU's messages; empty: unknown
	Tap     string // the guest's
}

// Claim makes a running VM that colod did not start the one of runDir, so that [Adopt] finds it there and [EndStale]
// ends it. The process is the one that listens on the monitor. A live VM of runDir is refused with [ErrVMRunning], unless
// the monitor is its own.
func Claim(ctx context.Context, runDir string, f Foreign) (*VM, error) {
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("adopt VM at %s: %w", f.Monitor, err) }
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return fail(fmt.Errorf("make run directory: %w", err))
	}
	if filepath.Dir(f.Monitor) != filepath.Clean(runDir) {
		if err := claimRunDir(runDir); err != nil {
			return fail(err)
		}
	}
	boot, err := bootID()
	if err != nil {
		return fail(fmt.Errorf("read boot id: %w", err))
	}
	reg := registry{Format: 1, Name: f.Name, Boot: boot, QMP: f.Monitor, OOB: f.OOB, Log: f.Log, Tap: f.Tap}
	v, err := attach(ctx, VMConfig{Name: f.Name, RunDir: runDir, Tap: f.Tap}, reg, nil, nil)
	if err != nil {
		return fail(err)
	}
	v.reg.PID, v.reg.Args = v.proc.pid, commandLine(v.proc.pid)
	if v.reg.Start, err = startTime(v.proc.pid); err == nil {
		err = v.reg.write(runDir)
	}
	if err != nil {
		v.Close()
		return fail(err)
	}
	return v, nil
}

// Disown takes the VM out of its run directory: it runs on, and no colod finds it there any more. Its sockets stay.
func (v *VM) Disown() error {
	if v.cfg.RunDir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(v.cfg.RunDir, FileRegistry)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disown VM %s: %w", v.reg.Name, err)
	}
	return nil
}

// Sockets are the VM's monitors and the file of its messages, as [Foreign] has them.
func (v *VM) Sockets() Foreign {
	return Foreign{Name: v.reg.Name, Monitor: v.reg.QMP, OOB: v.reg.OOB, Log: v.reg.Log, Tap: v.reg.Tap}
}

// RegisteredTap is the tap of the VM that is registered in runDir, and whether that VM lives.
func RegisteredTap(runDir string) (tap string, alive bool) {
	r, err := readRegistry(runDir)
	if err != nil {
		return "", false
	}
	return r.Tap, r.alive()
}

// Process is what the kernel says of a VM's process.
type Process struct {
	PID   int
	Start uint64   // clock ticks from boot, which with the boot makes the number unique
	Boot  string   // the boot's identity
	Args  []string // command line, program first; empty if it cannot be read
	Env   []string // environment at its start; nil if it cannot be read
	Taps  []string // taps that it has open, sorted; nil if its descriptors cannot be seen
	VHost bool     // it has vhost-net open
	Deny  []string // what this process may not do to it, in words
}

// Process looks at the VM's process.
func (v *VM) Process() Process {
	pid := v.proc.pid
	p := Process{PID: pid, Args: commandLine(pid)}
	p.Start, _ = startTime(pid) // 0 is like no other
	p.Boot, _ = bootID()
	deny := func(what string, err error) { p.Deny = append(p.Deny, what+": "+err.Error()) }
	if err := v.proc.signal(0); err != nil {
		deny("send it a signal, with which it is ended", err)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil {
		p.Env = strings.FieldsFunc(string(env), func(r rune) bool { return r == 0 })
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		deny("see its descriptors, of which one is its tap", err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		switch to {
		case "/dev/vhost-net":
			p.VHost = true
		case "/dev/net/tun":
			info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
			for line := range strings.Lines(string(info)) {
				if f := strings.Fields(line); len(f) == 2 && f[0] == "iff:" {
					p.Taps = append(p.Taps, f[1])
				}
			}
		}
	}
	slices.Sort(p.Taps)
	return p
}

// Alive reports whether that very process still runs.
func (p *Process) Alive() bool {
	r := registry{PID: p.PID, Start: p.Start, Boot: p.Boot}
	return r.alive()
}

func commandLine(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// MayDuplicate reports whether this process may take the tap's descriptor from the VM, which it does with a
// secondary and when it lets go of a VM.
func (v *VM) MayDuplicate(tap string) error {
	f, err := v.TapFD(tap)
	if err != nil {
		return err
	}
	return f.Close()
}

// ForgetTap makes the tap go with the VM, when it is not this host's any more: a persistent one would stay.
func (v *VM) ForgetTap(tap string) error {
	f, err := v.TapFD(tap)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 0); err != nil {
		return fmt.Errorf("let tap %s go with its VM: %w", tap, err)
	}
	return nil
}
