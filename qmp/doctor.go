package qmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kvmPatience is how long a guest under KVM may take to its first sign of life. With working KVM it
// takes well under a second.
const kvmPatience = 8 * time.Second

const bootText = "colod boot sector"

// CheckKVM returns nil if KVM really runs guests here. A /dev/kvm that opens is no proof: on a host
// that is itself a paravirtualised guest the firmware may run while Linux never gets past
// "Booting". So two small guests must run: a boot sector of our own that writes to the serial port,
// and then, if kernel names a file, that Linux kernel up to its first line. It takes 16 s at most.
func CheckKVM(ctx context.Context, binary, kernel string) error {
	fail := func(err error) error { return fmt.Errorf("check KVM: %w", err) }
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(fmt.Errorf("%w: load kvm_intel or kvm_amd, or use accel: tcg", err))
	case errors.Is(err, fs.ErrPermission):
		return fail(fmt.Errorf("%w: run as root or as a member of group kvm", err))
	case err != nil:
		return fail(err)
	}
	f.Close()
	dir, err := os.MkdirTemp("", "colod-kvm-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "boot.img")
	if err := os.WriteFile(disk, bootSector(bootText), 0o600); err != nil {
		return fail(err)
	}
	if err := bootUntil(ctx, binary, dir, KVM, bootText, "-drive", "if=floppy,format=raw,readonly=on,file="+disk); err != nil {
		return fail(fmt.Errorf("a boot sector does not run: %w", err))
	}
	if kernel == "" {
		return nil
	}
	if err := bootUntil(ctx, binary, dir, KVM, "Linux version", "-kernel", kernel, "-append", "console=ttyS0 earlyprintk=ttyS0"); err != nil {
		return fail(fmt.Errorf("a boot sector runs, Linux does not: %w", err))
	}
	return nil
}

// bootUntil runs a small guest until its first serial port has said want.
func bootUntil(ctx context.Context, binary, dir string, accel Accel, want string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	out := filepath.Join(dir, FileConsole)
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		return err
	}
	path, err := lookBinary(binary)
	if err != nil {
		return err
	}
	q, err := startBare(ctx, path, dir, append([]string{"-machine", "pc,accel=" + accel.String(), "-cpu", defaultCPU(accel), "-m", "128M",
		"-chardev", "file,id=console,path=" + out, "-serial", "chardev:console"}, args...)...)
	if err != nil {
		return err
	}
	defer q.end()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(want)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-q.proc.died:
			return fmt.Errorf("%w: %s", ErrVMDied, logTail(q.log))
		case <-ctx.Done():
			return fmt.Errorf("the guest said nothing within %v: use accel: tcg", kvmPatience)
		}
	}
}

// bootSector is a PC boot sector that writes text to the first serial port (0x3f8) for ever.
func bootSector(text string) []byte {
	code := []byte{
		0xfa,             // cli
		0x31, 0xc0, 0x8e, // xor ax,ax
		0xd8,             // mov ds,ax
		0xbe, 0x12, 0x7c, // again: mov si,text (offset 0x12)
		0xba, 0xf8, 0x03, // mov dx,0x3f8
		0xac,       // next: lodsb
		0x84, 0xc0, // test al,al
		0x74, 0xf5, // jz again
		0xee,       // out dx,al
		0xeb, 0xf8, // jmp next
	}
	b := make([]byte, 1440<<10)
	n := copy(b, code)
	b[6] = byte(n)
	copy(b[n:], text+"\r\n\x00")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// FreeMemory returns the bytes that can be had without swapping: MemAvailable of /proc/meminfo.
func FreeMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read free memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemAvailable:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read free memory: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, errors.New("read free memory: no MemAvailable in /proc/meminfo")
}

// NeededMemory returns the bytes of host memory that a guest of so much RAM may need. The secondary
// keeps a second copy of the guest's memory; either node can become the secondary's.
func NeededMemory(guest int64) int64 { return 2*guest + qemuOverhead }

// qemuOverhead was 90 to 150 MiB with 256 MiB guests (QEMU 7.2, TCG, 2026-11).
const qemuOverhead = 160 << 20

// CheckMemory returns nil if a node can hold a guest with so many bytes of RAM in either role.
func CheckMemory(guest int64) error {
	free, err := FreeMemory()
	if err != nil {
		return err
	}
	if need := NeededMemory(guest); free < need {
		return fmt.Errorf("check memory: a guest of %d MiB needs %d MiB in the secondary's role, %d MiB are free", guest>>20, need>>20, free>>20)
	}
	return nil
}
