package netfilter

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TxQueueLen is the length of the tap's queue, in frames: what the guest can leave unread for a moment (a checkpoint of
// some milliseconds at 500,000 frames a second) before frames for it are lost.
const TxQueueLen = 4000

// alias marks a device as the path's: made by it, or adopted.
func madeAlias(owner string) string    { return mark + ":" + owner }
func adoptedAlias(owner string) string { return mark + ":" + owner + ":adopted" }

// links does what netlink does for devices. Its caller serialises.
type links struct{ nl *netlink.Handle }

func openLinks() (*links, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &links{nl}, nil
}

func (l *links) close() { l.nl.Close() }

// find returns a device, or nil if there is none.
func (l *links) find(name string) (netlink.Link, error) {
	for {
		link, err := l.nl.LinkByName(name)
		var none netlink.LinkNotFoundError
		switch {
		case err == nil:
			return link, nil
		case errors.As(err, &none):
			return nil, nil
		case errors.Is(err, netlink.ErrDumpInterrupted):
			continue
		}
		return nil, &Error{Op: "find", Device: name, Err: err}
	}
}

// bridge returns the bridge, which must exist.
func (l *links) bridge(name string) (netlink.Link, error) {
	br, err := l.find(name)
	if err != nil {
		return nil, err
	}
	if br == nil {
		return nil, &Error{Op: "use bridge", Device: name, Err: ErrMissing,
			Cure: "make it with `ip link add " + name + " type bridge`, or correct network.bridge"}
	}
	if br.Type() != "bridge" {
		return nil, &Error{Op: "use bridge", Device: name, Err: fmt.Errorf("it is a %s, not a bridge", br.Type()),
			Cure: "correct network.bridge"}
	}
	return br, nil
}

// checkTap says why an existing tap that is not marked as ours cannot be adopted. from is the index of the bridge that it
// may be a port of, 0 for none.
func (l *links) checkTap(tap netlink.Link, running bool, from int) error {
	a := tap.Attrs()
	refuse := func(why error, cure string) error {
		return &Error{Op: "adopt tap", Device: a.Name, Err: why, Cure: cure}
	}
	t, ok := tap.(*netlink.Tuntap)
	if !ok || t.Mode != netlink.TUNTAP_MODE_TAP {
		return refuse(fmt.Errorf("the name is taken by a %s: it %w", tap.Type(), ErrForeign), "choose another name in network.tap")
	}
	if strings.HasPrefix(a.Alias, mark+":") {
		return refuse(fmt.Errorf("it %w: its alias is %q", ErrForeign, a.Alias),
			"end that pair first, or choose another name in network.tap")
	}
	if a.MasterIndex != 0 && a.MasterIndex != from {
		master := fmt.Sprintf("device %d", a.MasterIndex)
		if m, err := l.nl.LinkByIndex(a.MasterIndex); err == nil {
			master = m.Attrs().Name
		}
		return refuse(fmt.Errorf("it is a port of %s, which would carry frames past the filters", master),
			"take it out with `ip link set "+a.Name+" nomaster`: the path has a bridge port of its own")
	}
	if a.Xdp != nil && a.Xdp.Attached {
		return refuse(fmt.Errorf("an XDP program on it %w and would take frames before they are seen", ErrForeign),
			"remove it with `ip link set "+a.Name+" xdp off`")
	}
	addrs, err := l.nl.AddrList(tap, netlink.FAMILY_ALL)
	if err != nil {
		return refuse(fmt.Errorf("list its addresses: %w", err), "")
	}
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			return refuse(fmt.Errorf("it has the address %s, so the host would answer for the guest", addr.IPNet),
				"remove it with `ip addr del`")
		}
	}
	if t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		return refuse(errors.New("it has several queues"), "make it without multi_queue")
	}
	if running {
		return nil
	}
	return l.idle(a.Name)
}

const tunDevice = "/dev/net/tun"

