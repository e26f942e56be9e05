package e2e

import (
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
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
	s, err := l.Client(t.Context(), []client.Load{
		{Kind: client.Echo, Name: "echo", Rate: 40 << 10},
		{Kind: client.Echo, Name: "echo over IPv6", Host: image.GuestIPv6, Rate: 40 << 10},
		{Kind: client.SSH, Name: "ssh session"},
		{Kind: client.Redis, Name: "redis", Rate: 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Await(2*time.Minute, working); err != nil {
		t.Fatal(err)
	}
	usage := lab.NewUsageLog()
	var gaps, agains figures
	took := map[string]int{}
	for i := range n {
		before := status(t, l)
		if _, err := s.Mark(); err != nil {
			t.Fatal(err)
		}
		// Daemons live on in most rounds, or nothing could be said about their growth.
		kind := []string{lab.KillVM, "failover", lab.KillVM, "failover", lab.KillVM}[i%5]
		if i%20 == 12 {
			kind = lab.KillNode
		}
		took[kind]++
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
		reports, err := s.Mark()
		if err != nil {
			t.Fatal(err)
		}
		gap := 0.0
		for _, r := range reports {
			gap = max(gap, r.FirstMS)
			if !r.Clean() {
				t.Fatalf("round %d, %s: client %s: lost %d, repeated %d, corrupt %d, %q", i+1, kind, r.Name, r.Lost, r.Repeated, r.Corrupt, r.Error)
			}
		}
		gaps = append(gaps, gap)
		usage.Sample(t.Context(), l)
		if t.Failed() {
			return
		}
	}
	reports, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		if !r.Clean() || !r.Done {
			t.Errorf("client %s: lost %d, repeated %d, corrupt %d, done %v, %q", r.Name, r.Lost, r.Repeated, r.Corrupt, r.Done, r.Error)
		}
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
