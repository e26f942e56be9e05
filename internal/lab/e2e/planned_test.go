package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// operation is a planned operation as an operator asks for it.
type operation struct {
	name  string
	words func(st *lab.Status) []string
	then  []string // asked for after a while: what undoes it
	ends  bool     // no guest runs afterwards
	cuts  bool     // the guest's connections end, as they would on a host without colod
	moves bool     // the other node speaks afterwards
	start []string // to have a guest again
}

func of(words ...string) func(*lab.Status) []string {
	return func(st *lab.Status) []string { return append(slices.Clone(words), st.Pair) }
}

var operations = []operation{
	{name: "shutdown", words: of("vm", "shutdown"), ends: true, cuts: true, start: []string{"vm", "start"}},
	{name: "reboot", words: of("vm", "reboot"), cuts: true},
	{name: "pause", words: of("vm", "stop"), then: []string{"vm", "cont"}},
	{name: "switchover", words: of("switchover"), moves: true},
	{name: "migrate", moves: true, words: func(st *lab.Status) []string {
		return []string{"migrate", st.Pair, "--to", st.Standby, "--role", "speaker"}
	}},
	{name: "delete", words: of("vm", "delete", "--yes"), ends: true, cuts: true, start: []string{"vm", "start", "--create"}},
}

// none is the column without a fault.
const none = "none"

var plannedFaults = []string{none, lab.KillVM, lab.KillNode, lab.KillColod, lab.Partition}

// cell is what came of one operation under one fault.
type cell struct {
	Operation string  `json:"operation"`
	Fault     string  `json:"fault"`
	Runs      int     `json:"runs"`
	Done      int     `json:"done"`            // the operation succeeded
	Refused   int     `json:"refused"`         // it told that it did not
	False     int     `json:"false_failovers"` // roles changed though nothing had failed
	Missed    int     `json:"missed_faults"`   // the end is neither protected nor an end on purpose
	Detected  figures `json:"detected_ms"`     // from the fault to the first reaction of a node
	Recovered figures `json:"recovered_ms"`    // from the fault until the guest ran on without what was lost
	Again     figures `json:"protected_ms"`    // from mending until protected
}

// TestPlannedOperations is the table of operations and faults: nothing planned
// is taken for a failure, no failure is missed because of a plan, and a fault in
// the middle ends in a defined state.
func TestPlannedOperations(t *testing.T) {
	// In the short run a cell of each operation and of each fault.
	few := []string{"shutdown none", "reboot none", "pause partition", "switchover kill-vm", "migrate none", "delete none"}
	rng := rand.New(rand.NewPCG(seed, 5))
	var table []*cell
	for _, op := range operations {
		for _, kind := range plannedFaults {
			if !long && !slices.Contains(few, op.name+" "+kind) {
				continue
			}
			c := &cell{Operation: op.name, Fault: kind}
			table = append(table, c)
			t.Run(op.name+"/"+kind, func(t *testing.T) {
				for range rounds(1, 10) {
					planned(t, op, kind, time.Duration(rng.IntN(1200))*time.Millisecond, c)
					if t.Failed() {
						return
					}
				}
			})
			record(t, map[string]any{"cell": c})
		}
	}
	t.Logf("seed %d, load average %s; HASS (poll 5 s twice, window 9 s, recovery 30 s) needs 10 s to detect and 40 s to recover", seed, loadAverage())
	t.Logf("%-11s %-10s %4s %4s %7s %5s %6s  %s", "operation", "fault", "runs", "done", "refused", "false", "missed", "medians in ms: detected, recovered, protected again")
	for _, c := range table {
		t.Logf("%-11s %-10s %4d %4d %7d %5d %6d  %.0f, %.0f, %.0f", c.Operation, c.Fault, c.Runs, c.Done, c.Refused, c.False, c.Missed,
			c.Detected.quantile(0.5), c.Recovered.quantile(0.5), c.Again.quantile(0.5))
		if c.False+c.Missed > 0 {
			t.Errorf("%s under %s: %d false failovers, %d missed faults", c.Operation, c.Fault, c.False, c.Missed)
		}
	}
}

