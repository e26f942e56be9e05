package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultBinary = "qemu-system-x86_64"

	maxRunDir           = 90 // bytes; sun_path holds 108 with its final zero
	defaultStartTimeout = 15 * time.Second
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// complete fills in defaults and returns every problem of the configuration.
func (c *VMConfig) complete() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !nameRule.MatchString(c.Name) {
		bad("name %q: want 1 to 64 of letters, digits, \"_\", \".\", \"-\", a letter or digit first", c.Name)
	}
	if c.Machine == "" {
		c.Machine = "pc"
	}
	if c.SMP == 0 {
		c.SMP = 1
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = defaultStartTimeout
	}
	if c.Accel != KVM && c.Accel != TCG {
		bad("accelerator: want KVM or TCG")
	}
	if c.CPU == "" {
		c.CPU = defaultCPU(c.Accel)
	}
	if c.Memory < 1<<20 || c.Memory%(1<<20) != 0 {
		bad("memory %d bytes: want a multiple of 1 MiB", c.Memory)
	}
	if c.SMP < 1 || c.SMP > 255 {
		bad("%d vCPUs: want 1 to 255", c.SMP)
	}
	if c.RunDir == "" || !filepath.IsAbs(c.RunDir) || len(c.RunDir) > maxRunDir || strings.ContainsAny(c.RunDir, ",\n") {
		bad("run directory %q: want an absolute path of at most %d bytes without a comma", c.RunDir, maxRunDir)
	}
	if c.Tap != "" {
		if _, err := net.ParseMAC(c.MAC); err != nil {
			bad("MAC address %q of the guest's NIC: %w", c.MAC, err)
		}
		if len(c.Tap) >= unix.IFNAMSIZ || strings.ContainsAny(c.Tap, ", /\n") {
			bad("tap name %q: not an interface name", c.Tap)
		}
	}
	if c.Kernel == "" && (c.Initrd != "" || c.Append != "") {
		bad("initrd and append need a kernel")
	}
	for _, f := range []string{c.Kernel, c.Initrd} {
		if f == "" {
			continue
		}
		if h, err := os.Open(f); err != nil {
			bad("boot file: %w", err)
		} else {
			h.Close()
		}
	}
	for _, e := range c.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			bad("environment %q: want KEY=VALUE", e)
		}
	}
	return errors.Join(errs...)
}

func defaultCPU(a Accel) string {
	if a == KVM {
		return "host"
	}
	return "qemu64"
}

// args is QEMU's command line. It must not differ between the two sides in anything that is part of
// the migrated state.
func (c *VMConfig) args(incoming bool) []string {
	in := func(name string) string { return filepath.Join(c.RunDir, name) }
	a := []string{
		"-name", "guest=" + c.Name + ",process=colod-" + c.Name,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", c.Machine + ",accel=" + c.Accel.String(),
		"-cpu", c.CPU,
		"-m", "size=" + strconv.FormatInt(c.Memory>>20, 10) + "M",
		"-smp", strconv.Itoa(c.SMP),
		"-qmp", monitorOption(in(FileQMP)),
		"-qmp", monitorOption(in(FileOOB)),
		"-chardev", "file,id=console,path=" + in(FileConsole) + ",append=on",
		"-serial", "chardev:console",
	}
	a = append(a, c.NICArgs()...)
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel)
	}
	if c.Initrd != "" {
		a = append(a, "-initrd", c.Initrd)
	}
	if c.Append != "" {
		a = append(a, "-append", c.Append)
	}
	a = append(a, c.Args...)
	if incoming {
		a = append(a, "-incoming", "defer")
	}
	return a
}

// NICArgs are QEMU's arguments for the guest's network card; none without a tap.
func (c *VMConfig) NICArgs() []string {
	if c.Tap == "" {
		return nil
	}
	// use-disabled-flag=off: a virtio device notes that its bus mastering is off in a flag which is part of the
	// migrated state only while it is set (QEMU 7.2 to 11.1, hw/virtio/virtio.c). A secondary that loads a
	// checkpoint at a moment of its boot at which the flag is set, from a primary on which it is not, keeps it
	// for ever: its guest sends and receives nothing. Seen in 1 of 6 boots with checkpoints 50 ms apart, in
	// 0 of 12 with the flag unused.
	//
	// guest_announce=off: with it, loading state frees a timer that the device's reset then uses (QEMU 7.2,
	// virtio-net), so a guest that reboots after a checkpoint or a takeover ends its QEMU.
	return []string{
		"-netdev", "tap,id=net0,ifname=" + c.Tap + ",script=no,downscript=no,vhost=off",
		"-device", "virtio-net-pci,id=nic0,netdev=net0,mac=" + c.MAC + ",romfile=,use-disabled-flag=off,guest_announce=off",
	}
}