// idle fails if a process reads the tap.
func (l *links) idle(name string) error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return openTun(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return &Error{Op: "use tap", Device: name, Err: err}
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	if errors.Is(err, unix.EBUSY) {
		return &Error{Op: "adopt tap", Device: name, Err: fmt.Errorf("it %w by %s: %w", ErrBusy, reader(name), err),
			Cure: "end that process, or choose another name in network.tap"}
	}
	if err != nil {
		return &Error{Op: "adopt tap", Device: name, Err: err}
	}
	return nil
}

// reader names the process that reads a tap, as far as it can be found.
func reader(tap string) string {
	ns, _ := namespaceID()
	infos, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "iff:"); ok && strings.TrimSpace(value) == tap {
				parts := strings.Split(info, "/")
				pid, _ := strconv.Atoi(parts[2])
				fd, _ := strconv.Atoi(parts[4])
				if at, err := tapNamespace(pid, fd); err != nil || at == ns {
					comm, _ := os.ReadFile("/proc/" + parts[2] + "/comm")
					return "process " + parts[2] + " (" + strings.TrimSpace(string(comm)) + ")"
				}
			}
		}
	}
	return "another process"
}

// tapNamespace identifies the network namespace of the tap that another process's descriptor belongs to: taps of one
// name can exist in several.
func tapNamespace(pid, fd int) (uint64, error) {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(p)
	tap, err := unix.PidfdGetfd(p, fd, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(tap)
	ns, err := unix.IoctlRetInt(tap, unix.TUNGETDEVNETNS)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ns)
	var st unix.Stat_t
	err = unix.Fstat(ns, &st)
	return st.Ino, err
}

func openTun(err error) error {
	e := &Error{Op: "open", Device: tunDevice, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		e.Err, e.Cure = fmt.Errorf("%w: %w", ErrMissing, err), "load the module: modprobe tun"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Cure = "run as root or with CAP_NET_ADMIN"
	}
	return e
}

// makeTap makes a persistent tap with the virtio-net header, one queue, down. It belongs to the user and group of this
// process: QEMU runs as the same, without CAP_NET_ADMIN, and may take only a tap of its own.
func (l *links) makeTap(name string) error {
	t := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI | netlink.TUNTAP_TUN_EXCL,
		Owner: uint32(os.Geteuid()), Group: uint32(os.Getegid())}
	if err := l.nl.LinkAdd(t); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return openTun(err)
		}
		return &Error{Op: "create tap", Device: name, Err: err}
	}
	return nil
}

// makeUplink makes the veth pair of uplink and bridge port, both down.
func (l *links) makeUplink(uplink, port string, mtu int) error {
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: port, PeerHardwareAddr: portAddress(), PeerMTU: uint32(mtu)}
	v.Name, v.MTU, v.HardwareAddr = uplink, mtu, portAddress()
	err := l.nl.LinkAdd(v)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return &Error{Op: "create veth", Device: uplink, Err: fmt.Errorf("%w: %w", ErrUnsupported, err), Cure: "load the module: modprobe veth"}
	case errors.Is(err, unix.EPERM):
		return &Error{Op: "create veth", Device: uplink, Err: err, Cure: "run as root or with CAP_NET_ADMIN"}
	}
	return &Error{Op: "create veth", Device: uplink, Err: err}
}

// floodMulticast makes a bridge's port get all multicast, as the port of a router does: a bridge that listens to group
// membership (multicast_snooping) knows nothing of a guest which has just become the one that speaks, and would keep
// neighbour solicitations from it until the guest reports its groups, minutes later.
func (l *links) floodMulticast(port netlink.Link) error {
	const permanent = 2 // MDB_RTR_TYPE_PERM of linux/if_bridge.h
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(port.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_MULTICAST_ROUTER, nl.Uint8Attr(permanent))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return set("pass all multicast to", port.Attrs().Name, err)
}