// planned carries one operation out, with a fault in the middle of it.
func planned(t *testing.T, op operation, kind string, delay time.Duration, c *cell) {
	l := protected(t)
	giveUpIfFailed(t, l)
	watch(t, l)
	c.Runs++
	var session *client.Session
	if !op.cuts {
		session = begin(t, l, working, ordinary()...)
	} else {
		for range 3 {
			counted(t, l)
		}
	}
	again(t, l)
	before := status(t, l)
	start := time.Now()
	asked := make(chan error, 1)
	go func() {
		err := l.Operate(context.WithoutCancel(t.Context()), before.Speaker, op.words(before)...)
		if err == nil && op.then != nil {
			time.Sleep(2 * time.Second)
			err = contNow(context.WithoutCancel(t.Context()), l, op, before)
		}
		asked <- err
	}()
	var broken time.Time
	if kind != none {
		time.Sleep(delay)
		f := lab.Fault{Kind: kind, Path: lab.AllPaths}
		if kind != lab.Partition {
			f.Node = before.Speaker
		}
		broken = time.Now()
		if said, err := l.Break(t.Context(), f); err != nil {
			// The operation was quicker: its victim is gone.
			t.Logf("no fault: %v", err)
			broken = time.Time{}
		} else {
			t.Logf("%s %v after it was asked for", said, delay)
		}
		time.Sleep(3 * time.Second)
	}
	if _, err := l.Fault(t.Context(), lab.Heal, ""); err != nil {
		t.Error(err)
	}
	mended := time.Now()
	opErr := <-asked
	if opErr == nil {
		c.Done++
	} else {
		c.Refused++
		t.Logf("told: %v", opErr)
		if kind == none {
			t.Errorf("%s without any fault: %v", op.name, opErr)
		}
		if op.then != nil {
			// Whatever became of it, the guest is to go on.
			if err := contNow(t.Context(), l, op, before); err != nil {
				t.Logf("afterwards: %v", err)
			}
		}
	}
	after := settled(t, l, op, opErr)
	wholeAt := time.Now()
	if after == nil {
		c.Missed++
		t.Errorf("%s under %s ends in nothing: %s", op.name, kind, l.Logs(30))
		return
	}
	t.Logf("%s: %s, speaker %s, generation %d: %s", op.name, after.State, after.Speaker, after.Generation, after.Reason)
	if kind == none && !op.moves && after.State != "stopped" && after.Speaker != before.Speaker {
		c.False++
		t.Errorf("%s moved the guest from %s to %s: %s", op.name, before.Speaker, after.Speaker, after.Reason)
	}
	if kind == none && op.moves && after.Speaker == before.Speaker {
		t.Errorf("%s did not move the guest", op.name)
	}
	if !broken.IsZero() {
		known, alone := reaction(t, l, broken)
		if known > 0 {
			c.Detected = append(c.Detected, known)
		}
		if alone > 0 {
			c.Recovered = append(c.Recovered, alone)
		}
	}
	if session != nil {
		finished(t, session)
	}
	if after.State == "stopped" {
		for _, n := range l.Nodes() {
			if pid, err := l.VM(n); err == nil {
				t.Errorf("the guest was ended, and process %d of node %s still runs it", pid, n)
			}
		}
		if err := l.Operate(t.Context(), before.Speaker, append(slices.Clone(op.start), before.Pair)...); err != nil {
			t.Fatalf("start the guest again: %v", err)
		}
	}
	again(t, l)
	if after.State != "stopped" {
		c.Again = append(c.Again, float64(wholeAt.Sub(mended).Milliseconds()))
	}
	if err := l.AwaitGuest(t.Context()); err != nil {
		t.Error(err)
	}
	if op.name == "reboot" && kind == none && counted(t, l) != 1 {
		t.Error("the guest was not started anew")
	}
	t.Logf("%s under %s took %.1f s in all", op.name, kind, time.Since(start).Seconds())
}

// contNow asks whoever speaks now to undo the operation, until somebody does.
func contNow(ctx context.Context, l *lab.Lab, op operation, before *lab.Status) (err error) {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		st, serr := l.Status(ctx)
		if serr != nil {
			err = serr
			continue
		}
		if err = l.Operate(ctx, st.Speaker, append(slices.Clone(op.then), before.Pair)...); err == nil {
			return nil
		}
	}
	return err
}

// settled waits until the pair is protected or ended on purpose, and stays so
// for a moment; nil if that never comes. An operation that ends the guest and
// succeeded must have ended it.
func settled(t *testing.T, l *lab.Lab, op operation, opErr error) *lab.Status {
	t.Helper()
	since := time.Time{}
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var states []string
		var last *lab.Status
		for _, n := range lab.Nodes {
			st, err := l.NodeStatus(t.Context(), n)
			if err != nil {
				states = append(states, "silent")
				continue
			}
			states = append(states, st.State)
			if last == nil || st.Generation > last.Generation || st.Generation == last.Generation && st.Speaker == st.Node {
				last = st
			}
		}
		ended := !slices.ContainsFunc(states, func(s string) bool { return s != "stopped" })
		whole := !slices.ContainsFunc(states, func(s string) bool { return s != "protected" && s != "checkpointing" })
		if op.ends && opErr == nil {
			whole = false
		}
		if !ended && !whole {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > time.Second {
			return last
		}
	}
	return nil
}

// reaction is how long after a fault a node reacted to it, and how long until
// the guest ran on, in ms; 0 for what did not happen.
func reaction(t *testing.T, l *lab.Lab, broken time.Time) (known, alone float64) {
	t.Helper()
	for _, n := range lab.Nodes {
		// The past comes at once; the stream then waits for what is to come.
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		err := l.Events(ctx, n, func(e coordinator.Event) bool {
			ms := float64(e.Time.Sub(broken).Microseconds()) / 1000
			if ms <= 0 {
				return true
			}
			if known == 0 || ms < known {
				known = ms
			}
			if (e.State == "solo" || e.State == "stopped") && (alone == 0 || ms < alone) {
				alone = ms
			}
			return true
		})
		cancel()
		if err != nil && ctx.Err() == nil {
			t.Log(err)
		}
	}
	return known, alone
}

// counted asks the guest's counter, which starts at 1 when the guest does.
func counted(t *testing.T, l *lab.Lab) (n int) {
	t.Helper()
	out, err := l.Command(t.Context(), lab.Client, "curl", "-s", "-m", "60", "http://"+image.GuestIPv4+"/counter").CombinedOutput()
	if err != nil {
		t.Fatalf("ask the guest's counter: %v: %s", err, out)
	}
	if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &n); err != nil {
		t.Fatalf("ask the guest's counter: %q: %v", out, err)
	}
	return n
}
