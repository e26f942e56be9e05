package lab

import (
	"context"
	"errors"
	"fmt"
	"os"

	"colod/internal/lab/image"
)

// The hosts of a lab. Each is a network namespace colod-<lab>-<host>.
const (
	Client = "client"
	NodeA  = "a"
	NodeB  = "b"
	sw     = "sw" // the switch; nothing runs in it
)

// Hosts are the hosts in which programs can be run.
var Hosts = []string{Client, NodeA, NodeB}

// Nodes are the hosts that can carry the guest.
var Nodes = []string{NodeA, NodeB}

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

func nodeAddress(node string) string {
	if node == NodeB {
		return NodeBIPv4
	}
	return NodeAIPv4
}

func otherNode(node string) string {
	if node == NodeB {
		return NodeA
	}
	return NodeB
}

// ns returns the namespace of a host.
func (l *Lab) ns(host string) string { return "colod-" + l.Name + "-" + host }

func (l *Lab) namespaces() []string {
	return []string{l.ns(Client), l.ns(NodeA), l.ns(NodeB), l.ns(sw)}
}

// createNetwork makes the hosts and their wires:
//
//	client lan0 --+                 +-- lan0 [br0] a repl0 --+
//	              +-- brc (switch) -+                        +-- brr (switch)
//	                                +-- lan0 [br0] b repl0 --+
//
// Both networks go through the switch, where a wire can be cut without either
// end noticing: no carrier loss, no reset, as when a switch or a host dies.
func (l *Lab) createNetwork(ctx context.Context) error {
	for _, ns := range l.namespaces() {
		if err := ip(ctx, "netns", "add", ns); err != nil {
			return err
		}
		if err := ip(ctx, "-n", ns, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	// The switch and the nodes' bridges only carry: they have no address of their own.
	for _, host := range []string{sw, NodeA, NodeB} {
		if err := sysctl(l.ns(host), "ipv6/conf/default/disable_ipv6=1", "ipv6/conf/all/disable_ipv6=1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := ipBatch(ctx, l.ns(sw), `
		link add brc type bridge mcast_snooping 0 forward_delay 0
		link set brc up
		link add brr type bridge mcast_snooping 0 forward_delay 0
		link set brr up`); err != nil {
		return err
	}
	wire := func(host, port, bridge, end string) error {
		return ipBatch(ctx, l.ns(sw), fmt.Sprintf(`
			link add %[1]s type veth peer name %[3]s netns %[4]s
			link set %[1]s master %[2]s up`, port, bridge, end, l.ns(host)))
	}
	for _, w := range [][4]string{
		{Client, "lan-client", "brc", "lan0"}, {NodeA, "lan-a", "brc", "lan0"}, {NodeB, "lan-b", "brc", "lan0"},
		{NodeA, "repl-a", "brr", "repl0"}, {NodeB, "repl-b", "brr", "repl0"},
	} {
		if err := wire(w[0], w[1], w[2], w[3]); err != nil {
			return err
		}
	}
	for _, node := range Nodes {
		if err := ipBatch(ctx, l.ns(node), fmt.Sprintf(`
			link add %[1]s type bridge mcast_snooping 0 forward_delay 0
			link set %[1]s up
			link set lan0 master %[1]s up
			addr add %[2]s/30 dev repl0
			link set repl0 up`, Bridge, nodeAddress(node))); err != nil {
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

// setWire joins a port of the switch to its network or takes it out.
func (l *Lab) setWire(ctx context.Context, port string, joined bool) error {
	if !joined {
		return ip(ctx, "-n", l.ns(sw), "link", "set", port, "nomaster")
	}
	bridge := "brc"
	if port == "repl-"+NodeA || port == "repl-"+NodeB {
		bridge = "brr"
	}
	return ip(ctx, "-n", l.ns(sw), "link", "set", port, "master", bridge)
}
