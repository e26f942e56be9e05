package qmp

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/qmp/relay"
)

// survive has v take over or go on after the relays were cut, and checks that it is an ordinary
// running VM then.
func survive(t testing.TB, v *VM) time.Duration {
	t.Helper()
	ctx := testContext(t, 20*time.Second)
	start := time.Now()
	resumed, err := v.LostHeartbeat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if resumed.IsZero() {
		t.Fatal("LostHeartbeat says that the VM was not in COLO")
	}
	s, err := v.QueryStatus(ctx)
	if err != nil || !s.Running {
		t.Fatalf("guest does not run: %+v, %v", s, err)
	}
	if c, err := v.QueryColo(ctx); err != nil || c.Mode != "none" {
		t.Fatalf("still in COLO: %+v, %v", c, err)
	}
	// Once more is no error and changes nothing.
	if resumed, err := v.LostHeartbeat(ctx); err != nil || !resumed.IsZero() {
		t.Fatalf("LostHeartbeat outside COLO: %v, %v", resumed, err)
	}
	return took
}

func (x *pair) cut() {
	x.rp.Cut()
	x.rs.Cut()
}

func killNow(t testing.TB, v *VM) {
	t.Helper()
	if err := v.proc.kill(); err != nil {
		t.Fatal(err)
	}
	<-v.Died()
}

// TestRealLossOfPrimary also makes each survivor the primary of a new secondary: four generations.
func TestRealLossOfPrimary(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	p := launch(t, testConfig(t, "p"), false)
	for gen := range 4 {
		s := launch(t, testConfig(t, "s"), true)
		x := protect(t, p, s, relay.Options{})
		for range 3 {
			if _, err := p.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if gen%2 == 1 { // within a checkpoint
			if err := p.TriggerCheckpoint(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(gen) * 300 * time.Microsecond)
		}
		killNow(t, p)
		x.cut()
		t.Logf("generation %d: takeover took %v", gen, survive(t, s))
		p = s
	}
}

func TestRealLossOfSecondary(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	p := launch(t, testConfig(t, "p"), false)
	for gen := range 4 {
		s := launch(t, testConfig(t, "s"), true)
		x := protect(t, p, s, relay.Options{})
		if _, err := p.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
		if gen%2 == 1 {
			if err := p.TriggerCheckpoint(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(gen) * 300 * time.Microsecond)
		}
		killNow(t, s)
		if gen == 2 { // QEMU finds out by itself
			if _, err := p.Checkpoint(ctx); !errors.Is(err, ErrColoExit) {
				t.Fatalf("checkpoint without a secondary: %v, want ErrColoExit", err)
			}
		}
		x.cut()
		t.Logf("generation %d: primary went on after %v", gen, survive(t, p))
	}
}

// freeze stops the process and waits until the kernel says so.
func freeze(t testing.TB, v *VM) {
	t.Helper()
	if err := v.proc.signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func TestRealFrozenPeer(t *testing.T) {
	for _, c := range []struct {
		name    string
		primary bool // who freezes
		within  bool // a checkpoint
		noCut   bool // LostHeartbeat's own yank must do
	}{
		{name: "primary idle", primary: true},
		{name: "primary in checkpoint", primary: true, within: true},
		{name: "primary in checkpoint without cut", primary: true, within: true, noCut: true},
		{name: "secondary idle"},
		{name: "secondary in checkpoint", within: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t, 60*time.Second)
			x := startPair(t)
			if _, err := x.p.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
			frozen, survivor := x.s, x.p
			if c.primary {
				frozen, survivor = x.p, x.s
			}
			if c.within {
				if !freezeWithin(ctx, t, x, frozen) {
					t.Log("the checkpoint was over before the freeze")
				}
			} else {
				freeze(t, frozen)
			}
			if !c.noCut {
				x.cut()
			}
			t.Logf("survivor ran after %v", survive(t, survivor))
		})
	}
}

// freezeWithin freezes v while a checkpoint is under way: at the primary's STOP.
func freezeWithin(ctx context.Context, t testing.TB, x *pair, v *VM) bool {
	t.Helper()
	ev := x.p.Subscribe(0)
	defer ev.Close()
	for range 20 {
		if err := x.p.TriggerCheckpoint(ctx); err != nil {
			t.Fatal(err)
		}
		for e := range ev.C {
			if e.Name == EventStop {
				break
			}
		}
		freeze(t, v)
		// In the middle if the other one does not get to its RESUME.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		if x.rp.Stats().Phase != relay.Idle || x.rs.Stats().Phase != relay.Idle {
			return true
		}
		if err := v.proc.signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for e := range ev.C {
			if e.Name == EventResume {
				break
			}
		}
	}
	freeze(t, v)
	return false
}