// monitorOption makes QEMU wait for its first client before it goes on. A client that connects while
// QEMU starts its main loop can otherwise be read by two threads at once, each taking a part of its
// commands (seen with 7.2 once in 100 starts of a machine without devices).
func monitorOption(path string) string { return "unix:" + path + ",server=on,wait=on" }

// environ is QEMU's environment: what a program needs, none of colod's own service-manager sockets.
func (c *VMConfig) environ() []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return append(env, c.Env...)
}

// Launch starts a VM: running its guest at once, or, with incoming, waiting for [VM.PrepareSecondary].
// It returns when the monitor answers. The process is in a session of its own with its own files
// for output: it outlives colod. What a dead VM left in RunDir is cleaned; a live one gives
// [ErrVMRunning].
func Launch(ctx context.Context, cfg VMConfig, incoming bool) (*VM, error) {
	fail := func(err error) (*VM, error) {
		return nil, fmt.Errorf("launch VM %s: %w", cfg.Name, err)
	}
	reg, proc, err := start(&cfg, incoming)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	v, err := attach(ctx, cfg, reg, proc, nil)
	if err != nil {
		err = startError(proc, reg.Log, err)
		abort(proc, cfg.RunDir)
		return fail(fmt.Errorf("%w (command line in %s)", err, reg.Log))
	}
	return v, nil
}

// start launches QEMU and writes its registry; the monitor may not be open yet. cfg is completed.
func start(cfg *VMConfig, incoming bool) (registry, *process, error) {
	none := func(err error) (registry, *process, error) { return registry{}, nil, err }
	if err := cfg.complete(); err != nil {
		return none(err)
	}
	bin, err := lookBinary(cfg.Binary)
	if err != nil {
		return none(err)
	}
	if cfg.Tap != "" { // QEMU would make one that leads nowhere
		if _, err := net.InterfaceByName(cfg.Tap); err != nil {
			return none(fmt.Errorf("find tap %s: %w", cfg.Tap, err))
		}
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return none(fmt.Errorf("make run directory: %w", err))
	}
	if err := claimRunDir(cfg.RunDir); err != nil {
		return none(err)
	}
	boot, err := bootID()
	if err != nil {
		return none(fmt.Errorf("read boot id: %w", err))
	}
	in := func(name string) string { return filepath.Join(cfg.RunDir, name) }
	reg := registry{
		Format: 1, Name: cfg.Name, Boot: boot, QMP: in(FileQMP), OOB: in(FileOOB), Log: in(FileLog), Tap: cfg.Tap,
		Accel: cfg.Accel.String(), Incoming: incoming, Args: append([]string{bin}, cfg.args(incoming)...), Launched: time.Now(),
	}
	// Written before the start as well: a colod that dies in between finds the VM by its socket.
	if err := reg.write(cfg.RunDir); err != nil {
		return none(err)
	}
	proc, err := startQEMU(&reg, cfg)
	if err != nil {
		return none(errors.Join(err, cleanRunDir(cfg.RunDir)))
	}
	if err := reg.write(cfg.RunDir); err != nil {
		abort(proc, cfg.RunDir)
		return none(err)
	}
	return reg, proc, nil
}

// lookBinary finds QEMU; an empty name means the default one.
func lookBinary(name string) (string, error) {
	if name == "" {
		name = defaultBinary
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find QEMU: %w: install it (Debian: apt install qemu-system-x86) or set vm.qemu to its path", err)
	}
	return filepath.Abs(path)
}

// startError makes a QEMU's failure to start readable: how it ended, what it said.
func startError(p *process, log string, err error) error {
	select {
	case <-p.exited:
		err = fmt.Errorf("%w: %s", ErrVMDied, p.status())
	default:
	}
	if tail := logTail(log); tail != "" {
		err = fmt.Errorf("%w; QEMU said: %s", err, tail)
	}
	return err
}

func abort(p *process, dir string) {
	if p.kill() == nil {
		<-p.exited
	}
	p.release()
	_ = cleanRunDir(dir) // the next launch does it again
}

