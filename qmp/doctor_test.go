package qmp

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The boot sector is tried in software, so that a machine without KVM tests it too.
func TestRealBootSectorSpeaks(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "boot.img")
	if err := os.WriteFile(disk, bootSector(bootText), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t, 60*time.Second)
	if err := bootUntil(ctx, os.Getenv("COLOD_QEMU"), dir, TCG, bootText, "-drive", "if=floppy,format=raw,readonly=on,file="+disk); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err := bootUntil(short, os.Getenv("COLOD_QEMU"), dir, TCG, "never said", "-drive", "if=floppy,format=raw,readonly=on,file="+disk)
	if err == nil || !strings.Contains(err.Error(), "the guest said nothing") {
		t.Errorf("a guest that does not speak: %v", err)
	}
}

func TestRealCheckKVMDecides(t *testing.T) {
	start := time.Now()
	err := CheckKVM(testContext(t, 60*time.Second), os.Getenv("COLOD_QEMU"), "")
	t.Logf("%v after %v", err, time.Since(start))
	if err != nil && !strings.HasPrefix(err.Error(), "check KVM: ") {
		t.Errorf("error %q", err)
	}
	if err := CheckKVM(testContext(t, time.Second), "qemu-that-is-not-there", ""); err == nil {
		t.Error("KVM without QEMU")
	}
}

func TestRealProbe(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	info, err := Probe(ctx, os.Getenv("COLOD_QEMU"))
	if err != nil {
		t.Fatal(err)
	}
	if !info.Usable() && info.Support != Unsupported || len(info.Missing) > 0 || !filepath.IsAbs(info.Binary) {
		t.Errorf("%+v", info)
	}
	for bin, want := range map[string]string{"qemu-that-is-not-there": "apt install qemu-system-x86", "/bin/false": "QEMU ended"} {
		if _, err := Probe(ctx, bin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", bin, err, want)
		}
	}
}

func TestCheckMemory(t *testing.T) {
	if err := CheckMemory(1 << 20); err != nil {
		t.Error(err)
	}
	err := CheckMemory(1 << 50)
	if err == nil || !strings.Contains(err.Error(), "a guest of 1073741824 MiB needs 2147483808 MiB") {
		t.Errorf("got %v", err)
	}
}
