package inputlog

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

func replayed(l *Log) (first []byte) {
	l.Replay(1, func(b []byte) { first = append(first, b[0]) })
	return first
}

// TestInvariant3InputLog: what the client was told to have arrived is kept until the guest has it, and given again.
func TestInvariant3InputLog(t *testing.T) {
	l := New()
	var key frame.FlowKey
	for i := range 5 {
		k, p, b := segment(uint32(100+i*10), 10, 0)
		key = k
		l.Add(1, k, p, b)
	}
	want := func(what string, want ...byte) {
		t.Helper()
		if got := replayed(l); !bytes.Equal(got, want) {
			t.Fatalf("%s: replay %v, want %v", what, got, want)
		}
	}
	want("at first", 100, 110, 120, 130, 140)
	l.GuestAcked(key, 120) // the guest has two; the client has not been told
	want("after the guest's acknowledgement", 120, 130, 140)
	l.Released(2, key, 140) // told ahead of the guest
	want("after the client was told", 120, 130, 140)
	l.GuestAcked(key, 130)
	want("after progress of the guest", 130, 140)
	l.Checkpoint(2) // the guest is a copy of the primary's, which had acknowledged what the client was told
	want("after a checkpoint", 140)
	l.Released(3, key, 150)
	want("told of the rest", 140)
	l.GuestAcked(key, 150)
	want("all is there")
	if l.Bytes() != 0 || l.Owed() != 0 {
		t.Fatalf("%d bytes and %d frames owed after all was acknowledged", l.Bytes(), l.Owed())
	}
}

// TestGuestSetBack: what a client was not told of before a checkpoint is given again after it, although the guest had
// acknowledged it before.
func TestGuestSetBack(t *testing.T) {
	l := New()
	key, p, b := segment(100, 10, 0)
	l.Add(1, key, p, b)
	l.GuestAcked(key, 110)
	l.Checkpoint(2)
	if got := replayed(l); len(got) != 1 {
		t.Fatalf("replay %v after the guest was set back, want the frame", got)
	}
}

// TestAgain: what only the log has is given again and again, slower and slower, until the guest has it.
func TestAgain(t *testing.T) {
	l := New()
	var key frame.FlowKey
	for i := range 40 {
		k, p, b := segment(uint32(i*10), 10, 0)
		key = k
		l.Add(0, k, p, b)
	}
	again := func(now int64) (got []byte) {
		l.Again(now, func(b []byte) { got = append(got, b[0]) })
		return got
	}
	if got := again(retry); len(got) != 0 {
		t.Fatalf("gave %v again, which the client will send itself", got)
	}
	l.Released(1, key, 300)
	if got := again(retry - 1); len(got) != 0 {
		t.Fatalf("gave %v again too early", got)
	}
	if got := again(retry); len(got) != burst || got[0] != 0 {
		t.Fatalf("gave %d frames from %v on, want %d from the first on", len(got), got[:1], burst)
	}
	if got := again(2 * retry); len(got) != 30-burst {
		t.Fatalf("gave %d frames, want the %d others that the client was told of", len(got), 30-burst)
	}
	if got := again(3 * retry); len(got) != 0 {
		t.Fatalf("gave %d frames again without waiting longer", len(got))
	}
	if n := l.Owed(); n != 30 {
		t.Fatalf("%d frames owed, want 30", n)
	}
	l.GuestAcked(key, 300)
	if got := again(100 * retry); len(got) != 0 || l.Owed() != 0 {
		t.Fatalf("gave %v again after the guest has it; %d owed", got, l.Owed())
	}
}

