package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
)

// TestMuteSecondary takes the device of the secondary's guest down. Its VM runs on, and checkpoints complete, so that
// nothing fails: it only says no more what the speaker's guest says. It is found out by that, and made anew.
func TestMuteSecondary(t *testing.T) {
	l := protected(t)
	giveUpIfFailed(t, l)
	w := watch(t, l)
	before := status(t, l)
	defer func() {
		if _, err := l.Fault(context.WithoutCancel(t.Context()), lab.UnmuteVM, ""); err != nil {
			t.Error(err)
		}
	}()
	_, longest := watched(t, l, load(), 2*time.Second, func(mark func()) {
		mark()
		fault(t, l, lab.MuteVM, before.Standby)
		after, d := awaitSpeaker(t, l, before)
		t.Logf("given up after %v: %s", d.Round(time.Millisecond), after.Reason)
		if after.Speaker != before.Speaker {
			t.Errorf("the silence of the secondary moved the guest from %s to %s", before.Speaker, after.Speaker)
		}
		if why := reasonOf(t, l, before); !strings.Contains(why, "is deaf") {
			t.Errorf("given up for another reason: %q", why)
		}
		fault(t, l, lab.UnmuteVM, "")
		t.Logf("protected again after %v", again(t, l).Round(time.Millisecond))
	})
	t.Logf("longest silence of clients: %.0f ms; %d bytes said", longest, said(t, w))
	record(t, map[string]any{"longest_ms": longest})
}

// reasonOf is why the speaker gave up the record that it had before.
func reasonOf(t *testing.T, l *lab.Lab, before *lab.Status) (reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // the past comes at once
	defer cancel()
	err := l.Events(ctx, before.Speaker, func(e coordinator.Event) bool {
		if e.State == "claiming" && e.Generation == before.Generation {
			reason = e.Reason
			return false
		}
		return true
	})
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	return reason
}

// TestFrozenColod stops the process of colod, of either side, for longer than anybody waits for it: the other node goes on
// alone, the record decides when it wakes up, and the pair is protected again.
func TestFrozenColod(t *testing.T) {
	for _, secondary := range []bool{false, true} {
		name := "speaker"
		if secondary {
			name = "secondary"
		}
		if secondary && !long {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var gaps figures
			for range rounds(1, 5) {
				l := protected(t)
				giveUpIfFailed(t, l)
				watch(t, l)
				before := status(t, l)
				node := before.Speaker
				if secondary {
					node = before.Standby
				}
				gap, _ := watched(t, l, load(), 2*time.Second, func(mark func()) {
					fault(t, l, lab.FreezeColod, node)
					mark()
					after, d := awaitSpeaker(t, l, before)
					t.Logf("%s -> %s after %v: %s", before.Speaker, after.Speaker, d.Round(time.Millisecond), after.Reason)
					if after.Speaker == node {
						t.Errorf("%s speaks although its colod stands still", node)
					}
					fault(t, l, lab.ThawColod, node)
					t.Logf("protected again after %v", again(t, l).Round(time.Millisecond))
				})
				gaps = append(gaps, gap)
				if t.Failed() {
					return
				}
			}
			record(t, map[string]any{"frozen": name, "gap_ms": gaps})
			t.Logf("clients heard nothing for, ms: %s", gaps)
		})
	}
}
