package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"colod/coordinator/arbiter"
)

// TestTwoContenders lets two nodes race for the record 2,000 times, in part with contexts that are too short for an
// answer, and compares what each was told with etcd's own history.
func TestTwoContenders(t *testing.T) {
	c := newCluster(t, 3)
	const generations = 2000
	var mu sync.Mutex
	winners := map[uint64][]string{} // by generation: who was told that it has won
	maybe := map[uint64][]string{}   // who was told that nobody knows
	var unknown, lost, failed int
	run := func(node string, a *Arbiter, rng *rand.Rand) {
		cur := arbiter.Record{}
		for cur.Generation < generations {
			next := record("p", cur.Generation+1, node, "")
			limit := longEnough
			if rng.IntN(10) == 0 {
				limit = time.Duration(rng.Int64N(int64(4 * time.Millisecond)))
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			got, err := a.Swap(ctx, cur, next)
			cancel()
			mu.Lock()
			switch {
			case err == nil:
				winners[next.Generation] = append(winners[next.Generation], node)
				cur = got
			case errors.Is(err, arbiter.ErrLost):
				lost++
				if got.Generation > next.Generation {
					// Lost, or won and followed by the other's before the answer that came through.
					maybe[next.Generation] = append(maybe[next.Generation], node)
				}
				cur = got
			case errors.Is(err, arbiter.ErrUnknown):
				unknown++
				maybe[next.Generation] = append(maybe[next.Generation], node)
			default:
				failed++
			}
			mu.Unlock()
			if err != nil && !errors.Is(err, arbiter.ErrLost) {
				// As the pair's machine does: read, then decide.
				ctx, cancel := context.WithTimeout(context.Background(), longEnough)
				r, rerr := a.Get(ctx, "p")
				cancel()
				if rerr != nil {
					t.Error(rerr)
					return
				}
				cur = r
			}
		}
	}
	var both sync.WaitGroup
	began := time.Now()
	a, b := c.open(t), c.open(t)
	both.Go(func() { run("a", a, rand.New(rand.NewPCG(1, 1))) })
	both.Go(func() { run("b", b, rand.New(rand.NewPCG(2, 2))) })
	both.Wait()
	took := time.Since(began)
	if t.Failed() {
		return
	}
	history := c.history(t, a, "p", generations)
	won := map[string]int{}
	for i, st := range history {
		g := st.Record.Generation
		if g != uint64(i+1) {
			t.Fatalf("entry %d of the history is generation %d", i, g)
		}
		won[st.Record.Speaker]++
		told := winners[g]
		switch {
		case len(told) > 1:
			t.Fatalf("generation %d has winners %v", g, told)
		case len(told) == 1 && told[0] != st.Record.Speaker:
			t.Fatalf("generation %d: %s was told that it has won, etcd says %s", g, told[0], st.Record.Speaker)
		case len(told) == 0 && !slices.Contains(maybe[g], st.Record.Speaker):
			t.Fatalf("generation %d: %s won and was told something else", g, st.Record.Speaker)
		}
	}
	if unknown == 0 || lost == 0 {
		t.Errorf("the race was none: %d lost, %d unknown", lost, unknown)
	}
	t.Logf("%d generations in %v: a won %d, b won %d; %d lost, %d unknown, %d failed before they left",
		len(history), took.Round(time.Millisecond), won["a"], won["b"], lost, unknown, failed)
}

// TestLeaderKilledInTheMiddleOfSwaps: with one of three members gone, and be it the leader, every swap is decided
// within the limit that a node gives it.
func TestLeaderKilledInTheMiddleOfSwaps(t *testing.T) {
	c := newCluster(t, 3)
	a := c.open(t)
	cur := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	for round := range 3 {
		victim := c.leader(t, a)
		killed := make(chan error, 1)
		var worst, sum time.Duration
		const swaps = 150
		for i := range swaps {
			if i == swaps/3 {
				go func() { killed <- c.Kill(victim) }()
			}
			began := time.Now()
			cur = must(t, a, cur, record("p", cur.Generation+1, "a", ""))
			took := time.Since(began)
			worst, sum = max(worst, took), sum+took
		}
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: leader %d killed; swaps took %v on average, %v at most", round, victim, (sum / swaps).Round(time.Microsecond), worst.Round(time.Millisecond))
		if err := c.Restart(victim); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitHealthy(t.Context(), victim); err != nil {
			t.Fatal(err)
		}
	}
	history := c.history(t, a, "p", cur.Generation)
	if len(history) != int(cur.Generation) {
		t.Errorf("%d entries for %d generations: a swap was carried out twice", len(history), cur.Generation)
	}
}
