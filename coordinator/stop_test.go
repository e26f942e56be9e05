package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"colod/coordinator/arbiter"
	"colod/coordinator/pair"
	"colod/proxy"
)

// TestStopKeepsConnections: a lone speaker whose colod is stopped as systemd does it leaves the guest mute when connections
// are left that lived through a takeover, as a crash would; asked by an operator it leaves it reachable.
func TestStopKeepsConnections(t *testing.T) {
	for _, c := range []struct {
		name      string
		rewritten int
		asked     bool
		pass      bool
	}{{"plain", 0, false, true}, {"rewritten", 3, false, false}, {"rewritten, asked", 3, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			p := newTestPair(t)
			n := p.start("a")
			p.awaitState("a", "solo", "speaker")
			data := n.plat.dataPath()
			data.mu.Lock()
			data.count = func(s *proxy.Stats) { s.Rewritten = c.rewritten }
			data.mu.Unlock()
			if c.asked {
				n.node.Stop(false)
				if err := <-n.done; err != nil {
					t.Error(err)
				}
				n.done <- nil
			} else {
				n.stop(t)
			}
			n.plat.mu.Lock()
			defer n.plat.mu.Unlock()
			if got := slices.Contains(n.plat.paths, "pass"); got != c.pass {
				t.Errorf("path: %q", n.plat.paths)
			}
		})
	}
}

// TestStopWithGuests: a node that is stopped with its guests leaves alone those that speak on another node; those that speak
// on it are ended, and nobody takes them over.
func TestStopWithGuests(t *testing.T) {
	p := newTestPair(t)
	p.list = []string{"a", "b", "c"}
	for _, n := range p.list {
		p.start(n)
	}
	stop := func(name string) {
		t.Helper()
		n := p.nodes[name]
		n.node.Stop(true)
		if err := <-n.done; err != nil {
			t.Error(err)
		}
		n.done <- nil
	}
	second := p.await("a", "protection", func(s PairStatus) bool { return s.State == "protected" }).Standby
	third := map[string]string{"b": "c", "c": "b"}[second]
	guest := p.vm("a")
	p.awaitState(third, "standby", "none")
	stop(third)
	if st := p.awaitState("a", "protected", "speaker"); st.Standby != second {
		t.Errorf("without its third node the pair is %+v", st)
	}
	stop(second)
	p.awaitState("a", "solo", "speaker")
	if p.vm("a") != guest {
		t.Error("the guest was started anew")
	}
	p.start(third)
	p.awaitState("a", "protected", "speaker")
	stop("a")
	p.awaitState(third, "stopped", "none")
}

// silentArbiter does not answer while it is away.
type silentArbiter struct {
	arbiter.Arbiter
	away chan struct{} // closed: it is
}

func (a *silentArbiter) Swap(ctx context.Context, prev, next arbiter.Record) (arbiter.Record, error) {
	select {
	case <-a.away:
		return arbiter.Record{}, errors.New("no member answers")
	default:
		return a.Arbiter.Swap(ctx, prev, next)
	}
}

// TestStopWithoutArbiter: the end of a protected speaker's colod does not wait for an arbiter that is away; the other node
// takes over once it can.
func TestStopWithoutArbiter(t *testing.T) {
	p := newTestPair(t)
	a := p.prepare("a")
	arb, err := openArbiter(t.Context(), a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer arb.Close()
	away := &silentArbiter{arb, make(chan struct{})}
	p.arbiter = away
	p.launch(a)
	p.arbiter = nil
	p.start("b")
	p.protected("a", "b")
	close(away.away)
	a.stop(t)
	if log := a.log.String(); !strings.Contains(log, "colod ends, and the record still says") {
		t.Errorf("it did not end because of the arbiter:\n%s", log)
	}
	if !p.vm("a").lives() {
		t.Error("the guest was ended")
	}
	p.await("b", "a takeover", func(s PairStatus) bool { return s.Speaker == "b" && s.State == pair.Solo.String() })
}
