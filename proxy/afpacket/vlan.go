package afpacket

import "encoding/binary"

// Layout of the virtio-net header (virtio specification 1.2, section 5.1.6, struct virtio_net_hdr of 10 bytes).
const (
	vnetFlags     = 0
	vnetGSOType   = 1
	vnetHdrLen    = 2
	vnetCsumStart = 6

	vnetNeedsCsum = 1

	tagAt = VnetLen + 12 // behind the two MAC addresses
)

// InsertTag puts a VLAN tag (tag protocol identifier << 16 | tag control information) into the first n bytes of buf,
// which must have room for 4 more, and moves the offsets in the virtio-net header with it. It returns the new length.
// What is too short to be an Ethernet frame is left as it is.
func InsertTag(buf []byte, n int, vlan uint32) int {
	if n < tagAt+2 || n+TagLen > len(buf) {
		return n
	}
	copy(buf[tagAt+TagLen:n+TagLen], buf[tagAt:n])
	binary.BigEndian.PutUint32(buf[tagAt:], vlan)
	if buf[vnetFlags]&vnetNeedsCsum != 0 {
		at := buf[vnetCsumStart : vnetCsumStart+2]
		binary.LittleEndian.PutUint16(at, binary.LittleEndian.Uint16(at)+TagLen)
	}
	if buf[vnetGSOType] != 0 {
		at := buf[vnetHdrLen : vnetHdrLen+2]
		if l := binary.LittleEndian.Uint16(at); l <= 0xffff-TagLen {
			binary.LittleEndian.PutUint16(at, l+TagLen)
		}
	}
	return n + TagLen
}
