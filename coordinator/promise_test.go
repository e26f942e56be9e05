package coordinator

import (
	"testing"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
)

// TestPromise: what is promised to secondaries that are being made is not free for others, and only as long.
func TestPromise(t *testing.T) {
	const guest, free = 1 << 30, 5 << 30
	need := placement.SecondaryMemory(guest)
	a, b := &driver{}, &driver{}
	n := &Node{order: []string{"a", "b"}, drivers: map[string]*driver{"a": a, "b": b}}
	expect := func(want uint64) {
		t.Helper()
		if got := n.unpromised(free); got != want {
			t.Errorf("%d bytes are free, want %d", got, want)
		}
	}
	expect(free)
	a.promise.make(guest)
	expect(free - need)
	a.promise.moved(pair.Moved{From: pair.Idle, To: pair.Standby}, guest) // the request waits for the machine
	expect(free - need)
	a.promise.moved(pair.Moved{From: pair.Standby, To: pair.Syncing, Role: pair.Secondary}, guest)
	b.promise.make(guest)
	expect(free - 2*need)
	a.promise.moved(pair.Moved{From: pair.Syncing, To: pair.Protected, Role: pair.Secondary}, guest) // it has its memory
	expect(free - need)
	b.promise.drop()
	expect(free)
	a.promise.make(8 * guest)
	expect(0)
}
