package qmp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Accel chooses how guest instructions run. The zero value is invalid: a pair's two nodes must run
// the same, so it is decided once and not guessed here.
type Accel uint8

const (
	_   Accel = iota
	KVM       // in hardware; see [CheckKVM] for what counts as having it
	TCG       // in software; QEMU 7.2 and 10.0 need the shim of internal/lab for COLO
)

func (a Accel) String() string {
	switch a {
	case KVM:
		return "kvm"
	case TCG:
		return "tcg"
	}
	return fmt.Sprintf("Accel(%d)", uint8(a))
}

// VMConfig describes one side of a pair. But for RunDir and Tap both sides must have the same, or
// the state of one does not fit the other.
type VMConfig struct {
	Name    string // pair's name: letters, digits, "-", "_", "."; shown in the process list
	Binary  string // QEMU; default qemu-system-x86_64, looked up in PATH
	Accel   Accel
	Machine string // default "pc"
	CPU     string // default "qemu64" with TCG, "host" with KVM
	Memory  int64  // bytes of guest RAM, a multiple of 1 MiB, at least 1 MiB
	SMP     int    // vCPUs; default 1
	Kernel  string // file; empty: the firmware boots
	Initrd  string // file; only with Kernel
	Append  string // kernel command line; only with Kernel
	Tap     string // existing tap interface; empty: no NIC
	MAC     string // of the guest's NIC; needed with Tap
	Args    []string
	Env     []string // KEY=VALUE added to the environment, such as LD_PRELOAD

	// RunDir belongs to this VM alone: sockets, registry, QEMU's messages, guest console. Made if
	// absent, mode 0700. Its path may have 90 bytes at most (unix socket addresses are short).
	RunDir string
	// StartTimeout bounds the time from exec to an answering monitor. Default 15 s.
	StartTimeout time.Duration
}

// Files in a VM's run directory.
const (
	FileRegistry = "vm.json"     // what Adopt needs
	FileQMP      = "qmp.sock"    // main monitor
	FileOOB      = "oob.sock"    // second monitor, for emergencies
	FileLog      = "qemu.log"    // QEMU's stdout and stderr
	FileConsole  = "console.log" // guest's first serial port
)

// VM is a running QEMU. All methods are safe for use by many goroutines.
type VM struct {
	cfg  VMConfig // only Name and RunDir are set for a VM that colod did not start
	reg  registry
	proc *process
	mon  *Monitor

	oobMu sync.Mutex
	oob   *Monitor // nil while there is none; see emergency

	coloMu sync.Mutex // one COLO procedure at a time
}

// Name is the pair's name.
func (v *VM) Name() string { return v.reg.Name }

// PID of the QEMU process.
func (v *VM) PID() int { return v.proc.pid }

// RunDir is the VM's run directory; empty for a VM adopted by its socket alone.
func (v *VM) RunDir() string { return v.cfg.RunDir }

// Monitor is the main monitor connection. It does not change during the life of a VM value.
func (v *VM) Monitor() *Monitor { return v.mon }

// Version of QEMU.
func (v *VM) Version() Version { return v.mon.Version() }

// Subscribe is short for Monitor().Subscribe.
func (v *VM) Subscribe(n int) *Subscription { return v.mon.Subscribe(n) }

// Died is closed as soon as the VM is known to be lost: the process ended or its monitor closed,
// whichever is seen first. The process may need a moment more to be gone: see [VM.Exited].
func (v *VM) Died() <-chan struct{} { return v.proc.died }

// Exited is closed when the process is gone and its memory with it.
func (v *VM) Exited() <-chan struct{} { return v.proc.exited }

// DiedAt is the time at which Died was closed; zero before.
func (v *VM) DiedAt() time.Time { return v.proc.diedAt() }

// DeathReport says how the process ended, with the last lines of QEMU's messages: for an operator.
func (v *VM) DeathReport() string {
	s := v.proc.status()
	if t := v.LogTail(); t != "" {
		s += "; QEMU said: " + t
	}
	return s
}

// LogTail returns the last lines (1 KiB at most) that QEMU wrote, joined by "; ".
func (v *VM) LogTail() string { return logTail(v.reg.Log) }

// Kill ends the process at once (SIGKILL) and returns when it is gone. Killing a dead VM is no error.
func (v *VM) Kill(ctx context.Context) error {
	if err := v.proc.kill(); err != nil {
		return fmt.Errorf("kill VM %s (pid %d): %w", v.reg.Name, v.proc.pid, err)
	}
	select {
	case <-v.proc.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill VM %s (pid %d): not gone yet: %w", v.reg.Name, v.proc.pid, ctx.Err())
	}
}

// Close lets go of the VM without touching it: connections and handles only. It goes on running and
// can be adopted again.
func (v *VM) Close() error {
	v.proc.release()
	return v.closeMonitors()
}

func (v *VM) closeMonitors() error {
	v.oobMu.Lock()
	defer v.oobMu.Unlock()
	var errs []error
	for _, m := range []*Monitor{v.mon, v.oob} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Remove deletes a dead VM's sockets and registry from its run directory; logs stay.
func (v *VM) Remove() error {
	select {
	case <-v.proc.exited:
	default:
		return fmt.Errorf("remove run directory of VM %s: %w as pid %d", v.reg.Name, ErrVMRunning, v.proc.pid)
	}
	if v.cfg.RunDir == "" {
		return nil // not ours
	}
	return cleanRunDir(v.cfg.RunDir)
}

// TapFD returns a duplicate of QEMU's own descriptor of the tap interface (pidfd_getfd), for instance
// to empty its queue. The caller closes it. Needs the rights of ptrace.
func (v *VM) TapFD(tap string) (*os.File, error) { return v.proc.tapFD(tap) }
