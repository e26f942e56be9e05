package front

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"colod/compare"
	"colod/internal/frame"
)

// A saved table is a header of 16 bytes (magic, version, number of entries), entries of entryLen bytes in no order, and
// the CRC-32 (IEEE) of all before it. Numbers are big endian.
const (
	magic    = "colodfrt"
	version  = 1
	entryLen = 16 + 16 + 2 + 2 + 2 + 1 + 1 + 4 + 4 + 4 + 4 + 1
)

// ErrSaved is the cause of every refusal of a saved table.
var ErrSaved = errors.New("not a saved table of rewritten connections")

// Save returns the table in a form that Load reads. What changes with each frame is not worth saving: it only keeps
// timestamps from going back, and the guest's clock does that too.
func (t *Table) Save() []byte {
	be := binary.BigEndian
	b := make([]byte, 0, 20+len(t.flows)*entryLen)
	b = append(b, magic...)
	b = be.AppendUint32(b, version)
	b = be.AppendUint32(b, uint32(len(t.flows)))
	for k, e := range t.flows {
		b = append(b, k.Guest[:]...)
		b = append(b, k.Peer[:]...)
		b = be.AppendUint16(b, k.GuestPort)
		b = be.AppendUint16(b, k.PeerPort)
		b = be.AppendUint16(b, k.Ether)
		b = append(b, k.Proto, byte(k.Kind))
		b = be.AppendUint32(b, k.VLAN)
		b = be.AppendUint32(b, e.seqOff)
		b = be.AppendUint32(b, e.tsOff)
		b = be.AppendUint32(b, e.lastTS)
		var bits byte
		if e.hasTS {
			bits |= 1
		}
		if e.closedAt != 0 {
			bits |= 2
		}
		b = append(b, bits)
	}
	return be.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// Load reads what Save returned.
func Load(b []byte) ([]compare.Front, error) {
	be := binary.BigEndian
	if len(b) < 20 || string(b[:8]) != magic {
		return nil, ErrSaved
	}
	if v := be.Uint32(b[8:]); v != version {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrSaved, v, version)
	}
	n := be.Uint32(b[12:])
	if uint64(len(b)) != 20+uint64(n)*entryLen {
		return nil, fmt.Errorf("%w: %d bytes for %d connections", ErrSaved, len(b), n)
	}
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != be.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrSaved)
	}
	fronts := make([]compare.Front, n)
	for i := range fronts {
		e := body[16+i*entryLen:]
		f := &fronts[i]
		copy(f.Key.Guest[:], e)
		copy(f.Key.Peer[:], e[16:])
		f.Key.GuestPort, f.Key.PeerPort, f.Key.Ether = be.Uint16(e[32:]), be.Uint16(e[34:]), be.Uint16(e[36:])
		f.Key.Proto, f.Key.Kind = e[38], frame.Kind(e[39])
		f.Key.VLAN = be.Uint32(e[40:])
		f.SeqOff, f.TSOff, f.LastTS = be.Uint32(e[44:]), be.Uint32(e[48:]), be.Uint32(e[52:])
		f.HasTS, f.Closed = e[56]&1 != 0, e[56]&2 != 0
	}
	return fronts, nil
}
