package proxy

import (
	"testing"

	"colod/compare"
	"colod/internal/frame"
)

// What a stream's release was waits for company, for a limited time and amount; that of a datagram, which would be said
// twice, does not.
func TestStreamWatermarkWaits(t *testing.T) {
	sent := 0
	l := NewDirectLink("b", func([]byte) { sent++ }, func() {})
	watermark := func(kind frame.Kind) {
		l.engineMessage(&compare.Message{Kind: compare.MessageWatermark, Watermark: compare.Watermark{Flow: 1, Kind: kind}})
	}
	flush := func(now int64) {
		t.Helper()
		if err := l.flush(now); err != nil {
			t.Fatal(err)
		}
	}
	const start = int64(1e12)
	flush(start)
	if sent != 0 || l.deadline() != 0 {
		t.Fatal("nothing was to be sent")
	}
	watermark(frame.KindTCP)
	flush(start)
	flush(start + maxLater - 1)
	if sent != 0 || l.deadline() != start+maxLater {
		t.Fatalf("sent %d, deadline %d: a stream's watermark waits until %d", sent, l.deadline(), start+maxLater)
	}
	flush(start + maxLater)
	if sent != 1 || l.deadline() != 0 || l.pending() {
		t.Fatalf("sent %d, deadline %d: its time is over", sent, l.deadline())
	}
	watermark(frame.KindTCP)
	flush(start)
	l.mark(msgCkptBegin, 1)
	flush(start)
	if sent != 2 || l.deadline() != 0 {
		t.Fatalf("sent %d: what must go takes along what waits, in order", sent)
	}
	watermark(frame.KindTCP)
	flush(start)
	watermark(frame.KindUDP)
	flush(start)
	if sent != 3 || l.deadline() != 0 {
		t.Fatalf("sent %d: a datagram's watermark goes at once", sent)
	}
	for range maxLaterBytes {
		watermark(frame.KindTCP)
		flush(start)
	}
	if sent < 4 || len(l.plain) >= maxLaterBytes {
		t.Fatalf("sent %d, %d bytes wait: more than %d do not", sent, len(l.plain), maxLaterBytes)
	}
}
