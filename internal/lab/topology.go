package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"colod/internal/lab/image"
)

// The hosts of a lab. Each is a network namespace colod-<lab>-<host>.
const (
	Client = "client"
	NodeA  = "a"
	NodeB  = "b"
	NodeC  = "c"  // in labs of three nodes
	sw     = "sw" // the switch; nothing runs in it
)

// Nodes are the two hosts of a lab's pair. A third one is a spare: Lab.Nodes
// tells what a lab has.
var Nodes = []string{NodeA, NodeB}

// Bounds of what a lab has.
const (
	maxNodes   = 3
	maxPaths   = 2
	maxMembers = 3
)

var allNodes = []string{NodeA, NodeB, NodeC}

// memberName is the host of the arbiter's member i, counted from 0.
func memberName(i int) string { return fmt.Sprintf("m%d", i+1) }

// allHosts are all hosts that any lab may have, the switch included.
func allHosts() []string {
	hosts := append([]string{Client, sw}, allNodes...)
	for i := range maxMembers {
		hosts = append(hosts, memberName(i))
	}
	return hosts
}

// Nodes are the hosts of this lab that run colod.
func (l *Lab) Nodes() []string { return allNodes[:max(l.state.Nodes, 2)] }

// Members are the hosts of the arbiter's members; none with the file arbiter.
func (l *Lab) Members() []string {
	var ms []string
	for i := range l.state.Members {
		ms = append(ms, memberName(i))
	}
	return ms
}

// Hosts are the hosts in which programs can be run.
func (l *Lab) Hosts() []string {
	return append(append([]string{Client}, l.Nodes()...), l.Members()...)
}

// Addresses of the lab's networks, from the blocks that RFC 5737 and RFC 3849
// set aside for documentation.
const (
	ClientIPv4 = "192.0.2.1"
	ClientIPv6 = "2001:db8::1"
	NodeAIPv4  = "198.51.100.1"
	NodeBIPv4  = "198.51.100.2"
	GuestMAC   = "52:54:00:c0:10:0d"
)

// Bridge is the bridge of a node that leads to the clients.
const Bridge = "br0"

// network is one of the lab's networks: a bridge in the switch, with one port
// and one wire for each host on it.
type network struct {
	name   string // of ports in the switch: name-host
	bridge string // in the switch
	end    string // of the wire, in the host
	kind   byte   // last but one byte of the MAC addresses on it
}

var (
	lanNet     = network{"lan", "brc", "lan0", 1}
	replNet    = network{"repl", "brr", "repl0", 2} // path 0 between the nodes
	pathNet    = network{"path", "brp", "path1", 3} // path 1, if there is one
	arbiterNet = network{"arb", "bra", "arb0", 4}   // nodes and the members of the arbiter
)

func (n network) port(host string) string { return n.name + "-" + host }

// mac is the address of a host's wire. The switch tells by it who sent a frame.
func (n network) mac(host string) string {
	return fmt.Sprintf("52:54:00:c0:%02x:%02x", n.kind, slices.Index(allHosts(), host)+1)
}

// paths are the networks between the nodes, in order.
func (l *Lab) paths() []network {
	return []network{replNet, pathNet}[:max(l.state.Paths, 1)]
}

// nodeNetworks are all networks that a node is on.
func (l *Lab) nodeNetworks() []network {
	all := append([]network{lanNet}, l.paths()...)
	if l.state.Members > 0 {
		all = append(all, arbiterNet)
	}
	return all
}

// networks are all networks with the hosts on them.
func (l *Lab) networks() map[network][]string {
	all := map[network][]string{lanNet: append([]string{Client}, l.Nodes()...)}
	for _, n := range l.paths() {
		all[n] = l.Nodes()
	}
	if l.state.Members > 0 {
		all[arbiterNet] = append(append([]string(nil), l.Nodes()...), l.Members()...)
	}
	return all
}

// address is the IPv4 address of a node or member on a network; the lan has
// none of theirs.
func address(n network, host string) string {
	i := slices.Index(allNodes, host)
	switch {
	case n == replNet && i >= 0:
		return fmt.Sprintf("198.51.100.%d", i+1)
	case n == pathNet && i >= 0:
		return fmt.Sprintf("203.0.113.%d", i+1)
	case n == arbiterNet && i >= 0:
		return fmt.Sprintf("203.0.113.%d", 129+i)
	case n == arbiterNet:
		var m int
		if _, err := fmt.Sscanf(host, "m%d", &m); err == nil {
			return fmt.Sprintf("203.0.113.%d", 140+m)
		}
	}
	return ""
}

// otherNode is the other node of the pair's first two.
func otherNode(node string) string {
	if node == NodeB {
		return NodeA
	}
	return NodeB
}

// ns returns the namespace of a host.
func (l *Lab) ns(host string) string { return "colod-" + l.Name + "-" + host }

// namespaces are all that a lab of this name can have, there or not.
func (l *Lab) namespaces() []string {
	var all []string
	for _, h := range allHosts() {
		all = append(all, l.ns(h))
	}
	return all
}

