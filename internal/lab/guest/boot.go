package guest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// boot does what an init system does for a machine with one network card. All
// of it is repeatable: init starts the program again should it ever end.
func boot() error {
	for _, m := range []struct{ what, at, kind, opts string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"devtmpfs", "/dev", "devtmpfs", ""},
		{"devpts", "/dev/pts", "devpts", "ptmxmode=0666,gid=5,mode=0620"},
		{"tmpfs", "/run", "tmpfs", "mode=0755"},
	} {
		os.MkdirAll(m.at, 0o755)
		if err := unix.Mount(m.what, m.at, m.kind, 0, m.opts); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	os.MkdirAll("/run/sshd", 0o755)
	os.Symlink("/proc/self/fd", "/dev/fd")
	args := cmdline()
	if err := seed(args["colod.seed"]); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	if err := loadModules("order"); err != nil {
		return err
	}
	if name := args["colod.disk"]; name != "" {
		if err := mountDisk(name); err != nil {
			return err
		}
	}
	return network(args)
}

// mountDisk makes the first disk's file system the servers' data directory.
func mountDisk(name string) error {
	if err := loadModules("disk-order"); err != nil {
		return err
	}
	dev := "/dev/" + name
	for range 200 { // the driver's probe may still be running
		if _, err := os.Stat(dev); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := unix.Mount(dev, dataDir, "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s at %s: %w", dev, dataDir, err)
	}
	return nil
}

func cmdline() map[string]string {
	data, _ := os.ReadFile("/proc/cmdline")
	args := map[string]string{}
	for _, f := range strings.Fields(string(data)) {
		k, v, _ := strings.Cut(f, "=")
		args[k] = v
	}
	return args
}

// seed gives the kernel's random number generator the bytes from the command
// line, so that nothing has to wait for entropy (RNDADDENTROPY, random(4)).
func seed(text string) error {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil // none given: the kernel collects its own
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("seed random numbers: %w", err)
	}
	defer f.Close()
	pool := binary.NativeEndian.AppendUint32(nil, uint32(8*len(b)))
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(b)))
	pool = append(pool, b...)
	const rndAddEntropy = 0x40085203
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&pool[0]))); errno != 0 {
		return fmt.Errorf("seed random numbers: %w", errno)
	}
	return nil
}

func loadModules(list string) error {
	order, err := os.ReadFile(filepath.Join("/lib/modules", list))
	if err != nil {
		return fmt.Errorf("load drivers: %w", err)
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join("/lib/modules", name))
		if err != nil {
			return fmt.Errorf("load driver %s: %w", name, err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load driver %s: %w", name, err)
		}
	}
	return nil
}

// sysctls keep the machine from speaking without being spoken to: no router
// solicitation, no duplicate address detection, and neighbours that are not
// probed again every half minute at a moment that each guest draws by itself.
var sysctls = []struct{ key, value string }{
	{"net/ipv4/neigh/default/base_reachable_time_ms", "86400000"},
	{"net/ipv6/neigh/default/base_reachable_time_ms", "86400000"},
	{"net/ipv4/neigh/eth0/base_reachable_time_ms", "86400000"},
	{"net/ipv6/neigh/eth0/base_reachable_time_ms", "86400000"},
	{"net/ipv6/conf/eth0/accept_ra", "0"},
	{"net/ipv6/conf/eth0/autoconf", "0"},
	{"net/ipv6/conf/eth0/router_solicitations", "0"},
	{"net/ipv6/conf/eth0/dad_transmits", "0"},
	{"net/ipv6/conf/eth0/accept_dad", "0"},
	{"vm/overcommit_memory", "1"},
	{"kernel/printk", "4 4 1 7"},
}

func network(args map[string]string) error {
	// The driver's probe may still be running when finit_module returns.
	var link netlink.Link
	var err error
	for range 200 {
		if link, err = netlink.LinkByName("eth0"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		fmt.Println("colod-guest: no network card: local services only")
		return nil
	}
	for _, s := range sysctls {
		if err := os.WriteFile("/proc/sys/"+s.key, []byte(s.value), 0o644); err != nil {
			fmt.Printf("colod-guest: set %s: %v\n", s.key, err)
		}
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring eth0 up: %w", err)
	}
	for _, key := range []string{"colod.ip4", "colod.ip6"} {
		text := args[key]
		if text == "" {
			continue
		}
		ip, ipnet, err := net.ParseCIDR(text)
		if err != nil {
			return fmt.Errorf("set address %s=%s: %w", key, text, err)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: ipnet.Mask}}
		if ip.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("set address %s: %w", text, err)
		}
	}
	return nil
}
