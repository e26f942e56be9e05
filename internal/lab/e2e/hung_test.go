package e2e

import (
	"context"
	"testing"
	"time"

	"colod/coordinator"
	"colod/coordinator/pair"
	"colod/internal/lab"
)

// TestHungVM stops a QEMU process, of either side, idle and while a checkpoint is
// taken: its node finds that out by itself, clients go on and lose nothing, and the
// pair is protected again without anybody's help.
func TestHungVM(t *testing.T) {
	for _, c := range []struct {
		name      string
		secondary bool
		busy      bool // in a checkpoint
		slow      bool // in the full campaign only
	}{
		{name: "speaker", slow: true},
		{name: "twin", secondary: true, slow: true},
		{name: "speaker-in-checkpoint", busy: true},
		{name: "twin-in-checkpoint", secondary: true, busy: true},
	} {
		if c.slow && !long {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			l := protected(t)
			giveUpIfFailed(t, l)
			gap, longest := watched(t, l, load(), 3*time.Second, func(mark func()) {
				before := status(t, l)
				node := before.Speaker
				if c.secondary {
					node = other(node)
				}
				done := make(chan struct{})
				close(done)
				if c.busy {
					// Its outcome does not matter: the VM may stop before, in or after it.
					done = make(chan struct{})
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					go func() {
						defer close(done)
						_, _ = coordinator.NewClient(l.Socket(before.Speaker)).Ask(ctx, "guest", pair.OpCheckpoint, -1)
					}()
					time.Sleep(20 * time.Millisecond)
				}
				fault(t, l, lab.FreezeVM, node)
				mark()
				after, d := awaitSpeaker(t, l, before)
				t.Logf("%s -> %s after %v: %s", before.Speaker, after.Speaker, d.Round(time.Millisecond), after.Reason)
				<-done
			})
			t.Logf("clients heard nothing for %.0f ms; longest pause: %.0f ms", gap, longest)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			if err := l.AwaitState(ctx, "protected"); err != nil {
				t.Error(err)
			}
		})
	}
}
