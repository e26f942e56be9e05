package e2e

import (
	"context"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/witness"
)

// partitionCase is one way for nodes to lose each other, with the arbiter there
// or not.
type partitionCase struct {
	name    string
	fault   func(st *lab.Status) lab.Fault
	arbiter func(st *lab.Status) *lab.Fault // what happens to the arbiter before that
	away    bool                            // nobody can win while it lasts
	every   bool                            // also in the short run
}

func cutBoth(*lab.Status) lab.Fault { return lab.Fault{Kind: lab.Partition, Path: lab.AllPaths} }
func speakerUnheard(st *lab.Status) lab.Fault {
	return lab.Fault{Kind: lab.Partition, From: st.Speaker}
}
func secondaryUnheard(st *lab.Status) lab.Fault {
	return lab.Fault{Kind: lab.Partition, From: st.Standby}
}
func speakerAlone(st *lab.Status) lab.Fault {
	return lab.Fault{Kind: lab.Isolate, Node: st.Speaker, Path: lab.AllPaths}
}
func secondaryAlone(st *lab.Status) lab.Fault {
	return lab.Fault{Kind: lab.Isolate, Node: st.Standby, Path: lab.AllPaths}
}
func arbiterKilled(*lab.Status) *lab.Fault {
	return &lab.Fault{Kind: lab.StopArbiter, Path: lab.AllPaths}
}
func arbiterCutOff(*lab.Status) *lab.Fault {
	return &lab.Fault{Kind: lab.CutArbiter, Path: lab.AllPaths}
}
func oneMemberKilled(*lab.Status) *lab.Fault {
	return &lab.Fault{Kind: lab.StopArbiter, Member: "m2", Path: lab.AllPaths}
}

var partitions = []partitionCase{
	{name: "both-ways", fault: cutBoth, every: true},
	{name: "speaker-unheard", fault: speakerUnheard, every: true},
	{name: "secondary-unheard", fault: secondaryUnheard},
	{name: "speaker-isolated", fault: speakerAlone},
	{name: "secondary-isolated", fault: secondaryAlone},
	{name: "both-ways-arbiter-killed", fault: cutBoth, arbiter: arbiterKilled, away: true, every: true},
	{name: "both-ways-arbiter-cut-off", fault: cutBoth, arbiter: arbiterCutOff, away: true},
	{name: "speaker-unheard-arbiter-killed", fault: speakerUnheard, arbiter: arbiterKilled, away: true},
	{name: "speaker-isolated-arbiter-killed", fault: speakerAlone, arbiter: arbiterKilled, away: true},
	{name: "both-ways-one-member-lost", fault: cutBoth, arbiter: oneMemberKilled},
	{name: "speaker-isolated-one-member-lost", fault: speakerAlone, arbiter: oneMemberKilled, every: true},
}

// watch starts a witness that ends with the test.
func watch(t *testing.T, l *lab.Lab) *witness.Witness {
	t.Helper()
	w, err := l.Witness()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r, err := w.Close()
		if err != nil {
			t.Error(err)
		}
		if r.Conflicts > 0 {
			t.Errorf("two nodes said different things: %+v", r.Listed)
		}
		if len(r.Frames) == 0 {
			t.Error("the witness saw nothing")
		}
		for _, e := range r.Ended {
			if t.Failed() {
				t.Logf("reset: %+v", e)
			}
		}
		t.Logf("witness: %d conflicts in frames %v; %d bytes said again, %d of them by another node; %d turns; %d frames missed",
			r.Conflicts, r.Frames, r.Compared, r.Across, r.Turns, r.Dropped)
	})
	return w
}

// said is how many bytes of TCP streams left any node so far.
func said(t *testing.T, w *witness.Witness) (n uint64) {
	t.Helper()
	r, err := w.Report()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Bytes {
		n += b
	}
	return n
}

// TestPartitions cuts nodes off from each other under load: at no position of
// any stream do two nodes say different bytes, nothing is lost, the service
// resumes, and while nobody can win the record nobody speaks.
func TestPartitions(t *testing.T) {
	var gaps figures
	for _, c := range partitions {
		if !c.every && !long {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			var own figures
			for range rounds(1, 5) {
				own = append(own, partitioned(t, c))
				if t.Failed() {
					return
				}
			}
			gaps = append(gaps, own...)
			record(t, map[string]any{"partition": c.name, "gap_ms": own})
		})
	}
	record(t, map[string]any{"gap_ms": gaps})
	t.Logf("seed %d, load average %s; silence of clients, the arbiter's absence and the cut of the clients' wire included, ms: %s", seed, loadAverage(), gaps)
}

