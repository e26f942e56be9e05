package e2e

import (
	"fmt"
	"testing"

	"colod/internal/lab"
	"colod/internal/lab/client"
)

// TestFailoversInARow takes the speaker away again and again, in turn by its
// QEMU, its colod's order and its whole host. The same connections live through
// all of it, protection comes back by itself each time, and the daemons do not
// grow.
func TestFailoversInARow(t *testing.T) {
	n := rounds(3, 40)
	l := protected(t)
	giveUpIfFailed(t, l)
	watch(t, l)
	s := begin(t, l, working, append(ordinary(), client.Load{Kind: client.SSH, Name: "ssh session"})...)
	usage := lab.NewUsageLog()
	var gaps, agains figures
	took := map[string]int{}
	for i := range n {
		before := status(t, l)
		unbroken(t, s, "before")
		// Daemons live on in most rounds, or nothing could be said about their growth.
		kind := []string{lab.KillVM, "failover", lab.KillVM, "failover", lab.KillVM}[i%5]
		if i%20 == 12 {
			kind = lab.KillNode
		}
		took[kind]++
		var err error
		if kind == "failover" {
			err = l.Operate(t.Context(), before.Speaker, "failover", before.Pair)
		} else {
			_, err = l.Fault(t.Context(), kind, before.Speaker)
		}
		if err != nil {
			t.Fatalf("round %d: %v", i+1, err)
		}
		after, d := awaitSpeaker(t, l, before)
		if after.Speaker == before.Speaker {
			t.Errorf("round %d, %s: %s speaks again after %v: %s", i+1, kind, after.Speaker, d, after.Reason)
		}
		if kind == lab.KillNode {
			fault(t, l, lab.Heal, "")
		}
		agains = append(agains, float64(again(t, l).Milliseconds()))
		gaps = append(gaps, silence(unbroken(t, s, fmt.Sprintf("round %d, %s", i+1, kind))))
		usage.Sample(t.Context(), l)
		if t.Failed() {
			return
		}
	}
	for _, r := range finished(t, s) {
		t.Logf("client %s: %d rounds, %d bytes", r.Name, r.Rounds, r.Bytes)
	}
	t.Logf("%d failovers %v, load average %s: silence of clients, ms: %s; protected again, ms after the new record: %s", n, took, loadAverage(), gaps, agains)
	for node, u := range usage.Summary() {
		t.Logf("colod on %s: %+v", node, u)
		for _, g := range u.Growth {
			t.Errorf("colod on %s grows: %s", node, g)
		}
	}
	record(t, map[string]any{"failovers": n, "kinds": took, "gap_ms": gaps, "protected_ms": agains, "usage": usage.Summary()})
}
