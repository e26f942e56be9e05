// Package frame parses, rewrites and cuts the Ethernet frames of a guest, each with its
// virtio-net header in front.
//
// It is pure: no I/O, no clock, no state of its own. Parse never fails and never reads out of bounds;
// what it does not know it calls KindOther, to be handled whole. Every function that edits a frame keeps
// its checksum right, whether the checksum is complete or partial (VIRTIO_NET_HDR_F_NEEDS_CSUM).
package frame

// VnetLen is the length of the virtio-net header in front of every frame, in bytes
// (struct virtio_net_hdr without num_buffers; little endian).
const VnetLen = 10

// MaxHead is the most bytes that the headers of a TCP frame may take, virtio-net header included. A frame
// with longer ones (long chains of IPv6 extension headers) is KindOther.
const MaxHead = 192

// Offsets of the virtio-net header's fields.
const (
	vnetFlags      = 0
	vnetGSOType    = 1
	vnetHdrLen     = 2
	vnetGSOSize    = 4
	vnetCsumStart  = 6
	vnetCsumOffset = 8
)

// Values of the virtio-net header (linux/virtio_net.h).
const (
	vnetNeedsCsum = 1
	vnetDataValid = 2

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80
)

// Ethernet types.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherRARP = 0x8035
	EtherVLAN = 0x8100
	EtherQinQ = 0x88a8
	EtherQOld = 0x9100
	EtherIPv6 = 0x86dd
)

// IP protocol numbers.
const (
	ProtoICMP   = 1
	ProtoIGMP   = 2
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Kind says how far a frame could be understood, and so how it is compared.
type Kind uint8

const (
	// KindOther is a frame that is compared whole: not IP, malformed, or longer or stranger than we parse.
	KindOther Kind = iota
	// KindTCP is an unfragmented TCP segment with valid header lengths.
	KindTCP
	// KindUDP is an unfragmented UDP datagram.
	KindUDP
	// KindICMP is an ICMP or ICMPv6 message except those of KindND and KindGroup.
	KindICMP
	// KindND is IPv6 neighbour and router discovery (ICMPv6 133 to 137).
	KindND
	// KindARP is an ARP packet for IPv4 over Ethernet.
	KindARP
	// KindGroup is group membership: IGMP, and ICMPv6 130 to 132 and 143.
	KindGroup
	// KindFragment is a fragment of an IPv4 or IPv6 packet, the first included.
	KindFragment
	// KindIP is an IP packet of a protocol that has no parser here.
	KindIP
)

var kindNames = [...]string{"other", "tcp", "udp", "icmp", "nd", "arp", "group", "fragment", "ip"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// FlowKey names a flow from the guest's point of view. It is comparable and has no pointers. IPv4
// addresses are in v4-mapped form.
//
//	TCP, UDP    addresses and ports
//	ICMP echo   addresses, identifier in GuestPort
//	ICMP other  addresses, ports 0
//	ND, group   addresses, ICMPv6 or IGMP type in GuestPort
//	ARP         sender and target address, operation in GuestPort
//	fragment    addresses, ports 0
//	IP          addresses, ports 0
//	other       MAC addresses in the first six bytes
type FlowKey struct {
	Guest, Peer         [16]byte
	GuestPort, PeerPort uint16
	Ether               uint16 // innermost Ethernet type
	Proto               uint8  // IP protocol, 0 when not IP
	Kind                Kind
	VLAN                uint32 // see Parsed.VLAN
}

// Parsed is what Parse found. All offsets count from the start of the buffer (the virtio-net header),
// and VnetLen <= L3 <= L4 <= Payload <= End <= len(buf) always holds.
type Parsed struct {
	// Kind is the frame's kind; the fields below say for which kinds they are valid.
	Kind Kind
	// IPv6 is true for IPv6, false for IPv4; valid where the frame is IP.
	IPv6 bool
	// Proto is the IP protocol after all extension headers; 0 when not IP.
	Proto uint8
	// Flags are the TCP flags (KindTCP).
	Flags uint8
	// ICMPType and ICMPCode are those of ICMP, ICMPv6 and (type only) IGMP.
	ICMPType, ICMPCode uint8
	// TTL is the IPv4 time to live or the IPv6 hop limit; TOS the IPv4 type of service or IPv6 traffic class.
	TTL, TOS uint8
	// WScale is the window scale option's shift count, -1 when absent; SYN only.
	WScale int8
	// SACKPerm says that the SACK permitted option is there; SYN only.
	SACKPerm bool
	// HasTS says that TSVal, TSEcr and TSOff are valid.
	HasTS bool
	// Bad says that a TCP option list is malformed; the options before the bad one are valid.
	Bad bool
	// Ether is the innermost Ethernet type.
	Ether uint16
	// SrcPort and DstPort are those of TCP and UDP; SrcPort is the identifier of an ICMP echo, and the
	// operation of ARP.
	SrcPort, DstPort uint16
	// Window is the raw window field, unscaled.
	Window uint16
	// MSS is the maximum segment size option, 0 when absent; SYN only.
	MSS uint16
	// Frag is the IPv4 flags and fragment offset word, or the IPv6 fragment header's, 0 for whole packets.
	Frag uint16
	// GSOSize is the segment size in the virtio-net header, 0 when the frame is one segment; GSOType its type.
	GSOSize uint16
	GSOType uint8
	// VLAN is 0 for untagged frames, else 1<<12 | VID of the inner tag and, with two tags, the same of the
	// outer one shifted left by 16.
	VLAN uint32
	// L3 is where the network header starts (for KindOther: after the Ethernet header), L4 the transport
	// header, Payload its payload, End the end of the packet: Ethernet padding lies behind End.
	L3, L4, Payload, End int
	// Seq and Ack are the TCP sequence and acknowledgement numbers as sent.
	Seq, Ack Num
	// TSVal and TSEcr are the TCP timestamps, TSOff the offset of TSVal.
	TSVal, TSEcr uint32
	TSOff        int
	// SACKOff is the offset of the first SACK block, SACKLen the length of all blocks in bytes (a multiple of 8).
	SACKOff, SACKLen int
	// Src and Dst are the addresses, IPv4 in v4-mapped form; MAC addresses for KindOther.
	Src, Dst [16]byte
}

// Len is the number of payload bytes.
func (p *Parsed) Len() int { return p.End - p.Payload }

// SegEnd is the sequence number after the segment: payload, SYN and FIN counted (RFC 9293 section 3.4).
func (p *Parsed) SegEnd() Num {
	n := uint32(p.End - p.Payload)
	if p.Flags&SYN != 0 {
		n++
	}
	if p.Flags&FIN != 0 {
		n++
	}
	return p.Seq.Add(n)
}

// Key is the flow of the frame; fromGuest says who sent it.
func (p *Parsed) Key(fromGuest bool) FlowKey {
	k := FlowKey{Ether: p.Ether, Proto: p.Proto, Kind: p.Kind, VLAN: p.VLAN}
	if fromGuest {
		k.Guest, k.Peer, k.GuestPort, k.PeerPort = p.Src, p.Dst, p.SrcPort, p.DstPort
		return k
	}
	k.Guest, k.Peer, k.GuestPort, k.PeerPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	if p.Kind != KindTCP && p.Kind != KindUDP {
		k.GuestPort, k.PeerPort = p.SrcPort, p.DstPort
	}
	return k
}
