package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"colod/internal/lab/image"
)

// kvmPatience is how long a kernel under KVM may take to its first line. It
// takes a tenth of a second where KVM works.
const kvmPatience = 6 * time.Second

// accelVerdict is the result of one attempt, kept until the machine is started
// again.
type accelVerdict struct {
	Boot  string `json:"boot"`
	Accel string `json:"accel"`
	Why   string `json:"why"`
}

// detectAccel finds out whether guests can run under KVM here, by letting one
// print its first line: a /dev/kvm that opens says little, since on a host that is
// itself a guest Linux may never get started by it.
func detectAccel(ctx context.Context, img *image.Image, progress func(string)) (accelVerdict, error) {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	v := accelVerdict{Boot: strings.TrimSpace(string(boot)), Accel: "tcg"}
	dir, err := image.CacheDir()
	if err != nil {
		return v, err
	}
	cached := filepath.Join(dir, "accel.json")
	if data, err := os.ReadFile(cached); err == nil {
		var old accelVerdict
		if json.Unmarshal(data, &old) == nil && old.Boot == v.Boot && v.Boot != "" {
			return old, nil
		}
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		v.Why = err.Error()
	} else {
		kvm.Close()
		progress("finding out whether KVM works here")
		if err := tryKVM(ctx, img); err != nil {
			v.Why = err.Error()
		} else {
			v.Accel, v.Why = "kvm", "a kernel started under KVM"
		}
	}
	if ctx.Err() != nil {
		return v, ctx.Err()
	}
	if data, err := json.Marshal(v); err == nil {
		// A verdict that cannot be kept is found again the next time.
		_ = os.WriteFile(cached, data, 0o644)
	}
	return v, nil
}

func tryKVM(ctx context.Context, img *image.Image) error {
	ctx, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuBinary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc,accel=kvm", "-cpu", "host", "-m", "128M", "-serial", "stdio",
		"-kernel", img.Kernel, "-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	w := &firstLine{found: cancel}
	cmd.Stdout = w
	err := cmd.Run()
	if w.seen {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("/dev/kvm opens, but no kernel printed a line within %s", kvmPatience)
	}
	return fmt.Errorf("start a kernel under KVM: %w", err)
}

// firstLine watches for the kernel's first message.
type firstLine struct {
	buf   bytes.Buffer
	seen  bool
	found func()
}

func (f *firstLine) Write(b []byte) (int, error) {
	f.buf.Write(b)
	if !f.seen && bytes.Contains(f.buf.Bytes(), []byte("Linux version")) {
		f.seen = true
		f.found()
	}
	return len(b), nil
}
