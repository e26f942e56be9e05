package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"colod/internal/priority"
)

const qemuBinary = "qemu-system-x86_64"

// cpuModel is the processor that the guests see. None has an instruction for
// random numbers: with one, the two guests would differ more than real load
// makes them.
func cpuModel(accel string) string {
	if accel == "kvm" {
		return "host,-rdrand,-rdseed"
	}
	return "qemu64"
}

// CPU is the processor that the lab's guests see, as QEMU names it.
func (l *Lab) CPU() string { return cpuModel(l.state.Accel) }

// startNative starts the one guest of an unprotected lab, on node a, connected
// straight to the bridge: the same way as with colod, without colod.
func (l *Lab) startNative(ctx context.Context) error {
	ns := l.ns(NodeA)
	if err := ipBatch(ctx, ns, fmt.Sprintf(`
		tuntap add vm0 mode tap vnet_hdr
		link set vm0 txqueuelen 4000 master %s up`, Bridge)); err != nil {
		return err
	}
	dir := l.nodeDir(NodeA)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"netns", "exec", ns, qemuBinary,
		"-name", "colod-" + l.Name + "-native",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "pc,accel=" + l.state.Accel, "-cpu", cpuModel(l.state.Accel),
		"-m", l.state.Memory, "-smp", fmt.Sprint(l.state.SMP),
		"-kernel", l.state.Kernel, "-initrd", l.state.Initrd, "-append", l.state.Append,
		"-serial", "file:" + filepath.Join(dir, "console.log"),
		"-netdev", "tap,id=net0,ifname=vm0,script=no,downscript=no,vhost=off",
		"-device", "virtio-net-pci,netdev=net0,romfile=,mac=" + GuestMAC,
		"-qmp", "unix:" + filepath.Join(dir, "qmp.sock") + ",server=on,wait=off"}
	if l.state.Disk != "" {
		args = append(args, "-drive", "if=virtio,format=raw,file="+l.DiskImage(NodeA))
	}
	pid, err := l.startDetached("ip", args, filepath.Join(dir, "qemu.log"), nil)
	if err != nil {
		return err
	}
	// As colod does with its guests: all have the same share of the processors, however the lab was started. What may not be, is not.
	_ = priority.Set(pid, 0)
	return nil
}

// startDetached starts a program that outlives this process, with its output
// in a file, and returns its number.
func (l *Lab) startDetached(name string, args []string, log string, env []string) (int, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	// Collected when it ends, so that a killed one does not look alive to killAll.
	go cmd.Wait()
	return cmd.Process.Pid, nil
}
