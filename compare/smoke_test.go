package compare

import (
	"testing"

	"colod/internal/frame"
)

func TestOpenSendClose(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		w := protected(t, Config{})
		p, s := twins(v6, 0xfffffe00, 1000, 7000, true)
		w.open(&p, &s)
		if len(w.released) != 1 {
			t.Fatalf("%d frames released after the handshake, want the SYN+ACK", len(w.released))
		}
		data := pattern(5000)
		w.primary(p.data(0, data, frame.PSH, 0, 500))
		w.settle()
		w.secondary(s.data(0, data[:1000], 0, 0, 500))
		w.settle()
		w.secondary(s.data(1000, data[1000:], frame.PSH, 0, 500))
		w.settle()
		w.input(p.fromClient(p.iss, 0, nil, 0, 5000))
		w.secondary(s.data(5000, nil, frame.FIN, 0, 500))
		w.settle()
		w.primary(p.data(5000, nil, frame.FIN, 0, 500))
		w.settle()
		w.input(p.fromClient(p.iss, 0, nil, 0, 5001))
		w.noDivergence()
		w.noLoans()
		if n := len(w.released); n != 4 {
			t.Fatalf("%d frames released, want 4", n)
		}
	}
}