func partitioned(t *testing.T, c partitionCase) (gap float64) {
	l := protected(t)
	giveUpIfFailed(t, l)
	// Runs before the lab is used again, and before a failed one is shown.
	defer func() {
		if _, err := l.Fault(context.WithoutCancel(t.Context()), lab.Heal, ""); err != nil {
			t.Error(err)
		}
	}()
	w := watch(t, l)
	gap, _ = watched(t, l, load(), 2*time.Second, func(mark func()) {
		before := status(t, l)
		if c.arbiter != nil {
			breakLab(t, l, *c.arbiter(before))
			// A healthy pair goes on without it.
			time.Sleep(2 * time.Second)
			if now := status(t, l); now.State != "protected" && now.State != "checkpointing" {
				t.Errorf("the arbiter's absence changed a healthy pair: %s: %s", now.State, now.Reason)
			}
		}
		breakLab(t, l, c.fault(before))
		mark()
		if c.away {
			quiet(t, l, w)
		} else {
			after, d := awaitSpeaker(t, l, before)
			t.Logf("%s -> %s after %v: %s", before.Speaker, after.Speaker, d.Round(time.Millisecond), after.Reason)
			time.Sleep(2 * time.Second)
		}
		if said, err := l.Fault(t.Context(), lab.Heal, ""); err != nil {
			t.Error(err)
		} else {
			t.Log(said)
		}
		if c.away {
			after, d := awaitSpeaker(t, l, before)
			t.Logf("%s -> %s %v after the arbiter was started: %s", before.Speaker, after.Speaker, d.Round(time.Millisecond), after.Reason)
		}
	})
	t.Logf("clients heard nothing for %.0f ms", gap)
	again(t, l)
	return gap
}

// quiet waits until every node that lost its peer knows it, and checks that from
// then on nobody says anything: neither can win the record.
func quiet(t *testing.T, l *lab.Lab, w *witness.Witness) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		speaking := ""
		for _, n := range lab.Nodes {
			st, err := l.NodeStatus(t.Context(), n)
			if err == nil && (st.State == "protected" || st.State == "checkpointing" || st.State == "solo" || st.State == "promoting") {
				speaking += " " + n + " is " + st.State + ": " + st.Reason
			}
		}
		if speaking == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a node goes on without its peer and without the arbiter:%s", speaking)
		}
	}
	// What was let out before may still be on its way through the switch, and the witness be behind with its reading.
	before := said(t, w)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		time.Sleep(500 * time.Millisecond)
		now := said(t, w)
		if now == before {
			break
		}
		before = now
	}
	time.Sleep(3 * time.Second)
	if n := said(t, w) - before; n > 0 {
		t.Errorf("%d bytes were said although nobody could have won the record", n)
	}
}

// breakLab makes one fault and logs it.
func breakLab(t *testing.T, l *lab.Lab, f lab.Fault) {
	t.Helper()
	said, err := l.Break(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(said)
}

// again waits until the pair is protected, and returns how long that took.
func again(t *testing.T, l *lab.Lab) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.AwaitState(ctx, "protected"); err != nil {
		t.Errorf("not protected again: %v", err)
	}
	return time.Since(start)
}

// TestBlips cuts paths between the nodes for a moment, each alone and all at
// once: clients go on, and protection is whole again.
func TestBlips(t *testing.T) {
	lengths := []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}
	if !long {
		lengths = lengths[:1]
	}
	for _, d := range lengths {
		for path := lab.AllPaths; path < max(sharedOptions.Paths, 1); path++ {
			if !long && path > 0 {
				break // the torture has it
			}
			name := "path" + string(rune('0'+path))
			if path == lab.AllPaths {
				name = "all-paths"
			}
			t.Run(name+"-"+d.String(), func(t *testing.T) {
				var gaps, agains figures
				changed, anew := 0, 0
				for range rounds(1, 5) {
					l := protected(t)
					giveUpIfFailed(t, l)
					watch(t, l)
					before := status(t, l)
					gap, _ := watched(t, l, load(), 2*time.Second, func(mark func()) {
						mark()
						breakLab(t, l, lab.Fault{Kind: lab.Blip, Path: path, For: d})
						agains = append(agains, float64(again(t, l).Milliseconds()))
					})
					gaps = append(gaps, gap)
					again(t, l)
					after := status(t, l)
					if after.Speaker != before.Speaker {
						changed++
					}
					// One lost path is a warning. The connections may have gone over it; then they are made anew over the other one.
					if path != lab.AllPaths && sharedOptions.Paths > 1 && after.Speaker != before.Speaker {
						t.Errorf("the loss of one path of several changed the roles: %s", after.Reason)
					}
					if after.Generation != before.Generation {
						anew++
					}
				}
				t.Logf("silence, ms: %s; protected, ms after the path was mended: %s; load average %s; roles changed %d times, protection made anew %d times", gaps, agains, loadAverage(), changed, anew)
				record(t, map[string]any{"path": path, "for": d.String(), "gap_ms": gaps, "protected_ms": agains, "roles_changed": changed, "protected_anew": anew})
			})
		}
	}
}
