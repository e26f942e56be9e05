package front

import (
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"colod/compare"
	"colod/internal/frame"
)

// tcpFrame builds a frame with complete checksums, as a guest without offloads sends it.
func tcpFrame(t *testing.T, fromGuest bool, tcp layers.TCP, payload []byte) ([]byte, *frame.Parsed) {
	t.Helper()
	guest, client := net.IPv4(192, 0, 2, 10), net.IPv4(192, 0, 2, 1)
	eth := layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: client, DstIP: guest}
	tcp.SrcPort, tcp.DstPort = 40000, 80
	if fromGuest {
		ip.SrcIP, ip.DstIP, tcp.SrcPort, tcp.DstPort = guest, client, 80, 40000
	}
	tcp.ACK = !tcp.SYN || fromGuest
	tcp.SetNetworkLayerForChecksum(&ip)
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &eth, &ip, &tcp, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	b := append(make([]byte, frame.VnetLen), buf.Bytes()...)
	p := &frame.Parsed{}
	frame.Parse(b, p)
	return b, p
}

func timestamps(val, ecr uint32) []layers.TCPOption {
	d := []byte{byte(val >> 24), byte(val >> 16), byte(val >> 8), byte(val), byte(ecr >> 24), byte(ecr >> 16), byte(ecr >> 8), byte(ecr)}
	return []layers.TCPOption{{OptionType: layers.TCPOptionKindNop, OptionLength: 1}, {OptionType: layers.TCPOptionKindNop, OptionLength: 1},
		{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: d}}
}

// reparse also checks the checksum from scratch.
func reparse(t *testing.T, b []byte) *frame.Parsed {
	t.Helper()
	p := &frame.Parsed{}
	frame.Parse(b, p)
	pkt := gopacket.NewPacket(b[frame.VnetLen:], layers.LayerTypeEthernet, gopacket.Default)
	ip, tcp := pkt.Layer(layers.LayerTypeIPv4).(*layers.IPv4), pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
	want := tcp.Checksum
	tcp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, tcp, gopacket.Payload(tcp.Payload)); err != nil {
		t.Fatal(err)
	}
	if tcp.Checksum != want {
		t.Errorf("checksum %#x, right is %#x", want, tcp.Checksum)
	}
	return p
}

// TestInvariant4Rewriting: after a takeover both directions are rewritten, for the life of the connection.
func TestInvariant4Rewriting(t *testing.T) {
	f := New()
	b, p := tcpFrame(t, true, layers.TCP{Seq: 1000, Ack: 5000, Window: 100, Options: timestamps(77, 33)}, []byte("hello"))
	key := p.Key(true)
	f.Add(0, compare.Front{Key: key, SeqOff: 0xfffffff0, TSOff: 1000, HasTS: true, LastTS: 1000})
	f.Out(1, b, p, p.Len())
	seqOff := uint32(0xfffffff0)
	if got := reparse(t, b); got.Seq != frame.Num(1000+seqOff) || got.Ack != 5000 || got.TSVal != 1077 || got.TSEcr != 33 {
		t.Errorf("out: seq %d ack %d ts %d %d", got.Seq, got.Ack, got.TSVal, got.TSEcr)
	}
	b, p = tcpFrame(t, false, layers.TCP{Seq: 5000, Ack: 1000 + seqOff + 5, Window: 100, Options: timestamps(34, 1077)}, nil)
	f.In(2, b, p)
	if got := reparse(t, b); got.Seq != 5000 || got.Ack != 1005 || got.TSVal != 34 || got.TSEcr != 77 {
		t.Errorf("in: seq %d ack %d ts %d %d", got.Seq, got.Ack, got.TSVal, got.TSEcr)
	}
	// A second takeover: the offsets add up.
	f2 := New()
	f2.Add(3, compare.Front{Key: key, SeqOff: 0xfffffff0, TSOff: 1000})
	f2.Add(3, compare.Front{Key: key, SeqOff: 0x20, TSOff: 5})
	b, p = tcpFrame(t, true, layers.TCP{Seq: 0, Options: timestamps(1, 0)}, nil)
	f2.Out(4, b, p, 0)
	if got := reparse(t, b); got.Seq != 0x10 || got.TSVal != 1006 {
		t.Errorf("second takeover: seq %d ts %d", got.Seq, got.TSVal)
	}
}

// TestInvariant4Timestamps: no client sees time run backwards (RFC 7323 section 5).
func TestInvariant4Timestamps(t *testing.T) {
	f := New()
	_, p := tcpFrame(t, true, layers.TCP{Options: timestamps(1, 1)}, nil)
	f.Add(0, compare.Front{Key: p.Key(true), HasTS: true, LastTS: 500})
	last := uint32(500)
	for ts := uint32(480); ts < 520; ts++ {
		b, p := tcpFrame(t, true, layers.TCP{Options: timestamps(ts, 1)}, nil)
		f.Out(1, b, p, 0)
		got := reparse(t, b)
		if int32(got.TSVal-last) < 0 {
			t.Fatalf("timestamp %d after %d", got.TSVal, last)
		}
		last = got.TSVal
	}
	if last != 519 {
		t.Errorf("the guest's own time 519 is sent as %d", last)
	}
	if !f.Expire(2) {
		t.Error("a connection that needs no rewriting any more is still in the table")
	}
}

func TestFrontForgetsClosedConnections(t *testing.T) {
	f := New()
	_, p := tcpFrame(t, true, layers.TCP{}, nil)
	key := p.Key(true)
	f.Add(0, compare.Front{Key: key, SeqOff: 7})
	b, p := tcpFrame(t, true, layers.TCP{Seq: 10, Ack: 50, FIN: true}, []byte("x"))
	f.Out(1, b, p, 1) // ends at 12 for the guest, 19 for the client
	b, p = tcpFrame(t, false, layers.TCP{Seq: 50, Ack: 19, FIN: true}, nil)
	f.In(2, b, p)
	if f.flows[key].closedAt != 0 {
		t.Fatal("closed before the guest acknowledged the client's FIN")
	}
	b, p = tcpFrame(t, true, layers.TCP{Seq: 12, Ack: 51}, nil)
	f.Out(3, b, p, 0)
	if f.flows[key].closedAt != 3 {
		t.Fatal("not closed after both FINs and their acknowledgements")
	}
	if f.Expire(3 + linger) {
		t.Error("forgotten while late repetitions may come")
	}
	if !f.Expire(4 + linger) {
		t.Error("not forgotten")
	}
	// A client that opens anew on the same ports is not rewritten.
	f.Add(0, compare.Front{Key: key, SeqOff: 7})
	f.flows[key].closedAt = 1
	b, p = tcpFrame(t, false, layers.TCP{Seq: 9, SYN: true}, nil)
	f.In(5, b, p)
	if len(f.flows) != 0 {
		t.Error("an old connection's offset is used for a new one")
	}
}

// TestFrontIdleConnection: one without an offset that says nothing does not keep the kernel out for ever.
func TestFrontIdleConnection(t *testing.T) {
	f := New()
	f.Add(5, compare.Front{Key: frame.FlowKey{Proto: 6, Kind: frame.KindTCP}, HasTS: true, LastTS: 9})
	if f.Expire(5 + clocks) {
		t.Error("forgotten before the guests' clocks have surely met")
	}
	if !f.Expire(6+clocks) || len(f.gone) != 1 {
		t.Error("not forgotten, or the peer is not told")
	}
}
