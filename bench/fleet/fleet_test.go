package fleet

import (
	"testing"
	"time"

	"colod/bench/rig"
	"colod/coordinator/arbiter/etcd"
	"colod/coordinator/placement"
	"colod/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestEtcd: a fleet of a few hundred pairs, its arbiter a real etcd: after each loss every pair that has a node left is
// protected again, its record names the nodes that hold it, and never did two nodes speak for it.
func TestEtcd(t *testing.T) {
	// A machine that does ten things at once is slow and not at fault.
	patient := func(c *etcd.Config) { c.Timeout, c.Hedge, c.Attempt = time.Minute, 20*time.Second, time.Minute }
	f, s, err := Start(t.Context(), Config{Nodes: 40, Rack: 4, Pairs: 240, Seed: 3, Choose: placement.Choose, Reserve: true, Limit: time.Minute,
		Arbiters: Cluster(t, 1, patient)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{0, 1, 4, 12} {
		if n > 0 {
			s, err = f.Lose(n)
		}
		t.Logf("loss of %d nodes: %s", n, s)
		if err != nil {
			t.Fatal(err)
		}
		if s.Unprotected != 0 || s.None != 0 || s.Two != 0 {
			t.Errorf("%d pairs are not protected, %d have no speaker, %d two", s.Unprotected, s.None, s.Two)
		}
		if n > 0 && (s.Hit == 0 || s.Writes < s.Hit) {
			t.Errorf("%d pairs lost their speaker, and %d records were written", s.Hit, s.Writes)
		}
		if err := f.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestChoice: the loss of many nodes neither sends all pairs to one node nor fills a node beyond its memory; with the
// obvious choice, and nothing set aside, it does both.
func TestChoice(t *testing.T) {
	size := Size{Nodes: 90, Rack: 9, Pairs: 1350}
	for name, c := range map[string]Config{
		colod:  {Choose: placement.Choose, Reserve: true},
		fewest: {Choose: Fewest},
	} {
		c.Nodes, c.Rack, c.Pairs, c.Seed, c.Arbiters = size.Nodes, size.Rack, size.Pairs, 1, []Arbiter{NewMemory()}
		all, err := walk(t.Context(), rig.Options{Log: t.Logf}, name, c, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range all[1:] {
			herd := float64(s.Hottest) > 6*s.Mean+10 || s.Memory > 100
			if name == colod && (herd || s.Refused > s.Chosen/20) {
				t.Errorf("%s: the hottest node takes %d, on the average %.1f; memory %.0f %%; %d refused", stepName(i+1, size), s.Hottest, s.Mean, s.Memory, s.Refused)
			}
			if name == fewest && i > 0 && !herd {
				t.Errorf("%s: the obvious choice does no harm: does the simulation still tell old facts?", stepName(i+1, size))
			}
		}
	}
}
