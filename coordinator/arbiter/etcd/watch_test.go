package etcd

import (
	"testing"
	"time"

	"colod/coordinator/arbiter"
)

// told waits until the watch has told of a generation.
func told(t *testing.T, ch <-chan arbiter.Record, generation uint64) {
	t.Helper()
	limit := time.NewTimer(longEnough)
	defer limit.Stop()
	for {
		select {
		case r, ok := <-ch:
			if !ok {
				t.Fatal("the watch has ended")
			}
			if r.Generation == generation {
				return
			}
			if r.Generation > generation {
				t.Fatalf("told of generation %d, want %d", r.Generation, generation)
			}
		case <-limit.C:
			t.Fatalf("never told of generation %d", generation)
		}
	}
}

func TestWatch(t *testing.T) {
	c := newCluster(t, 3)
	a, b := c.open(t), c.open(t)
	ctx := within(t, 5*time.Minute)
	ch, err := b.Watch(ctx, "p")
	if err != nil {
		t.Fatal(err)
	}
	r := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	told(t, ch, 1)
	r = must(t, a, r, record("p", 2, "a", "b"))
	told(t, ch, 2)
	// A watch that begins later is told of what there is.
	late, err := b.Watch(ctx, "p")
	if err != nil {
		t.Fatal(err)
	}
	told(t, late, 2)
	// Unread changes leave the last one.
	for range 20 {
		r = must(t, a, r, record("p", r.Generation+1, "a", ""))
	}
	told(t, ch, 22)
	// It outlives each of the members in turn.
	for i := range 3 {
		if err := c.Kill(i); err != nil {
			t.Fatal(err)
		}
		r = must(t, a, r, record("p", r.Generation+1, "a", ""))
		told(t, ch, r.Generation)
		if err := c.Restart(i); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitHealthy(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	// Close ends it.
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for range ch {
	}
	if _, err := b.Watch(ctx, "p"); err == nil {
		t.Error("watch after Close")
	}
	if _, err := a.Watch(ctx, "p/q"); err == nil {
		t.Error("watch of what is no pair")
	}
}
