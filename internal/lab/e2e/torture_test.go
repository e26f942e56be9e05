package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"colod/internal/lab"
)

// tortureSeed is the schedule of the short run. A fixed one: what it finds has
// been found. COLOD_SEED and 'colod lab torture' try others.
const tortureSeed = 3

// TestTorture makes random faults under random load, on two nodes with two paths
// and three members of etcd. In the long run it lasts an hour and begins with
// the seed of the run.
func TestTorture(t *testing.T) {
	shared.down() // one pair at a time is enough for this machine
	opt := lab.TortureOptions{
		Lab: sharedOptions, Seed: tortureSeed, For: 5 * time.Minute, Evidence: t.TempDir(), Out: &logWriter{t: t},
	}
	if long {
		opt.For = time.Hour
	}
	if long || os.Getenv("COLOD_SEED") != "" {
		opt.Seed = seed
	}
	opt.Lab.Name, opt.Lab.Program = labName("torture"), program
	r, err := lab.Torture(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	r.Print(&logWriter{t: t})
	if !r.OK {
		t.Errorf("seed %d: %s", r.Seed, strings.Join(r.Failures, "; "))
		for _, log := range evidence(opt.Evidence) {
			t.Logf("--- %s\n%s", log, tail(readFile(log), 400))
		}
	}
	if len(r.Steps) == 0 || r.Bytes == 0 || !r.Protected {
		t.Errorf("it did not do much: %d steps, %d bytes, protected at the end: %v", len(r.Steps), r.Bytes, r.Protected)
	}
	if left := lab.Leaks(opt.Lab.Name); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "; "))
	}
}
