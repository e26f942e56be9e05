package frame

import (
	"fmt"
	"net"
	"net/netip"
)

// String is the flow as a person reads it, from the guest's side, such as "tcp 192.0.2.10:80 -> 192.0.2.1:40000".
// The zero key is "".
func (k FlowKey) String() string {
	if k == (FlowKey{}) {
		return ""
	}
	if k.Kind == KindOther {
		return fmt.Sprintf("%v %v -> %v type %#04x", k.Kind, net.HardwareAddr(k.Guest[:6]), net.HardwareAddr(k.Peer[:6]), k.Ether)
	}
	guest, peer := netip.AddrFrom16(k.Guest).Unmap(), netip.AddrFrom16(k.Peer).Unmap()
	if k.GuestPort|k.PeerPort != 0 {
		return fmt.Sprintf("%v %v -> %v", k.Kind, netip.AddrPortFrom(guest, k.GuestPort), netip.AddrPortFrom(peer, k.PeerPort))
	}
	return fmt.Sprintf("%v %v -> %v", k.Kind, guest, peer)
}
