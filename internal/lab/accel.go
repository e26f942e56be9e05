package lab

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"colod/internal/lab/image"
	"colod/qmp"
)

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
		if err := qmp.CheckKVM(ctx, qemuBinary, img.Kernel); err != nil {
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
