// Package systems measures whole systems on real virtual machines: the same guest, the same loads, and native, colod's
// modes, and QEMU's own COLO in turns.
package systems

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"colod/bench/load"
	"colod/bench/report"
	"colod/bench/rig"
	"colod/bench/vmlab"
)

// changing is the case of the load that changes. It takes long, so it has fewer rounds.
const (
	changing       = "changing"
	changingRounds = 2
)

// loads of the benchmark, in the order in which they run.
var loads = []string{"ping", "wget", "scp", "http-static", "http-open", "redis", "compile", "mix"}

// short are those that are enough to see the latency of a bounded epoch, and those of a quick run.
var (
	short = []string{"ping", "http-open", "redis"}
	quick = []string{"ping", "wget", "http-static", "redis"}
)

// Benchmark is this one.
var Benchmark = rig.Benchmark{
	Name: "systems", What: "whole systems on real virtual machines", Peer: "native, and QEMU's own COLO with its filter chain",
	Cases: func() []string { return append(slices.Clone(loads), changing) },
	Run: func(ctx context.Context, o rig.Options) ([]*report.Result, error) {
		r, err := Run(ctx, o)
		return []*report.Result{r}, err
	},
	// The part "load", the client in the lab, is registered by data-path.
}

// run is the state of one run.
type run struct {
	t       *rig.TB
	o       rig.Options
	rounds  int
	each    time.Duration
	program string
	systems []string
	rate    int // requests a second of http-open

	samples map[string]map[string][]*load.Outcome // by load and system, one a round; nil = it failed
	epochs  map[string][]epochTimes               // by system
	failed  []string                              // what failed, in words
	accel   string

	changed map[string][]*changed // by system, one a round
}

// changed is a pass of the load that changes.
type changed struct {
	rate    []float64 // by phase, requests a second
	changes []int
	share   []float64 // of the time in epochs, %
}

