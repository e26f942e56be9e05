package lab

import (
	"reflect"
	"strings"
	"testing"
)

func allTerms() terms {
	return terms{nodes: 3, paths: 2, members: 3,
		ops: map[string]bool{opFailover: true, opSwitchover: true, opCheckpoint: true, opPause: true, opMigrate: true}}
}

// A step follows from its seed, number and terms alone.
func TestScheduleIsRepeatable(t *testing.T) {
	kinds := map[string]int{}
	for n := 1; n <= 2000; n++ {
		s := step(7, n, allTerms())
		if again := step(7, n, allTerms()); !reflect.DeepEqual(s, again) {
			t.Fatalf("step %d: %+v, then %+v", n, s, again)
		}
		if s.What == "" || s.Wait < 0 || s.For < 0 || s.Path < AllPaths || s.Path > 1 {
			t.Errorf("step %d: %+v", n, s)
		}
		kinds[s.What]++
	}
	for _, c := range choices(allTerms()) {
		if kinds[c.what] == 0 {
			t.Errorf("%s never comes", c.what)
		}
	}
	if reflect.DeepEqual(step(7, 1, allTerms()), step(8, 1, allTerms())) && reflect.DeepEqual(step(7, 2, allTerms()), step(8, 2, allTerms())) {
		t.Error("two seeds give the same steps")
	}
}

// What a lab does not have is not asked for.
func TestScheduleKeepsToItsTerms(t *testing.T) {
	poor := terms{nodes: 2, paths: 1, ops: map[string]bool{opFailover: true}}
	for n := 1; n <= 2000; n++ {
		s := step(1, n, poor)
		switch {
		case s.What == CutPath, s.What == StopArbiter, s.What == CutArbiter, s.What == opMigrate, s.What == opSwitchover, s.On == roleSpare, s.Away != "", s.Path > 0:
			t.Fatalf("step %d: %+v", n, s)
		}
	}
	only := poor
	only.only = []string{KillVM}
	for n := 1; n <= 50; n++ {
		if s := step(1, n, only); s.What != KillVM {
			t.Fatalf("step %d: %+v", n, s)
		}
	}
}

// A second fault never hits the only VM that is left.
func TestSecondFaultsSpareTheSurvivor(t *testing.T) {
	seen := 0
	for n := 1; n <= 2000; n++ {
		s := step(3, n, allTerms())
		if s.Also == "" {
			continue
		}
		seen++
		if strings.HasPrefix(s.Also, KillVM) && s.Also != KillVM+" of "+roleSecondary || strings.HasPrefix(s.Also, KillNode) {
			t.Errorf("step %d: %s", n, s)
		}
	}
	if seen == 0 {
		t.Error("no step has a second fault")
	}
}
