// Package image makes the lab's guest: a real Linux kernel with real servers,
// put together from Debian packages that are downloaded into a cache and read
// there. Nothing is installed on the machine, and no tool but apt-get,
// apt-cache and dpkg-deb is used.
//
// The image is a kernel and an initial file system of two parts. The base holds
// what comes from Debian (drivers, busybox, sshd, redis, iperf3, a C compiler
// and their libraries) together with keys made once; it is kept in the cache. The program
// that brings the guest up is the running colod binary itself ("colod lab
// guest"), appended as a second archive at every build, so that guest and host
// are always of one version.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The guest's addresses on the lab's client network.
const (
	GuestIPv4    = "192.0.2.10"
	GuestIPv6    = "2001:db8::10"
	GuestPrefix4 = 24
	GuestPrefix6 = 64
)

// format changes whenever the base's content is put together differently, so
// that an image cached by another version of colod is not taken for ours.
const format = "3"

// modules are the guest's drivers in loading order: virtio_ring has to come
// before virtio, or the guest is left without network and disk.
var modules = []string{
	"drivers/virtio/virtio_ring.ko",
	"drivers/virtio/virtio.ko",
	"drivers/virtio/virtio_pci_legacy_dev.ko",
	"drivers/virtio/virtio_pci_modern_dev.ko",
	"drivers/virtio/virtio_pci.ko",
	"net/core/failover.ko",
	"drivers/net/net_failover.ko",
	"drivers/net/virtio_net.ko",
	"drivers/block/virtio_blk.ko",
	"drivers/acpi/button.ko",
	"drivers/input/evdev.ko",
}

// diskModules are the drivers of a file system on a disk, loaded only by a guest that has one.
var diskModules = []string{
	"crypto/crc32c_generic.ko",
	"lib/libcrc32c.ko",
	"lib/crc16.ko",
	"fs/mbcache.ko",
	"fs/jbd2/jbd2.ko",
	"fs/ext4/ext4.ko",
}

// programs are the dynamically linked servers and the compiler, by their path in the packages.
var programs = []string{"/usr/sbin/sshd", "/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/iperf3", "/usr/bin/tcc"}

// applets are the busybox commands that exist as links in the guest.
var applets = strings.Fields(`sh ash cat ls seq sleep echo date ps top ip ping ping6 wc dd sha256sum md5sum mkdir rm cp mv
	touch grep head tail tee true false yes stty uname uptime dmesg free kill killall poweroff reboot halt mount umount vi
	less env id hostname nc wget sync stat tr cut awk sed sort test [ expr printf find netstat du df ln chmod usleep tty
	init od cmp readlink basename dirname xargs which pgrep pkill time timeout`)

// Image is a guest that QEMU can start.
type Image struct {
	Kernel  string // path of the kernel
	Initrd  string // path of the initial file system
	Version string // the kernel's release, e.g. "6.1.0-56-cloud-amd64"
	ID      string // changes with the content
	SSHKey  string // path of the private key that root's account accepts
	Known   string // path of a known_hosts file with the guest's host key
	CACert  string // path of the certificate that its HTTPS service shows
}

// Append returns the kernel's command line for a guest: a quiet console on the
// first serial port, no address randomisation and no clock watchdog (both make
// two guests less alike or wake them for nothing), its addresses, and a seed
// for its random numbers: an emulated machine has no other source at boot.
func (i *Image) Append(seed []byte) string {
	return strings.Join([]string{
		"console=ttyS0", "quiet", "loglevel=4", "nokaslr", "panic=-1", "tsc=reliable", "no_timer_check",
		"mitigations=off", "audit=0", "selinux=0", "apparmor=0", "nowatchdog", "ipv6.autoconf=0", "net.ifnames=0",
		fmt.Sprintf("colod.ip4=%s/%d", GuestIPv4, GuestPrefix4),
		fmt.Sprintf("colod.ip6=%s/%d", GuestIPv6, GuestPrefix6),
		"colod.seed=" + hex.EncodeToString(seed),
	}, " ")
}

// Builder makes images.
type Builder struct {
	Dir      string       // cache directory; CacheDir's by default
	Program  string       // the colod binary that runs in the guest; this process's own by default
	Progress func(string) // told of steps that take long; may be nil
	InUse    []string     // initial file systems of labs that are up: they stay
}

