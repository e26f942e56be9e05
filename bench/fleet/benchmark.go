package fleet

import (
	"context"
	"fmt"
	"strings"

	"colod/bench/report"
	"colod/bench/rig"
	"colod/coordinator/placement"
)

// Benchmark is the loss of nodes in a fleet.
var Benchmark = rig.Benchmark{
	Name: "fleet", What: "1,000 nodes and 20,000 pairs, simulated, with a real etcd: loss of a node, a rack, a third",
	Peer: "the node with the fewest pairs taken, as facts 10 s old say", Cases: Cases, Run: Run,
}

// Size of a fleet.
type Size struct{ Nodes, Rack, Pairs, Members int }

// Full and quick sizes: a rack is what is lost at once; Members are etcd's.
var (
	Full  = Size{Nodes: 1000, Rack: 40, Pairs: 20000, Members: 3}
	Quick = Size{Nodes: 40, Rack: 4, Pairs: 240, Members: 1}
)

// Cases are the names of the cases.
func Cases() []string { return []string{"etcd", "choice"} }

const (
	colod  = "colod"
	fewest = "fewest pairs first"
)

// Run runs the fleet twice: with a real etcd, and, to compare the choice of nodes with the obvious one, with an arbiter in
// memory.
func Run(ctx context.Context, o rig.Options) ([]*report.Result, error) {
	size := Full
	if o.Quick {
		size = Quick
	}
	return RunSize(ctx, o, size)
}

// RunSize is Run of a fleet of another size.
func RunSize(ctx context.Context, o rig.Options, size Size) ([]*report.Result, error) {
	r := &report.Result{Name: "fleet", Rounds: 1, How: how(size), Limits: limits,
		Title: fmt.Sprintf("Fleet of %d nodes and %d pairs, simulated, with a real etcd", size.Nodes, size.Pairs)}
	cfg := Config{Nodes: size.Nodes, Rack: size.Rack, Pairs: size.Pairs, Seed: 1, Choose: placement.Choose, Reserve: true}
	var real []Summary
	if o.Wants("etcd") {
		err := rig.Run(ctx, "fleet", o.Log, func(t *rig.TB) {
			cfg := cfg
			cfg.Arbiters = Cluster(t, size.Members)
			var err error
			real, err = walk(ctx, o, "etcd", cfg, true)
			t.Must(err)
		})
		if err != nil {
			return nil, err
		}
		for i, s := range real {
			sh := report.NewSheet(stepName(i, size), colod)
			s.note(sh, colod, i > 0, true)
			r.Cases = append(r.Cases, sh.Case())
		}
		r.Goals = append(r.Goals, goals(real)...)
	}
	if o.Wants("choice") {
		var both [2][]Summary
		for i, choose := range []func(placement.Needs, []placement.Facts) (string, string, map[string]string){Fewest, placement.Choose} {
			cfg := cfg
			cfg.Choose, cfg.Arbiters, cfg.Reserve = choose, []Arbiter{NewMemory()}, i == 1
			var err error
			if both[i], err = walk(ctx, o, []string{fewest, colod}[i], cfg, false); err != nil {
				return nil, err
			}
		}
		for i := 1; i < len(both[0]) && i < len(both[1]); i++ {
			sh := report.NewSheet("choice of nodes, arbiter in memory: "+stepName(i, size), fewest, colod)
			both[0][i].note(sh, fewest, true, false)
			both[1][i].note(sh, colod, true, false)
			r.Cases = append(r.Cases, sh.Case())
		}
		r.Curves = append(r.Curves, curve(size, both, real))
	}
	return []*report.Result{r}, nil
}

// losses are the nodes that are lost, one after the other.
func losses(size Size) []int { return []int{1, size.Rack, size.Nodes / 3} }

func stepName(i int, size Size) string {
	return []string{"start of all pairs", "loss of one node", fmt.Sprintf("loss of %d nodes, as many as a rack has", size.Rack),
		fmt.Sprintf("loss of %d nodes, a third", size.Nodes/3)}[i]
}