// TestReset: nobody needs the bytes of a connection that was reset, by either end or by a new one on the same ports.
func TestReset(t *testing.T) {
	for name, reset := range map[string]func(*Log, frame.FlowKey){
		"client": func(l *Log, key frame.FlowKey) {
			_, p, b := segment(110, 0, frame.RST)
			l.Add(2, key, p, b)
		},
		"guest": func(l *Log, key frame.FlowKey) { l.GuestReset(key) },
		"new connection": func(l *Log, key frame.FlowKey) {
			_, p, b := segment(77777, 0, frame.SYN)
			l.Add(2, key, p, b)
			l.Released(2, key, 77778)
			l.GuestAcked(key, 77778)
		},
	} {
		l := New()
		key, p, b := segment(100, 10, 0)
		l.Add(1, key, p, b)
		l.Released(1, key, 110)
		reset(l, key)
		if l.Owed() != 0 || l.Bytes() != 0 {
			t.Errorf("%s: %d owed, %d bytes kept", name, l.Owed(), l.Bytes())
		}
	}
}

// TestOldSYN: a late repetition of a connection's SYN ends nothing.
func TestOldSYN(t *testing.T) {
	l := New()
	key, syn, sb := segment(99, 0, frame.SYN)
	l.Add(1, key, syn, sb)
	_, p, b := segment(100, 10, 0)
	l.Add(1, key, p, b)
	l.Released(1, key, 110)
	l.GuestAcked(key, 100)
	l.Add(2, key, syn, sb)
	if n := l.Owed(); n != 1 {
		t.Fatalf("%d frames owed after a late SYN, want 1", n)
	}
}

func TestForgetsOldEpochs(t *testing.T) {
	l := New()
	key, p, b := segment(1, 10, 0)
	l.Add(1, key, p, b)
	l.Checkpoint(2)
	if len(replayed(l)) != 1 {
		t.Fatal("input of just before a checkpoint is not given again")
	}
	l.Checkpoint(3)
	if len(replayed(l)) != 0 || l.bytes != 0 {
		t.Fatal("input of two checkpoints ago is still given again")
	}
}

func TestSYN(t *testing.T) {
	l := New()
	key, p, b := segment(500, 0, frame.SYN)
	p.Flags = frame.SYN
	l.Add(1, key, p, b)
	if len(replayed(l)) != 1 {
		t.Fatal("a SYN is not kept")
	}
	l.Released(1, key, 501)
	l.GuestAcked(key, 501)
	if len(replayed(l)) != 0 {
		t.Fatal("an answered SYN is kept")
	}
}

func TestNewestAck(t *testing.T) {
	l := New()
	for _, seq := range []uint32{7, 9} {
		key, p, b := segment(seq, 0, 0)
		l.Add(1, key, p, b)
	}
	if got := replayed(l); !bytes.Equal(got, []byte{9}) {
		t.Fatalf("replay %v, want the newest frame without payload only", got)
	}
}

// TestFull: a full log says so, and keeps what it has.
func TestFull(t *testing.T) {
	l := New()
	refused := 0
	for i := range 3000 {
		key, p, b := segment(uint32(i*60000), 60000, 0)
		key.PeerPort = uint16(i)
		if !l.Add(1, key, p, b) {
			refused++
		}
	}
	if l.Bytes() > maxBytes || refused == 0 || uint64(refused) != l.Refused() {
		t.Fatalf("%d bytes kept, %d refused, %d counted", l.Bytes(), refused, l.Refused())
	}
	if got := len(replayed(l)); got != 3000-refused {
		t.Fatalf("%d frames kept, want %d", got, 3000-refused)
	}
}

// TestPromoted: after the loss of the primary all counts as told, since the last word on it may not have come.
func TestPromoted(t *testing.T) {
	l := New()
	var key frame.FlowKey
	for i := range 3 {
		k, p, b := segment(uint32(100+i*10), 10, 0)
		key = k
		l.Add(1, k, p, b)
	}
	l.Released(1, key, 110)
	l.GuestAcked(key, 110)
	if n := l.Owed(); n != 0 {
		t.Fatalf("%d frames owed before the loss", n)
	}
	l.Promoted()
	if n := l.Owed(); n != 2 {
		t.Fatalf("%d frames owed after the loss, want 2", n)
	}
	l.GuestAcked(key, 130)
	if n := l.Owed(); n != 0 {
		t.Fatalf("%d frames owed after the guest has all", n)
	}
}
