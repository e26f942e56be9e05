package proxy

import (
	"bytes"
	"testing"

	"colod/internal/frame"
)

// segment is what the input log has to know of a client's segment.
func segment(seq uint32, n int, flags uint8) (frame.FlowKey, *frame.Parsed, []byte) {
	key := frame.FlowKey{Proto: frame.ProtoTCP, Kind: frame.KindTCP, GuestPort: 80, PeerPort: 1000}
	p := &frame.Parsed{Kind: frame.KindTCP, Flags: flags | frame.ACK, Seq: frame.Num(seq), Payload: 64, End: 64 + n}
	return key, p, bytes.Repeat([]byte{byte(seq)}, 64+n)
}

func replayed(l *inputLog) (first []byte) {
	l.replay(func(b []byte) { first = append(first, b[0]) })
	return first
}

// TestInvariant3InputLog: what the client was not told to have arrived is kept, and given again.
func TestInvariant3InputLog(t *testing.T) {
	l := newInputLog()
	var key frame.FlowKey
	for i := range 5 {
		k, p, b := segment(uint32(100+i*10), 10, 0)
		key = k
		l.add(1, k, p, b)
	}
	if got, want := replayed(l), []byte{100, 110, 120, 130, 140}; !bytes.Equal(got, want) {
		t.Fatalf("replay %v, want %v", got, want)
	}
	l.guestAcked(key, 120) // the guest has two; the client has not been told
	if got, want := replayed(l), []byte{120, 130, 140}; !bytes.Equal(got, want) {
		t.Fatalf("replay after the guest's acknowledgement %v, want %v", got, want)
	}
	l.checkpoint(2) // the guest was set back to the primary's state
	if got, want := replayed(l), []byte{100, 110, 120, 130, 140}; !bytes.Equal(got, want) {
		t.Fatalf("replay after a checkpoint %v, want %v", got, want)
	}
	l.released(3, key, 130)
	if got, want := replayed(l), []byte{130, 140}; !bytes.Equal(got, want) {
		t.Fatalf("replay after the release %v, want %v", got, want)
	}
	l.released(3, key, 150)
	if got := replayed(l); len(got) != 0 || l.bytes != 0 {
		t.Fatalf("replay %v and %d bytes after all was released", got, l.bytes)
	}
}

func TestInputLogForgetsOldEpochs(t *testing.T) {
	l := newInputLog()
	key, p, b := segment(1, 10, 0)
	l.add(1, key, p, b)
	l.checkpoint(2)
	if len(replayed(l)) != 1 {
		t.Fatal("input of just before a checkpoint is not given again")
	}
	l.checkpoint(3)
	if len(replayed(l)) != 0 || l.bytes != 0 {
		t.Fatal("input of two checkpoints ago is still given again")
	}
}

func TestInputLogSYN(t *testing.T) {
	l := newInputLog()
	key, p, b := segment(500, 0, frame.SYN)
	p.Flags = frame.SYN
	l.add(1, key, p, b)
	if len(replayed(l)) != 1 {
		t.Fatal("a SYN is not kept")
	}
	l.released(1, key, 501)
	if len(replayed(l)) != 0 {
		t.Fatal("an answered SYN is kept")
	}
}

func TestInputLogNewestAck(t *testing.T) {
	l := newInputLog()
	for _, seq := range []uint32{7, 9} {
		key, p, b := segment(seq, 0, 0)
		l.add(1, key, p, b)
	}
	if got := replayed(l); !bytes.Equal(got, []byte{9}) {
		t.Fatalf("replay %v, want the newest frame without payload only", got)
	}
}

func TestInputLogBounded(t *testing.T) {
	l := newInputLog()
	for i := range 3000 {
		key, p, b := segment(uint32(i*60000), 60000, 0)
		key.PeerPort = uint16(i)
		l.add(1, key, p, b)
	}
	if l.bytes > logMaxBytes || l.evicted == 0 {
		t.Fatalf("%d bytes kept, %d evicted", l.bytes, l.evicted)
	}
	key, p, b := segment(1, 0, frame.RST)
	l.add(1, key, p, b)
	if _, ok := l.flows[key]; ok {
		t.Fatal("a reset connection is remembered")
	}
}
