package failover

import (
	"errors"
	"strings"
	"testing"

	"colod/bench/report"
)

// TestTable: what was seen is in the result, with a failed run and a lost client beside it.
func TestTable(t *testing.T) {
	ours, theirs := newPauses(), newPauses()
	for i := range 10 {
		ours.runs, theirs.runs = i+1, i+1
		for _, k := range kinds {
			ours.silent[k.client] = append(ours.silent[k.client], float64(10+i))
			theirs.silent[k.client] = append(theirs.silent[k.client], float64(40+i))
		}
	}
	theirs.lost["redis"] = 1
	theirs.fail(errors.New("start QEMU's COLO: no\nmore"))
	var res report.Result
	table(&res, lossVM, map[string]*pauses{peer: theirs, colod: ours})
	if len(res.Cases) != 1 || len(res.Curves) != 1 {
		t.Fatalf("%d cases, %d curves", len(res.Cases), len(res.Curves))
	}
	for _, want := range []struct {
		system, figure string
		value          float64
	}{
		{colod, "TCP echo, p50", 14}, {colod, "TCP echo, longest", 19}, {peer, "UDP echo, p90", 48},
		{peer, "redis, connections lost", 10}, {colod, "redis, connections lost", 0}, {peer, "runs failed", 1},
	} {
		if f, ok := res.Find(res.Cases[0].Name, want.system, want.figure); !ok || f.Median != want.value {
			t.Errorf("%s, %s: %v %v, want %v", want.system, want.figure, f.Median, ok, want.value)
		}
	}
	for _, g := range res.Goals {
		if !g.Reached {
			t.Errorf("goal %q: %v", g.Text, g.Got)
		}
	}
	if len(res.Goals) != 7 || len(res.Limits) != 1 || strings.Contains(res.Limits[0], "more") {
		t.Errorf("%d goals, limits %q", len(res.Goals), res.Limits)
	}
}
