package heartbeat

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func testState(paths int) *state { return newState("b", 50*ms, 250*ms, 0, paths) }

func TestNeverHeard(t *testing.T) {
	s := testState(2)
	for now := time.Duration(0); now < time.Minute; now += 25 * ms {
		if ev := s.look(now, nil); len(ev) != 0 {
			t.Fatalf("events of a peer that was never heard: %v", ev)
		}
	}
}

// TestDeath: of a peer that stops answering it is known after the timeout,
// whatever the phase of the looks.
func TestDeath(t *testing.T) {
	for _, step := range []time.Duration{7 * ms, 25 * ms, 50 * ms} {
		s := testState(1)
		now := time.Duration(0)
		for range 100 {
			now += 50 * ms
			s.pinged(0)
			s.answered(now, 0, ms, nil)
			if ev := s.look(now, nil); len(ev) != 0 {
				t.Fatalf("%v", ev)
			}
		}
		last := now
		var got []Event
		for len(got) == 0 && now < last+time.Second {
			if at := s.deadline(); at != last+250*ms {
				t.Fatalf("deadline %v, the last answer came at %v", at, last)
			}
			now = min(now+step, s.deadline())
			got = s.look(now, got)
		}
		want := []Event{
			PathDown{Peer: "b", Path: 0, Alone: true, Reason: "nothing was heard for 250ms"},
			PeerDown{Peer: "b", Reason: "nothing was heard of it over its path for 250ms"},
		}
		if d := cmp.Diff(want, got); d != "" || now-last != 250*ms {
			t.Errorf("after %v:\n%s", now-last, d)
		}
		if ev := s.look(now+time.Hour, nil); len(ev) != 0 {
			t.Errorf("again: %v", ev)
		}
	}
}

// TestPaths: one silent path is no loss of the peer; it has to answer three
// times to be back.
func TestPaths(t *testing.T) {
	s := testState(2)
	now := time.Duration(0)
	step := func(paths ...int) (ev []Event) {
		now += 50 * ms
		for _, p := range paths {
			ev = s.answered(now, p, ms, ev)
		}
		return s.look(now, ev)
	}
	expect := func(got []Event, want ...Event) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("at %v:\n%s", now, d)
		}
	}
	expect(step(1), PathUp{Peer: "b", Path: 1}, PeerUp{Peer: "b"})
	expect(step(0, 1), PathUp{Peer: "b", Path: 0})
	for range 4 {
		expect(step(1))
	}
	s.heard(0) // its pings come
	expect(step(1), PathDown{Peer: "b", Path: 0, Reason: "it is heard, but has not answered for 250ms: the other direction fails"})
	expect(step(0, 1))
	expect(step(1))
	expect(step(0, 1))
	expect(step(0, 1), PathUp{Peer: "b", Path: 0})
	for range 4 {
		expect(step())
	}
	expect(step(), PathDown{Peer: "b", Path: 0, Reason: "nothing was heard for 250ms"},
		PathDown{Peer: "b", Path: 1, Alone: true, Reason: "nothing was heard for 250ms"},
		PeerDown{Peer: "b", Reason: "nothing was heard of it over any of 2 paths for 250ms"})
	expect(step(1), PeerUp{Peer: "b"})
	st := s.status(now+30*ms, 1)
	if st.Up || st.LastHeard != 30*ms || st.RTTP50 != ms || st.RTTP99 != ms || st.WorstGap != 50*ms {
		t.Errorf("%+v", st)
	}
}

// TestOwnSleep: time in which this node did nothing is not the peer's silence,
// but a peer that died meanwhile is found within a timeout of the awakening.
func TestOwnSleep(t *testing.T) {
	s := testState(1)
	now := time.Duration(0)
	for range 50 {
		now += 10 * time.Minute
		if ev := s.look(now, nil); len(ev) != 0 {
			t.Fatalf("blamed for our sleep: %v", ev)
		}
		s.answered(now+ms, 0, ms, nil)
	}
	if s.slept < 49*10*time.Minute {
		t.Errorf("slept %v", s.slept)
	}
	now += 10 * time.Minute // it dies
	woke := now
	var ev []Event
	for len(ev) == 0 {
		ev = s.look(now, nil)
		now = min(now+50*ms, s.deadline())
	}
	if took := now - woke; took > 250*ms {
		t.Errorf("found %v after the awakening", took)
	}
}

// TestRandom runs a node against a peer over lossy paths, with sleeps and
// deaths on both sides: no suspicion that is not founded, no death that is not
// seen, whatever happens when.
func TestRandom(t *testing.T) {
	const interval, timeout = 50 * ms, 250 * ms
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		n := 1 + r.IntN(3)
		s := newState("b", interval, timeout, 0, n)
		cut := make([]time.Duration, n) // when each path began to fail; 0: it works
		lastAnswer := time.Duration(0)
		awake := time.Duration(0) // our awake time since the last answer
		now, up := time.Duration(0), false
		for range 2000 {
			step := time.Duration(r.Int64N(int64(interval)))
			slept := r.IntN(100) == 0
			if slept {
				step += time.Duration(r.Int64N(int64(3 * time.Second)))
			}
			before := now
			now += step
			awake += min(step, s.maxStep())
			if r.IntN(40) == 0 {
				if i := r.IntN(n); cut[i] == 0 {
					cut[i] = now
				} else {
					cut[i] = 0
				}
			}
			var ev []Event
			for i := range n {
				// Answers that arrived in the time before.
				if cut[i] == 0 && r.IntN(20) != 0 {
					ev = s.answered(now, i, ms, ev)
					lastAnswer, awake = now, 0
				}
			}
			for _, e := range s.look(now, ev) {
				switch e.(type) {
				case PeerUp:
					if up {
						t.Fatalf("seed %d: up twice", seed)
					}
					up = true
				case PeerDown:
					if !up || awake < timeout {
						t.Fatalf("seed %d at %v: down after %v awake (last answer at %v, before %v)", seed, now, awake, lastAnswer, before)
					}
					up = false
				}
			}
			if up && awake >= timeout {
				t.Fatalf("seed %d at %v: %v awake without an answer, and still up", seed, now, awake)
			}
		}
	}
}

func TestLost(t *testing.T) {
	s := testState(1)
	now := time.Duration(0)
	for i := range 200 {
		now += 50 * ms
		s.pinged(0)
		if i%10 != 0 {
			s.answered(now, 0, time.Duration(i)*ms, nil)
		}
	}
	if st := s.status(now, 0); st.Lost != 20 || st.Sent != 200 || st.RTTLast != 199*ms || st.RTTP99 < 195*ms {
		t.Errorf("%+v", st)
	}
}