// walk starts a fleet and takes its nodes away.
func walk(ctx context.Context, o rig.Options, what string, cfg Config, check bool) ([]Summary, error) {
	size := Size{Nodes: cfg.Nodes, Rack: cfg.Rack}
	f, s, err := Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("fleet, %s, %s: %w", what, stepName(0, size), err)
	}
	defer f.Close()
	for i := 0; ; i++ {
		if err != nil {
			return nil, fmt.Errorf("fleet, %s, %s: %w", what, stepName(i, size), err)
		}
		o.Log("fleet %s: %s: %s", what, stepName(i, size), s)
		if f.w.late { // a figure as well: it is missed
			o.Log("fleet %s: no end after %s of the wall's clock:\n%s", what, wallLimit, f.why())
			return append(f.sums, s), nil
		}
		if check {
			if err := f.Check(ctx); err != nil {
				return nil, fmt.Errorf("fleet, %s, after %s: %w", what, stepName(i, size), err)
			}
		}
		f.sums = append(f.sums, s)
		if i == len(losses(size)) {
			return f.sums, nil
		}
		s, err = f.Lose(losses(size)[i])
	}
}

func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "all protected after %.1f s", s.Until)
	if s.Unprotected > 0 {
		b.Reset()
		fmt.Fprintf(&b, "%d NOT protected after %.0f s", s.Unprotected, s.Until)
	}
	fmt.Fprintf(&b, "; %d writes, at most %.0f a second, p50 %.1f ms, p99 %.1f ms; %d pairs without speaker for %.3f s (p99 %.3f s); hottest node takes %d, on the average %.1f; refused %d; %.0f s of the wall's clock",
		s.Writes, s.Peak, s.WriteP50, s.WriteP99, s.Hit, s.Silence50, s.Silence99, s.Hottest, s.Mean, s.Refused, s.TakenWall)
	return b.String()
}

const (
	until   = "all protected again after"
	hottest = "secondaries begun on the hottest node"
	memory  = "memory used on the fullest node"
)

func (s Summary) note(sh *report.Sheet, system string, fault, etcd bool) {
	add := func(name, unit, better string, v float64) { sh.Add(system, name, unit, better, v) }
	if fault {
		add("nodes lost", "", "", float64(s.Hosts))
		add("pairs that lost their speaker and have a secondary", "", "", float64(s.Hit))
		add("pairs that were lost with both their nodes", "", "", float64(s.Gone))
		add("pairs with no speaker at the end, or two", "", "less", float64(s.None+s.Two))
		add("without speaker, p50", "s", "less", s.Silence50)
		add("without speaker, p99", "s", "less", s.Silence99)
		add("without speaker, longest", "s", "less", s.SilenceMost)
	}
	add(until, "s", "less", s.Until)
	add("not protected at the end", "pairs", "less", float64(s.Unprotected))
	add("writes to the arbiter", "", "", float64(s.Writes))
	if etcd {
		add("writes a second, mean until all are protected", "1/s", "", s.PerSecond)
		add("writes a second, most", "1/s", "", s.Peak)
		add("a write took, p50 (measured)", "ms", "less", s.WriteP50)
		add("a write took, p99 (measured)", "ms", "less", s.WriteP99)
		add("writes that failed or whose outcome was not known", "", "less", float64(s.Unknown))
		add("reads", "", "", float64(s.Reads))
	}
	add(hottest, "", "less", float64(s.Hottest))
	add("secondaries begun on a node, mean", "", "", s.Mean)
	add("speakers on one node, most", "", "less", float64(s.Speakers))
	add(memory, "%", "less", s.Memory)
	add("requests refused for want of room", "", "less", float64(s.Refused))
	add("synchronisations that failed", "", "less", float64(s.Failed))
	add("one choice of a node took (measured)", "us", "less", s.Choice)
}

func goals(all []Summary) []report.Goal {
	var r report.Result
	wrong, unprotected := 0, 0
	for _, s := range all[1:] {
		wrong += s.None + s.Two
		unprotected += s.Unprotected
	}
	r.AtMost("pairs with two speakers or none after the losses, of those that have a node left", 0, float64(wrong), "")
	r.AtMost("pairs not protected at the end", 0, float64(unprotected), "")
	return r.Goals
}

