package heartbeat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// A packet, numbers big endian:
//
//	 0  4  "CLHB"
//	 4  1  version, 1
//	 5  1  kind: 1 ping, 2 pong
//	 6  1  path
//	 7  1  0
//	 8  8  number of the keys
//	16  8  sequence number, per sender, keys and path, of pings and pongs together, from 1 on
//	24  8  ping: the sender's clock; pong: that of the ping it answers, ns
//	32  8  pong: how long the ping waited for its answer, ns; ping: 0
//	40 16  HMAC-SHA-256 of all before it, its first half
const (
	packetLen  = 56
	signedLen  = 40
	version    = 1
	kindPing   = 1
	kindPong   = 2
	exportSize = 8 + 2*keySize
	keySize    = 32
)

// MaxPaths bounds the paths to one peer.
const MaxPaths = 8

var magic = []byte("CLHB")

// errPacket is the cause of every refusal of a packet.
var errPacket = errors.New("not an authentic heartbeat")

// packet is the content of one datagram.
type packet struct {
	kind byte
	path int
	id   uint64
	seq  uint64
	time int64
	held int64
}

// Keys authenticate the heartbeats of two nodes in both directions.
type Keys struct {
	ID         uint64 // tells which keys a packet was made with
	send, recv [keySize]byte
}

// DeriveKeys takes keys from a TLS connection between the nodes self and peer;
// export is the ExportKeyingMaterial of its state (RFC 8446, 7.5). Both nodes
// come to matching keys.
func DeriveKeys(export func(label string, context []byte, length int) ([]byte, error), self, peer string) (Keys, error) {
	if self == peer {
		return Keys{}, fmt.Errorf("derive keys of heartbeats: both nodes are named %q", self)
	}
	b, err := export("EXPORTER-colod-heartbeat-1", nil, exportSize)
	if err != nil {
		return Keys{}, fmt.Errorf("derive keys of heartbeats: %w", err)
	}
	if len(b) != exportSize {
		return Keys{}, fmt.Errorf("derive keys of heartbeats: %d bytes of key material, not %d", len(b), exportSize)
	}
	k := Keys{ID: binary.BigEndian.Uint64(b)}
	copy(k.send[:], b[8:])
	copy(k.recv[:], b[8+keySize:])
	if self > peer {
		k.send, k.recv = k.recv, k.send
	}
	return k, nil
}

// signer makes and checks the packets' ends with one key; for one thread.
type signer struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newSigner(key [keySize]byte) *signer { return &signer{mac: hmac.New(sha256.New, key[:])} }

func (s *signer) tag(signed []byte) []byte {
	s.mac.Reset()
	s.mac.Write(signed)
	return s.mac.Sum(s.sum[:0])[:packetLen-signedLen]
}

// appendPacket adds p, signed, to b.
func (s *signer) appendPacket(b []byte, p *packet) []byte {
	at := len(b)
	b = append(b, magic...)
	b = append(b, version, p.kind, byte(p.path), 0)
	b = binary.BigEndian.AppendUint64(b, p.id)
	b = binary.BigEndian.AppendUint64(b, p.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(p.time))
	b = binary.BigEndian.AppendUint64(b, uint64(p.held))
	return append(b, s.tag(b[at:])...)
}

// parsePacket reads a datagram; whether it is authentic has to be checked with
// the keys that it names.
func parsePacket(b []byte) (p packet, err error) {
	switch {
	case len(b) != packetLen:
		return p, fmt.Errorf("%w: %d bytes, not %d", errPacket, len(b), packetLen)
	case !bytes.Equal(b[:4], magic) || b[4] != version || b[7] != 0:
		return p, fmt.Errorf("%w: it begins with %x", errPacket, b[:8])
	case b[5] != kindPing && b[5] != kindPong:
		return p, fmt.Errorf("%w: kind %d", errPacket, b[5])
	case b[6] >= MaxPaths:
		return p, fmt.Errorf("%w: path %d", errPacket, b[6])
	}
	p = packet{
		kind: b[5], path: int(b[6]),
		id: binary.BigEndian.Uint64(b[8:]), seq: binary.BigEndian.Uint64(b[16:]),
		time: int64(binary.BigEndian.Uint64(b[24:])), held: int64(binary.BigEndian.Uint64(b[32:])),
	}
	switch {
	case p.seq == 0 || p.time < 0 || p.held < 0:
		return p, fmt.Errorf("%w: number %d, time %d, held %d", errPacket, p.seq, p.time, p.held)
	case p.kind == kindPing && p.held != 0:
		return p, fmt.Errorf("%w: a ping that waited", errPacket)
	}
	return p, nil
}

// check reports whether the datagram, which parsePacket took, is authentic.
func (s *signer) check(b []byte) bool {
	return hmac.Equal(s.tag(b[:signedLen]), b[signedLen:packetLen])
}

// window takes each sequence number once, and those that are more than 63 older
// than the newest never.
type window struct {
	newest uint64
	seen   uint64 // bit i: newest-i was taken
}

func (w *window) take(seq uint64) bool {
	if seq > w.newest {
		if shift := seq - w.newest; shift < 64 {
			w.seen <<= shift
		} else {
			w.seen = 0
		}
		w.seen |= 1
		w.newest = seq
		return true
	}
	back := w.newest - seq
	if back >= 64 || w.seen&(1<<back) != 0 {
		return false
	}
	w.seen |= 1 << back
	return true
}