// Build returns the image, from the cache where it is there.
func (b Builder) Build(ctx context.Context) (*Image, error) {
	if b.Progress == nil {
		b.Progress = func(string) {}
	}
	if b.Dir == "" {
		dir, err := CacheDir()
		if err != nil {
			return nil, err
		}
		b.Dir = dir
	}
	if b.Program == "" {
		b.Program = "/proc/self/exe"
	}
	unlock, err := lock(b.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	dir := filepath.Join(b.Dir, "guest-"+format)
	version, err := os.ReadFile(filepath.Join(dir, "complete"))
	if errors.Is(err, os.ErrNotExist) {
		if err = b.base(ctx, dir); err == nil {
			version, err = os.ReadFile(filepath.Join(dir, "complete"))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	program, err := staticProgram(b.Program)
	if err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	sum := sha256.Sum256(program)
	id := hex.EncodeToString(sum[:6])
	img := &Image{
		Kernel:  filepath.Join(dir, "vmlinuz"),
		Initrd:  filepath.Join(dir, "initrd-"+id+".img"),
		Version: strings.TrimSpace(string(version)),
		ID:      id,
		SSHKey:  filepath.Join(dir, "id_ecdsa"),
		Known:   filepath.Join(dir, "known_hosts"),
		CACert:  filepath.Join(dir, "guest.pem"),
	}
	if _, err := os.Stat(img.Initrd); err == nil {
		return img, nil
	}
	base, err := os.ReadFile(filepath.Join(dir, "base.cpio"))
	if err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	var out bytes.Buffer
	out.Write(base)
	c := newCPIO(&out)
	c.dirs["bin"] = true
	c.File("/bin/colod", 0o755, program)
	if err := c.Close(); err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	b.prune(dir)
	if err := writeFile(img.Initrd, out.Bytes(), 0o644); err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	return img, nil
}

// prune removes initial file systems of older programs but for the newest few
// and those that a lab may still need for a new secondary.
func (b Builder) prune(dir string) {
	const keep = 6
	names, _ := filepath.Glob(filepath.Join(dir, "initrd-*.img"))
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(b.InUse, name) })
	for len(names) > keep {
		oldest := 0
		for i := range names {
			if modTime(names[i]) < modTime(names[oldest]) {
				oldest = i
			}
		}
		os.Remove(names[oldest])
		names = append(names[:oldest], names[oldest+1:]...)
	}
}

func modTime(name string) int64 {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return st.ModTime().UnixNano()
}

// staticProgram reads the guest's program and refuses one that would need the
// C library of the machine it was built on.
func staticProgram(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read guest program: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read guest program %s: %w", name, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("guest program %s is dynamically linked: build colod with CGO_ENABLED=0 (make build)", name)
		}
	}
	return data, nil
}

// base makes everything that does not depend on colod's own binary.
func (b Builder) base(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	kernelDeb, debs, err := download(ctx, filepath.Join(dir, "packages"), b.Progress)
	if err != nil {
		return err
	}
	b.Progress("building the guest image")
	kernel := map[string]file{}
	err = unpack(ctx, kernelDeb, kernel, func(name string) bool {
		return strings.HasPrefix(name, "/boot/vmlinuz-") || strings.HasSuffix(name, ".ko")
	})
	if err != nil {
		return err
	}
	tree := map[string]file{}
	for _, deb := range debs {
		err := unpack(ctx, deb, tree, func(name string) bool {
			return strings.Contains(name, "bin/") || strings.HasPrefix(name, "/lib") || strings.HasPrefix(name, "/usr/lib/x86_64-linux-gnu/")
		})
		if err != nil {
			return err
		}
	}
	version, vmlinuz := "", []byte(nil)
	for name, f := range kernel {
		if v, ok := strings.CutPrefix(name, "/boot/vmlinuz-"); ok {
			version, vmlinuz = v, f.data
		}
	}
	if vmlinuz == nil {
		return fmt.Errorf("unpack %s: it holds no kernel", filepath.Base(kernelDeb))
	}

	var out bytes.Buffer
	c := newCPIO(&out)
	for _, d := range []string{"/dev", "/proc", "/sys", "/run/sshd", "/var/empty", "/bin", "/sbin", "/usr/bin", "/usr/sbin", "/etc/ssh", "/data"} {
		c.Dir(d, 0o755)
	}
	c.Dir("/tmp", 0o1777)
	c.Dir("/root", 0o700)
	c.Dir("/root/.ssh", 0o700)
	c.Char("/dev/console", 0o600, 5, 1)
	c.Char("/dev/null", 0o666, 1, 3)

	for _, list := range []struct {
		name    string
		modules []string
	}{{"order", modules}, {"disk-order", diskModules}} {
		var order []string
		for _, m := range list.modules {
			f, ok := kernel["/lib/modules/"+version+"/kernel/"+m]
			if !ok {
				continue // built into this kernel
			}
			c.File("/lib/modules/"+path.Base(m), 0o644, f.data)
			order = append(order, path.Base(m))
		}
		c.File("/lib/modules/"+list.name, 0o644, []byte(strings.Join(order, "\n")+"\n"))
	}

	busybox, ok := resolve(tree, "/bin/busybox")
	if !ok {
		return errors.New("busybox-static holds no /bin/busybox")
	}
	c.File("/bin/busybox", 0o755, tree[busybox].data)
	for _, a := range applets {
		c.Symlink("/bin/"+a, "busybox")
	}
	c.Symlink("/init", "bin/busybox")
	for _, p := range programs {
		real, ok := resolve(tree, p)
		if !ok {
			return fmt.Errorf("%s is in none of the packages", p)
		}
		c.File(p, 0o755, tree[real].data)
	}
	libs, err := libraries(tree, programs)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(libs) {
		c.File(name, 0o755, libs[name])
	}
	if err := b.configuration(c, dir); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "vmlinuz"), vmlinuz, 0o644); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "base.cpio"), out.Bytes(), 0o644); err != nil {
		return err
	}
	// The archives are read; only what came out of them is kept.
	if err := os.RemoveAll(filepath.Join(dir, "packages")); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "complete"), []byte(version+"\n"), 0o644)
}