// createNetwork makes the hosts and their wires; see docs/lab.md for the
// picture.
//
// All networks go through the switch, where a wire can be cut without either
// end noticing: no carrier loss, no reset, as when a switch or a host dies.
func (l *Lab) createNetwork(ctx context.Context) error {
	for _, host := range append([]string{sw}, l.Hosts()...) {
		ns := l.ns(host)
		if err := ip(ctx, "netns", "add", ns); err != nil {
			return err
		}
		if err := ip(ctx, "-n", ns, "link", "set", "lo", "up"); err != nil {
			return err
		}
		// The client alone has an IPv6 address. The others only carry IPv6.
		if host != Client {
			if err := sysctl(ns, "ipv6/conf/default/disable_ipv6=1", "ipv6/conf/all/disable_ipv6=1"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	for n, hosts := range l.networks() {
		if err := ipBatch(ctx, l.ns(sw), fmt.Sprintf(`
			link add %[1]s type bridge mcast_snooping 0 forward_delay 0
			link set %[1]s up`, n.bridge)); err != nil {
			return err
		}
		for _, host := range hosts {
			if err := ipBatch(ctx, l.ns(sw), fmt.Sprintf(`
				link add %[1]s type veth peer name %[3]s netns %[4]s
				link set %[1]s master %[2]s up`, n.port(host), n.bridge, n.end, l.ns(host))); err != nil {
				return err
			}
			if err := ip(ctx, "-n", l.ns(host), "link", "set", n.end, "address", n.mac(host)); err != nil {
				return err
			}
			if a := address(n, host); a != "" {
				prefix := 24
				if n == pathNet || n == arbiterNet {
					prefix = 25
				}
				if err := ipBatch(ctx, l.ns(host), fmt.Sprintf("addr add %s/%d dev %s\nlink set %s up", a, prefix, n.end, n.end)); err != nil {
					return err
				}
			}
		}
	}
	for _, node := range l.Nodes() {
		if err := ipBatch(ctx, l.ns(node), fmt.Sprintf(`
			link add %[1]s type bridge mcast_snooping 0 forward_delay 0
			link set %[1]s up
			link set lan0 master %[1]s up`, Bridge)); err != nil {
			return err
		}
	}
	if err := sysctl(l.ns(Client), "ipv6/conf/lan0/accept_dad=0", "ipv6/conf/lan0/router_solicitations=0",
		"ipv6/conf/lan0/accept_ra=0"); err != nil {
		return err
	}
	return ipBatch(ctx, l.ns(Client), fmt.Sprintf(`
		addr add %s/%d dev lan0
		addr add %s/%d dev lan0 nodad
		link set lan0 up`, ClientIPv4, image.GuestPrefix4, ClientIPv6, image.GuestPrefix6))
}

// setWire joins a host's wire to its network or takes it out.
func (l *Lab) setWire(ctx context.Context, n network, host string, joined bool) error {
	if joined {
		return ip(ctx, "-n", l.ns(sw), "link", "set", n.port(host), "master", n.bridge)
	}
	return ip(ctx, "-n", l.ns(sw), "link", "set", n.port(host), "nomaster")
}

// cutAll takes all wires of a node out of their networks in one go, the
// arbiter's first: a node that loses one after the other may use what is left.
func (l *Lab) cutAll(ctx context.Context, node string) error {
	var batch strings.Builder
	for _, n := range slices.Backward(l.nodeNetworks()) {
		fmt.Fprintf(&batch, "link set %s nomaster\n", n.port(node))
	}
	return runInput(ctx, batch.String(), "ip", "-n", l.ns(sw), "-batch", "-")
}

// dropCode is a classic BPF program for tc (direct action): what comes from the
// given MAC address is dropped (TC_ACT_SHOT = 2), anything else is the next
// filter's to judge (TC_ACT_UNSPEC = -1).
func dropCode(mac string) (string, error) {
	var b [6]uint32
	if _, err := fmt.Sscanf(mac, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); err != nil {
		return "", fmt.Errorf("MAC address %q: %w", mac, err)
	}
	high, low := b[0]<<8|b[1], b[2]<<24|b[3]<<16|b[4]<<8|b[5]
	// ldh [6]; jeq high; ld [8]; jeq low; ret 2; ret -1
	return fmt.Sprintf("6,40 0 0 6,21 0 3 %d,32 0 0 8,21 0 1 %d,6 0 0 2,6 0 0 4294967295,", high, low), nil
}

// block lets nothing from one host reach another over a network, or lets it
// again. The other direction is not touched, and nobody is told: frames vanish
// in the switch on their way to the receiver.
func (l *Lab) block(ctx context.Context, n network, from, to string, blocked bool) error {
	prio := fmt.Sprint(100 + slices.Index(allHosts(), from))
	dev := []string{"dev", n.port(to), "egress", "protocol", "all", "prio", prio}
	// What is there of an earlier block of the same two goes first: there is one filter at most.
	if err := l.tc(ctx, append([]string{"filter", "del"}, dev...)...); err != nil && !absentRule(err) {
		return err
	}
	if !blocked {
		return nil
	}
	if err := l.tc(ctx, "qdisc", "add", "dev", n.port(to), "clsact"); err != nil && !strings.Contains(err.Error(), "Exclusivity flag on") {
		return err
	}
	code, err := dropCode(n.mac(from))
	if err != nil {
		return err
	}
	return l.tc(ctx, append(append([]string{"filter", "add"}, dev...), "bpf", "da", "bytecode", code)...)
}

// absentRule tells that tc found nothing to delete.
func absentRule(err error) bool {
	for _, s := range []string{"Cannot find", "No such file or directory", "Invalid handle", "Parent Qdisc doesn't exists", "Specified filter", "Filter with specified priority"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

// tc runs one tc(8) command in the switch.
func (l *Lab) tc(ctx context.Context, args ...string) error {
	return run(ctx, "tc", append([]string{"-n", l.ns(sw)}, args...)...)
}
