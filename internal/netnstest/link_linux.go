package netnstest

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Veth joins two namespaces (or one with itself) by a veth pair with the given device names, both up, without IPv6
// autoconfiguration.
func Veth(a *NS, aName string, b *NS, bName string) {
	a.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: bName}
	v.Name = aName
	v.PeerNamespace = netlink.NsFd(int(b.handle))
	if err := a.nl.LinkAdd(v); err != nil {
		a.t.Fatalf("netnstest: join %s of %s and %s of %s: %v", aName, a.name, bName, b.name, err)
	}
	a.Quiet(aName)
	b.Quiet(bName)
	a.Up(aName)
	b.Up(bName)
	a.ready(aName)
	b.ready(bName)
}

// ready waits until a device that was set up carries frames: the kernel takes note of its carrier a moment later, and
// throws away what is sent before.
func (n *NS) ready(name string) {
	n.t.Helper()
	for end := time.Now().Add(30 * time.Second); n.Device(name).Attrs().OperState != netlink.OperUp; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			n.t.Fatalf("netnstest: %s of %s does not come up", name, n.name)
		}
	}
}

// Bridge makes a bridge, up, with the given devices as its ports.
func (n *NS) Bridge(name string, ports ...string) {
	n.t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = name
	if err := n.nl.LinkAdd(br); err != nil {
		n.t.Fatalf("netnstest: make bridge %s in %s: %v", name, n.name, err)
	}
	n.Quiet(name)
	for _, p := range ports {
		if err := n.nl.LinkSetMasterByIndex(n.Device(p), br.Index); err != nil {
			n.t.Fatalf("netnstest: make %s a port of %s in %s: %v", p, name, n.name, err)
		}
	}
	n.Up(name)
}

// Device returns a device that must exist.
func (n *NS) Device(name string) netlink.Link {
	n.t.Helper()
	l, err := n.nl.LinkByName(name)
	if err != nil {
		n.t.Fatalf("netnstest: find %s in %s: %v", name, n.name, err)
	}
	return l
}

// Exists says whether a device of that name exists.
func (n *NS) Exists(name string) bool {
	_, err := n.nl.LinkByName(name)
	return err == nil
}

// Up sets devices up.
func (n *NS) Up(names ...string) {
	n.t.Helper()
	for _, name := range names {
		if err := n.nl.LinkSetUp(n.Device(name)); err != nil {
			n.t.Fatalf("netnstest: set %s of %s up: %v", name, n.name, err)
		}
	}
}

// Down sets a device down.
func (n *NS) Down(name string) {
	n.t.Helper()
	if err := n.nl.LinkSetDown(n.Device(name)); err != nil {
		n.t.Fatalf("netnstest: set %s of %s down: %v", name, n.name, err)
	}
}

// Delete deletes a device.
func (n *NS) Delete(name string) {
	n.t.Helper()
	if err := n.nl.LinkDel(n.Device(name)); err != nil {
		n.t.Fatalf("netnstest: delete %s of %s: %v", name, n.name, err)
	}
}

// Addr gives a device addresses in CIDR form. IPv6 addresses are usable at once (no duplicate address detection).
func (n *NS) Addr(name string, cidrs ...string) {
	n.t.Helper()
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		if err != nil {
			n.t.Fatalf("netnstest: %v", err)
		}
		if a.IP.To4() == nil {
			n.sysctl("ipv6/conf/"+name+"/disable_ipv6", "0")
			a.Flags = 0x02 // IFA_F_NODAD
		}
		if err := n.nl.AddrAdd(n.Device(name), a); err != nil {
			n.t.Fatalf("netnstest: add %s to %s of %s: %v", c, name, n.name, err)
		}
	}
}

// MAC sets a device's hardware address.
func (n *NS) MAC(name, mac string) {
	n.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err == nil {
		err = n.nl.LinkSetHardwareAddr(n.Device(name), hw)
	}
	if err != nil {
		n.t.Fatalf("netnstest: set address %s of %s of %s: %v", mac, name, n.name, err)
	}
}

// MTU sets a device's MTU.
func (n *NS) MTU(name string, mtu int) {
	n.t.Helper()
	if err := n.nl.LinkSetMTU(n.Device(name), mtu); err != nil {
		n.t.Fatalf("netnstest: set MTU %d of %s of %s: %v", mtu, name, n.name, err)
	}
}

// Quiet switches IPv6 off on a device, so that the host sends nothing of its own.
func (n *NS) Quiet(name string) { n.sysctl("ipv6/conf/"+name+"/disable_ipv6", "1") }

// sysctl sets net/<key> in the namespace; a key that the kernel does not have is passed over.
func (n *NS) sysctl(key, value string) {
	n.t.Helper()
	n.Must(func() error {
		err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0)
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
}

// Dump returns what stands in the namespace: links with their statistics and tc rules. For failure messages.
func (n *NS) Dump() string {
	var b strings.Builder
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Sprintf("%s: %v\n", n.name, err)
	}
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintf(&b, "%s: %d %s %s mtu %d qlen %d master %d %s alias %q", n.name, a.Index, a.Name, l.Type(), a.MTU, a.TxQLen, a.MasterIndex, a.OperState, a.Alias)
		if s := a.Statistics; s != nil {
			fmt.Fprintf(&b, " rx %d (%d dropped) tx %d (%d dropped)", s.RxPackets, s.RxDropped, s.TxPackets, s.TxDropped)
		}
		b.WriteByte('\n')
		for _, hook := range []string{"ingress", "egress"} {
			parent := uint32(netlink.HANDLE_MIN_INGRESS)
			if hook == "egress" {
				parent = netlink.HANDLE_MIN_EGRESS
			}
			filters, _ := n.nl.FilterList(l, parent)
			for _, f := range filters {
				fmt.Fprintf(&b, "%s:   %s %s filter: %v\n", n.name, a.Name, hook, f)
			}
		}
	}
	return b.String()
}

// Links lists the names of the devices, without lo.
func (n *NS) Links() []string {
	n.t.Helper()
	links, err := n.nl.LinkList()
	if err != nil {
		n.t.Fatalf("netnstest: list links of %s: %v", n.name, err)
	}
	var out []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			out = append(out, l.Attrs().Name)
		}
	}
	return out
}
