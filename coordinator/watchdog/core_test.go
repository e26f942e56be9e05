package watchdog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script drives a core with a virtual clock.
type script struct {
	t   *testing.T
	c   *Core
	now time.Duration
	got []Effect
}

func newScript(t *testing.T, g Guard, parts ...Part) *script {
	t.Helper()
	s := &script{t: t, c: NewCore(g)}
	for _, p := range parts {
		if err := s.c.Add(0, p); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// until looks whenever the core wants it, up to a time.
func (s *script) until(at time.Duration) *script {
	for s.now < at {
		s.now = min(max(s.c.Next(), s.now+time.Millisecond), at)
		s.got = append(s.got, s.c.Look(s.now)...)
	}
	return s
}

func (s *script) bad(name string, times int) *script {
	for range times {
		s.got = append(s.got, s.c.Bad(s.now, name, "broken")...)
	}
	return s
}

func (s *script) good(name string) *script {
	s.got = append(s.got, s.c.Good(s.now, name)...)
	return s
}

func (s *script) done(name, action string, err error) *script {
	s.c.Done(s.now, name, action, err)
	return s
}

func (s *script) expect(want ...Effect) *script {
	s.t.Helper()
	if d := cmp.Diff(want, s.got); d != "" {
		s.t.Errorf("at %v:\n%s", s.now, d)
	}
	s.got = nil
	return s
}

func TestStates(t *testing.T) {
	s := newScript(t, Guard{}, Part{Name: "p", Every: time.Second, SuspectAfter: 2, FailAfter: 4, RecoverAfter: 2})
	s.good("p").good("p").expect() // that a new part is well is no news
	s.bad("p", 1).expect()
	s.bad("p", 1).expect(Changed{Part: "p", From: OK, To: Suspect, Reason: "broken"})
	s.good("p").expect()
	s.good("p").expect(Changed{Part: "p", From: Suspect, To: OK})
	s.bad("p", 4).expect(Changed{Part: "p", From: OK, To: Suspect, Reason: "broken"}, Changed{Part: "p", From: Suspect, To: Failed, Reason: "broken"})
	s.until(time.Minute).expect() // nothing is to be done about it
	s.now += time.Second
	if d := cmp.Diff([]Status{{Part: "p", State: Failed, For: 61 * time.Second, Reason: "broken", Bad: 4}}, s.c.Status(s.now)); d != "" {
		t.Error(d)
	}
	s.c.Remove("p")
	s.bad("p", 9).good("p").done("p", "x", nil).until(s.now + time.Minute).expect()
}

func TestPushed(t *testing.T) {
	s := newScript(t, Guard{}, Part{Name: "p", Limit: 100 * time.Millisecond, FailAfter: 2})
	for range 50 {
		s.until(s.now + 90*time.Millisecond).good("p")
	}
	s.expect()
	began := s.now
	s.until(began + 99*time.Millisecond).expect()
	s.until(began + 100*time.Millisecond).expect(Changed{Part: "p", From: OK, To: Suspect, Reason: "silent for 100ms"})
	s.until(began + 200*time.Millisecond).expect(Changed{Part: "p", From: Suspect, To: Failed, Reason: "silent for 100ms"})
	s.good("p").expect(Changed{Part: "p", From: Failed, To: OK})
	// The whole program slept: the part could not speak. It has one second and
	// its limit more.
	s.now += time.Hour
	s.got = append(s.got, s.c.Look(s.now)...)
	s.expect(Changed{Part: "p", From: OK, To: Suspect, Reason: "silent for 100ms"})
	s = newScript(t, Guard{}, Part{Name: "p", Limit: 5 * time.Second})
	s.good("p").until(time.Second)
	s.now += time.Hour
	s.until(s.now + 3*time.Second).expect()
	s.until(s.now + 2*time.Second).expect(Changed{Part: "p", From: OK, To: Suspect, Reason: "silent for 5s"})
}

// TestSteps: the steps follow each other with growing pauses, and go on where
// they were when the part fails again soon.
func TestSteps(t *testing.T) {
	const s1 = time.Second
	failed := Changed{Part: "p", From: OK, To: Failed, Reason: "broken"}
	s := newScript(t, Guard{Memory: time.Minute}, Part{Name: "p", Every: s1, FailAfter: 1, SuspectAfter: 1, Steps: []Step{
		{Action: "notify", Free: true},
		{Action: "restart", Times: 3, Wait: s1, MaxWait: 3 * s1},
		{Action: "fail over", Times: -1, Wait: 10 * s1},
	}})
	s.good("p").bad("p", 1).expect(failed)
	s.until(1 * time.Millisecond).expect(Do{Part: "p", Action: "notify", Try: 1, Reason: "broken"})
	s.until(30 * s1).expect() // while it is under way nothing else is done
	s.done("p", "notify", nil).until(30*s1 + 999*time.Millisecond).expect()
	s.until(31*s1).expect(Do{Part: "p", Action: "restart", Try: 1, Reason: "broken"}).done("p", "restart", errors.New("no"))
	s.until(33*s1 - 1).expect()
	s.until(33*s1).expect(Do{Part: "p", Action: "restart", Try: 2, Reason: "broken"}).done("p", "restart", nil)
	s.good("p").expect(Changed{Part: "p", From: Failed, To: OK})
	s.until(45 * s1).expect()
	s.bad("p", 1).expect(failed)
	s.until(48*s1).expect(Do{Part: "p", Action: "restart", Try: 3, Reason: "broken"}).done("p", "restart", nil)
	s.until(58*s1).expect(Do{Part: "p", Action: "fail over", Try: 1, Reason: "broken"}).done("p", "fail over", nil)
	s.until(68*s1).expect(Do{Part: "p", Action: "fail over", Try: 2, Reason: "broken"}).done("p", "fail over", errors.New("nobody there"))
	st := s.c.Status(s.now)[0]
	if st.Actions != 6 || st.Last != "fail over: nobody there" {
		t.Errorf("%+v", st)
	}
	s.good("p").until(3 * time.Minute).expect(Changed{Part: "p", From: Failed, To: OK})
	s.bad("p", 1).until(s.now+time.Millisecond).expect(failed, Do{Part: "p", Action: "notify", Try: 1, Reason: "broken"})
}

// TestStorm: too many actions of all parts are held back, and done later.
func TestStorm(t *testing.T) {
	var parts []Part
	for i := range 20 {
		parts = append(parts, Part{Name: fmt.Sprintf("p%02d", i), Every: time.Second, FailAfter: 1, Steps: []Step{{Action: "restart"}}})
	}
	s := newScript(t, Guard{Most: 5, Window: 10 * time.Second}, parts...)
	for _, p := range parts {
		s.good(p.Name).bad(p.Name, 1)
	}
	s.until(9 * time.Second)
	do, held := count(s.got)
	if do != 5 || held != 15 {
		t.Errorf("%d done, %d held", do, held)
	}
	s.until(11 * time.Second)
	if do, held = count(s.got); do != 10 || held != 15 {
		t.Errorf("%d done, %d held", do, held)
	}
	s.until(time.Minute)
	if do, held = count(s.got); do != 20 || held != 15 {
		t.Errorf("%d done, %d held", do, held)
	}
}

func count(effects []Effect) (do, held int) {
	for _, e := range effects {
		switch e.(type) {
		case Do:
			do++
		case Held:
			held++
		}
	}
	return do, held
}

func TestAddRefused(t *testing.T) {
	c := NewCore(Guard{})
	if err := c.Add(0, Part{Name: "p", Every: 1}); err != nil {
		t.Fatal(err)
	}
	for want, p := range map[string]Part{
		"no name":         {Every: 1},
		"supervised":      {Name: "p", Every: 1},
		"has checks":      {Name: "q"},
		"without a pause": {Name: "q", Every: 1, Steps: []Step{{Action: "x", Times: -1}}},
	} {
		if err := c.Add(0, p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestRandom: whatever happens, one part has one action at a time, the guard
// holds, nothing is done for a part that is well, and Next is kept to.
func TestRandom(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := Guard{Most: 1 + r.IntN(5), Window: time.Duration(1+r.IntN(30)) * time.Second, Memory: time.Duration(1+r.IntN(60)) * time.Second}
		c := NewCore(g)
		const n = 4
		doing := map[string]string{}
		for i := range n {
			p := Part{Name: fmt.Sprint(i), Every: time.Second, FailAfter: 1 + r.IntN(4), SuspectAfter: 1 + r.IntN(2), RecoverAfter: 1 + r.IntN(3)}
			if r.IntN(2) == 0 {
				p.Every, p.Limit = 0, time.Duration(1+r.IntN(3000))*time.Millisecond
			}
			for range r.IntN(4) {
				p.Steps = append(p.Steps, Step{Action: "a", Times: r.IntN(4) - 1, Wait: time.Duration(1 + r.IntN(1e9)), MaxWait: time.Duration(r.Int64N(1e10)), Free: r.IntN(4) == 0})
			}
			if err := c.Add(0, p); err != nil {
				t.Fatal(err)
			}
		}
		free := func(e Do) bool { return c.parts[e.Part].Steps[c.parts[e.Part].step].Free }
		var acted []time.Duration
		now := time.Duration(0)
		take := func(effects []Effect) {
			for _, e := range effects {
				do, ok := e.(Do)
				if !ok {
					continue
				}
				if doing[do.Part] != "" {
					t.Fatalf("seed %d: %s has two actions at a time", seed, do.Part)
				}
				if c.parts[do.Part].state != Failed {
					t.Fatalf("seed %d: %s is %s and is acted on", seed, do.Part, c.parts[do.Part].state)
				}
				doing[do.Part] = do.Action
				if !free(do) {
					acted = append(acted, now)
				}
			}
			for len(acted) > 0 && now-acted[0] >= g.Window {
				acted = acted[1:]
			}
			if len(acted) > g.Most {
				t.Fatalf("seed %d: %d actions in %s, %d allowed", seed, len(acted), g.Window, g.Most)
			}
		}
		for range 1000 {
			name := fmt.Sprint(r.IntN(n))
			switch r.IntN(5) {
			case 0:
				take(c.Good(now, name))
			case 1, 2:
				take(c.Bad(now, name, "bad"))
			case 3:
				if a := doing[name]; a != "" {
					delete(doing, name)
					c.Done(now, name, a, nil)
				}
			}
			if at := c.Next(); at > now {
				now += time.Duration(r.Int64N(int64(at-now) + 1))
			}
			if r.IntN(50) == 0 {
				now += time.Duration(r.Int64N(int64(time.Minute)))
			}
			take(c.Look(now))
		}
	}
}
