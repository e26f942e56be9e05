package scale

import (
	"testing"
	"time"
)

// TestConnections: every answer of every connection is released, and the price of a connection does not depend on how many
// there are by more than a table's last growth.
func TestConnections(t *testing.T) {
	for _, n := range []int{10, 1000, 20000} {
		s, err := measureConnections(n, 2*n, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d connections: %.0f bytes each, %.0f ns a round trip", n, s.bytes, s.ns)
		if n >= 1000 && (s.bytes < 100 || s.bytes > 20000) {
			t.Errorf("%d connections take %.0f bytes each", n, s.bytes)
		}
	}
}
