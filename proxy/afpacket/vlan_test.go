package afpacket

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInsertTag(t *testing.T) {
	const macs = "525400123456" + "525400654321"
	for _, c := range []struct {
		name, in, want string
		vlan           uint32
	}{
		{"plain", "00000000000000000000" + macs + "0800" + "4500", "00000000000000000000" + macs + "8100006408004500", 0x8100<<16 | 100},
		{"802.1ad and priority", "00000000000000000000" + macs + "8100000a0800", "00000000000000000000" + macs + "88a8f0018100000a0800", 0x88a8<<16 | 0xf001},
		{"partial checksum moves, header length stays without segmentation", "01002200000022001000" + macs + "0800aa", "01002200000026001000" + macs + "810000010800aa", 0x8100<<16 | 1},
		{"segment: header length and checksum move", "01014200a80522001000" + macs + "0800aa", "01014600a80526001000" + macs + "810000010800aa", 0x8100<<16 | 1},
		{"checksum known to be good: nothing moves", "02000000000000000000" + macs + "0800", "02000000000000000000" + macs + "810000010800", 0x8100<<16 | 1},
		{"header length that cannot grow", "0101ffffa80522001000" + macs + "0800", "0101ffffa80526001000" + macs + "810000010800", 0x8100<<16 | 1},
		{"too short for an Ethernet header", "00000000000000000000" + macs + "08", "00000000000000000000" + macs + "08", 0x8100<<16 | 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := unhex(t, c.in)
			buf := append(in, make([]byte, TagLen)...)
			n := InsertTag(buf, len(in), c.vlan)
			if want := unhex(t, c.want); !bytes.Equal(buf[:n], want) {
				t.Errorf("got  %x\nwant %x", buf[:n], want)
			}
		})
	}
}

func TestInsertTagWithoutRoom(t *testing.T) {
	buf := unhex(t, "00000000000000000000"+"525400123456525400654321"+"0800")
	before := bytes.Clone(buf)
	if n := InsertTag(buf, len(buf), 0x8100<<16|1); n != len(before) || !bytes.Equal(buf, before) {
		t.Errorf("a full buffer was changed: %d bytes, %x", n, buf)
	}
}

func FuzzInsertTag(f *testing.F) {
	f.Add(make([]byte, 64), uint32(0x81000001))
	f.Add([]byte{1, 1, 255, 255}, uint32(0))
	f.Fuzz(func(t *testing.T, in []byte, vlan uint32) {
		buf := append(bytes.Clone(in), make([]byte, TagLen)...)
		n := InsertTag(buf, len(in), vlan)
		switch n {
		case len(in):
			if len(in) >= tagAt+2 {
				t.Fatalf("no tag in a frame of %d bytes", len(in))
			}
		case len(in) + TagLen:
			// Taking the tag out again gives the frame back.
			back := append(bytes.Clone(buf[:tagAt]), buf[tagAt+TagLen:n]...)
			if !bytes.Equal(back[VnetLen:], in[VnetLen:]) {
				t.Fatalf("frame changed:\n%x\n%x", in, back)
			}
		default:
			t.Fatalf("%d bytes became %d", len(in), n)
		}
	})
}