// curve is the time until all are protected by the number of nodes lost.
func curve(size Size, both [2][]Summary, real []Summary) report.Curve {
	line := func(name string, all []Summary) report.Series {
		var p []report.Point
		for _, s := range all[1:] {
			p = append(p, report.PointOf(float64(s.Hosts), []float64{s.Until}))
		}
		return report.Grown(name, p)
	}
	c := report.Curve{Name: "protected-again", Title: fmt.Sprintf("All pairs protected again, %d nodes, %d pairs", size.Nodes, size.Pairs),
		X: report.Axis{Label: "nodes lost at once", Log: true}, Y: report.Axis{Label: "simulated time, s", Log: true},
		Series: []report.Series{line(fewest+", arbiter in memory", both[0]), line("colod, arbiter in memory", both[1])}}
	if len(real) > 1 {
		c.Series = append(c.Series, line("colod, real etcd", real))
	}
	return c
}

// Fewest is the obvious choice: of all nodes that fit, in another domain if there is one, the one with the fewest pairs.
func Fewest(n placement.Needs, all []placement.Facts) (string, string, map[string]string) {
	refused := map[string]string{}
	var best *placement.Facts
	key := func(f *placement.Facts) [4]int {
		k := [4]int{0, 0, 1, f.Pairs}
		for i, l := range n.Last {
			if l == f.Name {
				k[0] = i + 1
			}
		}
		if f.Domain == n.Domain {
			k[1] = 1
		}
		for _, l := range n.Listed {
			if l == f.Name {
				k[2] = 0
			}
		}
		return k
	}
	less := func(a, b [4]int) bool {
		for i := range a {
			if a[i] != b[i] {
				return a[i] < b[i]
			}
		}
		return false
	}
	for i := range all {
		if no := placement.Check(n, all[i]); len(no) > 0 {
			refused[all[i].Name] = no[0]
			continue
		}
		if best == nil || less(key(&all[i]), key(best)) {
			best = &all[i]
		}
	}
	if best == nil {
		return "", "", refused
	}
	return best.Name, "fewest pairs", refused
}

func how(s Size) []string {
	return []string{
		fmt.Sprintf("Real: the state machines of all pairs on all nodes (`coordinator/pair`), the choice of nodes (`coordinator/placement`) and an etcd cluster of %d "+
			"member(s) on this machine with TLS and fsync, asked through `coordinator/arbiter/etcd` by %d clients. Simulated: hosts (%d GiB, %d CPUs, a link of 10 Gbit/s, shared by the copies), "+
			"guests (1 GiB), the start of a VM (0.15 to 0.4 s, 8 at once on a host), its copy, checkpoints, data paths, heartbeats (50 ms, lost after 250 ms), and facts that are told every 10 s.",
			s.Members, connections, hostMemory>>30, hostCPUs),
		fmt.Sprintf("How the times are put together: while no question to etcd is under way, simulated time jumps to the next event. While one is, simulated time runs no faster than the wall's "+
			"clock, and the answer comes as much later as etcd really took. So the questions that nodes ask at once meet in etcd at once, and its real latency under that load is in every time below. "+
			"Every node is a spare and knows all others; a pair lists two nodes in different racks. One node is lost, then %d (a rack's number), then a third, each after all are protected again.", s.Rack),
	}
}

var limits = []string{
	"etcd and the simulation share this machine's CPUs and disk: an etcd on three machines of its own answers a burst sooner.",
	"Only what decides about speaking and placing is asked of etcd here: records and descriptions. What nodes publish for `colod status --all` is not.",
	"Nodes lose power. A network that falls apart is what internal/sim and the end-to-end tests are for.",
	"The guests make no load: times of copies are those of 1 GiB over a shared link, whatever the guest changes meanwhile.",
	"The peer in the choice of nodes is what colod itself did before: the node with the fewest pairs, and no memory set aside for what is on its way.",
}
