package compare

import "testing"

// localWorlds makes all worlds of the tests local ones.
var localWorlds bool

// TestLocal runs what shows the comparison right once more with frames lent in the place of digests.
func TestLocal(t *testing.T) {
	localWorlds = true
	defer func() { localWorlds = false }()
	for name, test := range map[string]func(*testing.T){
		"changed bytes":      TestAnyChangedByteDiverges,
		"output commit":      TestInvariant1OutputCommit,
		"any segmentation":   TestAnySegmentationAgrees,
		"connections":        TestConnectionsFollowEachOther,
		"progress":           TestProgress,
		"checkpoint heals":   TestInvariant6CheckpointHealsEverything,
		"simulated pairs":    TestSimulatedPairs,
		"tolerated":          TestDateIsTolerated,
		"beside a tolerance": TestByteBesideToleranceDiverges,
	} {
		t.Run(name, test)
	}
}

// TestLocalLendsFrames shows that a local describer lends its frames, and that nothing is asked when the sides cut the
// stream differently.
func TestLocalLendsFrames(t *testing.T) {
	w := protected(t, Config{Local: true})
	p, s := twins(false, 0xfffffe00, 1000, 7000, true)
	w.open(&p, &s)
	data := pattern(6000)
	for at := 0; at < len(data); at += 1500 {
		w.secondary(s.data(at, data[at:at+1500], 0, 0, 500))
	}
	lent := 0
	for _, u := range w.toA {
		if u.desc != nil && u.desc.Twin != nil {
			lent++
		}
	}
	if lent != 4 {
		t.Fatalf("%d of 4 segments were lent", lent)
	}
	w.settle()
	for at := 0; at < len(data); at += 1000 {
		w.primary(p.data(at, data[at:at+1000], 0, 0, 500))
	}
	w.settle()
	w.input(p.fromClient(p.iss, 0, nil, 0, 6000))
	w.noDivergence()
	w.noLoans()
	if n := w.e.Stats().Asks; n != 0 {
		t.Fatalf("%d ranges were asked for", n)
	}
}