// Run measures.
func Run(ctx context.Context, o rig.Options) (*report.Result, error) {
	r := &run{o: o, rounds: o.RoundsOr(3, 1), each: o.EachOr(2*time.Second, 300*time.Millisecond),
		systems: []string{native, twin, lockstep, epoch, bound5, bound30, adaptive, peer},
		samples: map[string]map[string][]*load.Outcome{}, epochs: map[string][]epochTimes{}, changed: map[string][]*changed{},
		rate: 100}
	if o.Quick {
		r.systems = []string{native, lockstep}
	}
	err := rig.Run(ctx, "systems", o.Log, func(t *rig.TB) {
		r.t = t
		t.Must(vmlab.Sweep(ctx, o.Log))
		r.program = vmlab.Program(t)
		for round := range r.rounds {
			for _, name := range r.systems {
				if len(r.loadsOf(name)) > 0 || r.changes(name, round) {
					r.turn(round, name)
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return r.result(), nil
}

// loadsOf are the loads that a system gets.
func (r *run) loadsOf(name string) []string {
	all := loads
	switch {
	case r.o.Case != "":
		all = nil
		if slices.Contains(loads, r.o.Case) {
			all = []string{r.o.Case}
		}
	case r.o.Quick:
		all = quick
	}
	if name != bound5 && name != bound30 {
		return all
	}
	var some []string
	for _, k := range all {
		if slices.Contains(short, k) {
			some = append(some, k)
		}
	}
	return some
}

// turn boots one system, puts all loads on it and ends it.
func (r *run) turn(round int, name string) {
	began := time.Now()
	s, err := up(r.t, name, r.program)
	if err != nil {
		r.fail(round, name, "start", err)
	}
	var windows []window
	for _, kind := range r.loadsOf(name) {
		var out *load.Outcome
		if s != nil {
			from := time.Now()
			out = r.measure(round, name, kind, s)
			windows = append(windows, window{kind, from, time.Now()})
		}
		if r.samples[kind] == nil {
			r.samples[kind] = map[string][]*load.Outcome{}
		}
		r.samples[kind][name] = append(r.samples[kind][name], out)
	}
	if s == nil {
		if r.changes(name, round) {
			r.changed[name] = append(r.changed[name], nil)
		}
		return
	}
	r.accel, _ = s.labs[0].Accel()
	if len(r.loadsOf(name)) > 0 && (name == epoch || name == bound5 || name == bound30) {
		all, err := fetchEpochs(r.t.Context(), s.labs[0], s.since)
		if err != nil {
			r.fail(round, name, "epochs", err)
		}
		under(all, windows)
		r.epochs[name] = append(r.epochs[name], all...)
	}
	if r.changes(name, round) {
		r.changed[name] = append(r.changed[name], r.change(round, name, s))
	}
	if err := s.down(); err != nil {
		r.fail(round, name, "end", err)
	}
	r.o.Log("systems round %d/%d %-22s took %.0f s", round+1, r.rounds, name, time.Since(began).Seconds())
}

func (r *run) measure(round int, name, kind string, s *running) *load.Outcome {
	out, err := s.load(r.t.Context(), kind, r.each, r.rate)
	if err != nil {
		r.fail(round, name, kind, err)
		return nil
	}
	k, _ := load.Find(kind)
	note := ""
	if name != native && len(r.samples[kind][native]) > round {
		if ref := r.samples[kind][native][round]; ref != nil {
			note = fmt.Sprintf(", %.2f of native", throughput(k, &out)/throughput(k, ref))
		}
	}
	r.o.Log("systems round %d/%d %-22s %-11s %s%s", round+1, r.rounds, name, kind, describe(k, &out), note)
	if kind == "http-static" && name == native && round == 0 {
		// A third of what the guest can do alone: every system has a chance, none sleeps.
		r.rate = max(20, int(throughput(k, &out)/3))
	}
	return &out
}

// fail notes what did not work; the run goes on, unless it is to end.
func (r *run) fail(round int, name, what string, err error) {
	if r.t.Context().Err() != nil || name == native {
		r.t.Fatalf("%s: %s: %v", name, what, err)
	}
	line := fmt.Sprintf("%s, %s, round %d: %v", name, what, round+1, err)
	r.failed = append(r.failed, strings.SplitN(line, "\n", 2)[0])
	r.o.Log("systems FAILED: %v", line)
}

// changes tells whether a system gets the load that changes in a round.
func (r *run) changes(name string, round int) bool {
	return round < changingRounds && r.o.Wants(changing) && !r.o.Quick && (name == lockstep || name == epoch || name == adaptive)
}

// change puts the load that changes on a system; nil: it failed.
func (r *run) change(round int, name string, s *running) *changed {
	each := 5 * r.each
	c := &changed{}
	m := watchModes(r.t.Context(), s.labs[0])
	defer m.stop()
	for _, p := range phases {
		out, err := s.load(r.t.Context(), p.kind, each, 0)
		if err != nil {
			r.fail(round, name, changing+", "+p.name, err)
			return nil
		}
		n, share := m.fetch()
		c.rate = append(c.rate, float64(out.Ops)/out.Seconds)
		c.changes = append(c.changes, n)
		c.share = append(c.share, share)
		r.o.Log("systems round %d/%d %-22s %s, %-11s %7.1f requests/s, p50 %.1f ms, p99 %.1f ms, %d changes of mode, %.0f %% in epochs", round+1, r.rounds, name, changing, p.name,
			float64(out.Ops)/out.Seconds, out.P50/1e3, out.P99/1e3, n, share)
	}
	return c
}

// throughput is what a load is about: MB/s, operations a second, or the mix's index.
func throughput(k load.Kind, o *load.Outcome) float64 {
	switch {
	case k.Bulk:
		return float64(o.Bytes) / o.Seconds / 1e6
	case len(o.Parts) > 0:
		sum := 0.0
		for _, v := range o.Parts {
			sum += math.Log(v)
		}
		return math.Exp(sum / float64(len(o.Parts)))
	}
	return float64(o.Ops) / o.Seconds
}

func describe(k load.Kind, o *load.Outcome) string {
	switch {
	case k.Bulk:
		return fmt.Sprintf("%8.2f MB/s", throughput(k, o))
	case len(o.Parts) > 0:
		return fmt.Sprintf("%8.1f index", throughput(k, o))
	}
	return fmt.Sprintf("%8.1f a second, p50 %.2f ms, p99 %.2f ms", throughput(k, o), o.P50/1e3, o.P99/1e3)
}
