package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"colod/coordinator/config"
	"colod/qmp"
)

// accelChoice decides what "accel: auto" means on this host. The test of KVM
// runs real guests and takes seconds, so its outcome is kept until reboot.
type accelChoice struct {
	file string

	mu    sync.Mutex
	known map[string]string // "binary kernel" -> "kvm", or "tcg"
}

func newAccelChoice(runDir string) *accelChoice {
	return &accelChoice{file: filepath.Join(runDir, "accel.json"), known: map[string]string{}}
}

// of is the accelerator of a VM.
func (a *accelChoice) of(ctx context.Context, vm *config.VM) (qmp.Accel, error) {
	switch vm.Accel {
	case "kvm":
		return qmp.KVM, nil
	case "tcg":
		return qmp.TCG, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0, fmt.Errorf("choose accelerator: %w", err)
	}
	key := strings.Join([]string{strings.TrimSpace(string(boot)), vm.QEMU, vm.Kernel}, " ")
	if len(a.known) == 0 {
		if b, err := os.ReadFile(a.file); err == nil {
			_ = json.Unmarshal(b, &a.known) // unreadable: it is tested again
		}
	}
	switch a.known[key] {
	case "kvm":
		return qmp.KVM, nil
	case "tcg":
		return qmp.TCG, nil
	}
	choice, name := qmp.KVM, "kvm"
	if err := qmp.CheckKVM(ctx, vm.QEMU, vm.Kernel); err != nil {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("choose accelerator: %w", ctx.Err())
		}
		choice, name = qmp.TCG, "tcg"
	}
	a.known[key] = name
	if b, err := json.Marshal(a.known); err == nil {
		_ = os.WriteFile(a.file, b, 0o600) // without it the next start tests again
	}
	return choice, nil
}