// portAddress is a random locally administered address which is higher than any network card's: a bridge without a
// fixed address takes the lowest of its ports', and must not change it because of us.
func portAddress() net.HardwareAddr {
	a := net.HardwareAddr{0xfe, 0xc0, 0x1d, 0, 0, 0}
	rand.Read(a[3:])
	return a
}

// awaitUp waits, a second at most, until devices that were set up carry frames: the kernel takes note of a carrier a
// moment later, and throws away what is sent before.
func (l *links) awaitUp(all ...netlink.Link) {
	end := time.Now().Add(time.Second)
	for _, link := range all {
		for time.Now().Before(end) {
			now, err := l.nl.LinkByIndex(link.Attrs().Index)
			if err != nil || now.Attrs().OperState == netlink.OperUp {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// settings reads what we are about to change of a device.
func (l *links) settings(link netlink.Link) *setting {
	a := link.Attrs()
	s := &setting{Bridge: l.masterOf(link), MTU: a.MTU, TxQLen: a.TxQLen, Up: a.Flags&net.FlagUp != 0, Alias: a.Alias}
	if text, err := os.ReadFile(ipv6Switch(a.Name)); err == nil {
		s.DisableIPv6 = strings.TrimSpace(string(text))
	}
	return s
}

func ipv6Switch(dev string) string { return "/proc/sys/net/ipv6/conf/" + dev + "/disable_ipv6" }

// quiet keeps the host from speaking on a device: no IPv6. Where the switch cannot be written (a container), at least
// no address is made.
func (l *links) quiet(link netlink.Link) error {
	name := link.Attrs().Name
	err := os.WriteFile(ipv6Switch(name), []byte("1"), 0)
	if err == nil || errors.Is(err, os.ErrNotExist) { // the kernel has no IPv6
		return nil
	}
	if e := l.nl.LinkSetIP6AddrGenMode(link, addrGenNone); e != nil {
		return &Error{Op: "switch IPv6 off on", Device: name, Err: errors.Join(err, e)}
	}
	return nil
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1

// set changes a device with netlink and names it if that fails.
func set(op, device string, err error) error {
	if err != nil {
		return &Error{Op: op, Device: device, Err: err}
	}
	return nil
}

// delete deletes a device that is marked as the owner's, or is down and not marked at all (made, but its maker died
// before it could mark it). Other devices of that name are left. It reports whether there was one.
func (l *links) delete(name, owner string) (bool, error) {
	link, err := l.find(name)
	if link == nil || err != nil {
		return false, err
	}
	a := link.Attrs()
	if a.Alias != madeAlias(owner) && (a.Alias != "" || a.Flags&net.FlagUp != 0) {
		return false, nil
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		err := l.nl.LinkDel(link)
		switch {
		case err == nil || errors.Is(err, unix.ENODEV):
			return true, nil
		case errors.Is(err, unix.EBUSY) && time.Now().Before(end):
			continue
		}
		return false, &Error{Op: "delete", Device: name, Err: err}
	}
}

// restore gives a device back what it was before it was adopted.
func (l *links) restore(name string, index int, was *setting) error {
	link, err := l.find(name)
	if link == nil || err != nil || link.Attrs().Index != index || was == nil {
		return err
	}
	var errs []error
	if !was.Up {
		errs = append(errs, set("set down", name, l.nl.LinkSetDown(link)))
	}
	errs = append(errs,
		set("restore MTU of", name, l.nl.LinkSetMTU(link, was.MTU)),
		set("restore queue length of", name, l.nl.LinkSetTxQLen(link, was.TxQLen)),
		set("restore alias of", name, l.nl.LinkSetAlias(link, was.Alias)))
	if was.DisableIPv6 != "" {
		if err := os.WriteFile(ipv6Switch(name), []byte(was.DisableIPv6), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, &Error{Op: "restore IPv6 of", Device: name, Err: err})
		}
	}
	if was.Bridge != "" {
		errs = append(errs, l.enslave(link, was.Bridge))
	}
	return errors.Join(errs...)
}