func startQEMU(reg *registry, cfg *VMConfig) (*process, error) {
	log, err := os.OpenFile(reg.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open QEMU's log: %w", err)
	}
	defer log.Close()
	if err := log.Truncate(0); err != nil {
		return nil, fmt.Errorf("open QEMU's log: %w", err)
	}
	fmt.Fprintf(log, "%s%s\n", cmdPrefix, strings.Join(reg.Args, " "))
	cmd := exec.Command(reg.Args[0], reg.Args[1:]...)
	cmd.Env = cfg.environ()
	cmd.Dir = cfg.RunDir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startPlain(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", reg.Args[0], err)
	}
	reg.PID = cmd.Process.Pid
	var proc *process
	if reg.Start, err = startTime(reg.PID); err == nil { // our child: its number is not reused before Wait
		proc, err = openProcess(reg.PID, func() string {
			_ = cmd.Wait() // the state says it all
			return "process ended: " + cmd.ProcessState.String()
		})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return proc, nil
}

const cmdPrefix = "+ "

// claimRunDir refuses the directory of a live VM and cleans that of a dead one.
func claimRunDir(dir string) error {
	reg, err := readRegistry(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil: // unreadable: the socket below decides
	case reg.alive():
		return fmt.Errorf("%w as pid %d in %s: adopt it or end it first", ErrVMRunning, reg.PID, dir)
	}
	if pid, err := listenerPID(filepath.Join(dir, FileQMP)); err == nil {
		return fmt.Errorf("%w as pid %d in %s: adopt it or end it first", ErrVMRunning, pid, dir)
	}
	return cleanRunDir(dir)
}

// attach connects both monitors. proc is the process that was started, or nil to take the one that
// answers. While started (nil: as long as proc lives) says so, a socket that is not there yet is
// waited for.
func attach(ctx context.Context, cfg VMConfig, reg registry, proc *process, started func() bool) (_ *VM, err error) {
	v := &VM{cfg: cfg, reg: reg, proc: proc}
	defer func() {
		if err != nil {
			v.closeMonitors()
			if proc == nil && v.proc != nil {
				v.proc.release()
			}
		}
	}()
	var exited <-chan struct{}
	if proc != nil {
		exited = proc.exited
		started = func() bool { return true }
	}
	dial := func(path string) (net.Conn, error) {
		for {
			c, err := connect(ctx, path)
			if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) || started == nil || !started() {
				return c, err
			}
			select {
			case <-exited:
				return nil, ErrVMDied
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: QEMU did not open its monitor: %w", ErrNoReply, ctx.Err())
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	main, err := dial(reg.QMP)
	if err != nil {
		return nil, err
	}
	if v.proc == nil {
		pid, err := peerPID(main)
		if err == nil && reg.PID != 0 && pid != reg.PID {
			err = fmt.Errorf("%w: the monitor belongs to process %d, the registry says %d", ErrNoVM, pid, reg.PID)
		}
		if err == nil {
			v.proc, err = openProcess(pid, nil)
		}
		if err != nil {
			main.Close()
			return nil, err
		}
	}
	// Both are connected before either is spoken to: a new QEMU waits for both.
	var second net.Conn
	if reg.OOB != "" {
		if second, err = dial(reg.OOB); err != nil {
			main.Close()
			return nil, err
		}
	}
	mon := newMonitor(reg.QMP, nil)
	err = mon.negotiate(ctx, main)
	if err == nil {
		v.mon = mon
	}
	if second != nil {
		if err != nil {
			second.Close()
		} else {
			oob := newMonitor(reg.OOB, nil)
			if err = oob.negotiate(ctx, second); err == nil {
				v.oob = oob
			}
		}
	}
	if err != nil {
		select { // a QEMU that dies on start closes the connection a little before it is gone
		case <-exited:
		case <-time.After(200 * time.Millisecond):
		}
		return nil, err
	}
	// An answer that comes after the handle was opened proves that the handle is of the listener.
	cpus, err := v.CPUThreads(ctx)
	if err != nil {
		return nil, err
	}
	for _, tid := range append(cpus, v.proc.pid) {
		v.proc.watchThread(tid)
	}
	go func() {
		select {
		case <-v.mon.Done():
			v.proc.monitorEnded(v.mon.Err())
		case <-v.proc.exited:
		}
	}()
	go boundLogs(v.mon.Done(), logInterval, maxLog, v.logFiles()...)
	return v, nil
}
