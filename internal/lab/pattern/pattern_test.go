package pattern

import (
	"bytes"
	"testing"
)

func TestFillAgreesWithAt(t *testing.T) {
	for off := uint64(0); off < 20; off++ {
		for n := 0; n < 40; n++ {
			b := make([]byte, n)
			Fill(b, 7, off)
			for i := range b {
				if b[i] != At(7, off+uint64(i)) {
					t.Fatalf("offset %d, byte %d of %d", off, i, n)
				}
			}
		}
	}
}

func TestStreamsDiffer(t *testing.T) {
	a, b := make([]byte, 64), make([]byte, 64)
	Fill(a, 1, 0)
	for s := uint64(2); s < 1000; s++ {
		if Fill(b, s, 0); bytes.Equal(a[:16], b[:16]) {
			t.Fatalf("streams 1 and %d begin alike", s)
		}
	}
}

func TestStaticRepeatsAtPeriodOnly(t *testing.T) {
	if Static(0)[0] != Static(period)[0] || len(Static(period-1)) != 1 {
		t.Error("table does not wrap at its period")
	}
	if bytes.Equal(Static(0)[:32], Static(1 << 20)[:32]) {
		t.Error("content at 0 and 1 MiB is alike")
	}
}
