package disk

import (
	"testing"
)

// TestRealLossOfSecondary also shows that only what has changed since is copied to the next secondary.
func TestRealLossOfSecondary(t *testing.T) {
	a, b := newHost(t, "a", Raw, QCOW2), newHost(t, "b", Raw, QCOW2)
	a.makeImages()
	a.launch(false)
	a.write(0, 1, "0", "32M")
	a.write(1, 1, "0", "32M")
	x := protect(t, a, b)
	ctx := testContext(t, 120e9)
	for gen := range 3 {
		a.write(0, byte(10+gen), "40M", "1M")
		x.checkpoint()
		b.reads(0, byte(10+gen), "40M", "1M")
		if gen > 0 { // one interval or more has passed
			for range gen + 1 {
				if err := a.layout.Renew(ctx, a.vm.Monitor(), x.session); err != nil {
					t.Fatal(err)
				}
			}
		}
		b.write(0, 99, "50M", "1M") // the secondary's guest may be ahead; it is dropped with it
		a.write(1, byte(20+gen), "33M", "64k")
		b.end()
		x.goOn()
		a.write(0, byte(30+gen), "44M", "1M")
		a.reads(0, byte(10+gen), "40M", "1M")

		x = prepare(t, a, b)
		changed, n := x.copyDisks()
		t.Logf("generation %d: changes only %v, %d bytes", gen, changed, n)
		if !changed || n > 8<<20 {
			t.Errorf("copied %d bytes, changes only %v: want the few MiB that were written", n, changed)
		}
		a.write(0, byte(40+gen), "46M", "64k")
		x.copyGuest()
		b.reads(0, byte(40+gen), "46M", "64k")
		b.reads(0, byte(30+gen), "44M", "1M")
		b.reads(1, byte(20+gen), "33M", "64k")
		b.reads(0, 0, "50M", "1M")
	}
	// In the end both images are one.
	x.checkpoint()
	x.cut()
	b.end()
	if _, err := a.vm.LostHeartbeat(ctx); err != nil {
		t.Fatal(err)
	}
	a.end()
	for i := range a.layout.Disks {
		if da, db := a.digest(i), b.digest(i); da != db {
			t.Errorf("disk %d differs: %s, %s", i, da, db)
		}
	}
}
