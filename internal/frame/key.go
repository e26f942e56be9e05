package frame

import (
	"fmt"
	"net/netip"
)

// String is the flow as a person reads it, from the guest's side, such as "tcp 192.0.2.10:80 -> 192.0.2.1:40000".
// The zero key is "".
func (k FlowKey) String() string {
	if k == (FlowKey{}) {
		return ""
	}
	if k.Kind == KindOther {
		return fmt.Sprintf("%v %v -> %v type %#04x", k.Kind, mac(k.Guest), mac(k.Peer), k.Ether)
	}
	guest, peer := netip.AddrFrom16(k.Guest).Unmap(), netip.AddrFrom16(k.Peer).Unmap()
	if k.GuestPort|k.PeerPort != 0 {
		return fmt.Sprintf("%v %v -> %v", k.Kind, netip.AddrPortFrom(guest, k.GuestPort), netip.AddrPortFrom(peer, k.PeerPort))
	}
	return fmt.Sprintf("%v %v -> %v", k.Kind, guest, peer)
}

func mac(a [16]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}
