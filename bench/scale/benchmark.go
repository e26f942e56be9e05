// Package scale measures what a connection and a pair cost as there are more of them.
package scale

import (
	"context"
	"fmt"
	"time"

	"colod/bench/report"
	"colod/bench/rig"
)

// Benchmark is that measurement.
var Benchmark = rig.Benchmark{Name: "scale", What: "cost of a connection and of a pair as there are more", Cases: Cases, Run: Run}

// Cases are the names of the cases.
func Cases() []string { return []string{"connections", "pairs"} }

// Run measures both.
func Run(ctx context.Context, o rig.Options) ([]*report.Result, error) {
	r := &report.Result{Name: "scale", Title: "Scale on one node", Rounds: o.RoundsOr(2, 1), How: how, Limits: limits}
	each := o.EachOr(2*time.Second, 200*time.Millisecond)
	if o.Wants("connections") {
		if err := growConnections(ctx, o, r, each); err != nil {
			return nil, err
		}
	}
	if o.Wants("pairs") {
		if err := growPairs(ctx, o, r, each); err != nil {
			return nil, err
		}
	}
	return []*report.Result{r}, nil
}

func growConnections(ctx context.Context, o rig.Options, r *report.Result, each time.Duration) error {
	numbers := []int{10, 100, 1000, 10_000, 30_000, 100_000}
	if o.Quick {
		numbers = []int{10, 100, 1000, 10_000}
	}
	var bytes, ns []report.Point
	for _, n := range numbers {
		sh := report.NewSheet(fmt.Sprintf("%d connections", n), colod)
		var b, t []float64
		for round := range r.Rounds {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s, err := measureConnections(n, 2*n, each)
			if err != nil {
				return err
			}
			o.Log("scale %d connections, round %d/%d: %.0f bytes each, %.0f ns a round trip", n, round+1, r.Rounds, s.bytes, s.ns)
			sh.Add(colod, "memory a connection, both nodes", "bytes", "less", s.bytes)
			sh.Add(colod, "processor time a round trip, both nodes", "ns", "less", s.ns)
			b, t = append(b, s.bytes), append(t, s.ns)
		}
		bytes, ns = append(bytes, report.PointOf(float64(n), b)), append(ns, report.PointOf(float64(n), t))
		r.Cases = append(r.Cases, sh.Case())
	}
	x := report.Axis{Label: "connections", Log: true}
	r.Curves = append(r.Curves,
		report.Curve{Name: "connection-memory", Title: "Memory a connection", X: x, Y: report.Axis{Label: "bytes a connection, both nodes", Log: true},
			Series: []report.Series{report.Grown(colod, bytes)}},
		report.Curve{Name: "connection-cpu", Title: "Processor time a round trip", X: x, Y: report.Axis{Label: "ns, both nodes", Log: true},
			Series: []report.Series{report.Grown(colod, ns)}})
	return nil
}

const colod = "colod"

func growPairs(ctx context.Context, o rig.Options, r *report.Result, each time.Duration) error {
	numbers := []int{1, 4, 16, 64}
	if o.Quick {
		numbers = []int{1, 4}
	}
	var idle, busy, wakes, mem []report.Point
	for _, n := range numbers {
		sh := report.NewSheet(fmt.Sprintf("%d pairs", n), colod)
		var ci, cb, w, kb []float64
		err := rig.Run(ctx, "scale", o.Log, func(t *rig.TB) {
			x := newNode(t, n)
			size := float64(resident()-x.rss) / float64(n) / 1024
			for round := range r.Rounds {
				quiet, load := x.watch(each, false), x.watch(each, true)
				if d := x.diverged.Load(); d > 0 {
					t.Fatalf("%d divergences with %d pairs: %s", d, n, *x.why.Load())
				}
				o.Log("scale %d pairs, round %d/%d, each pair: idle %.3f %% of a CPU, %.1f wake-ups/s; with %.0f echoes/s %.2f %%, %.0f wake-ups/s; %.0f KiB", n, round+1, r.Rounds,
					quiet.cpu, quiet.wakes, load.frames/float64(n), load.cpu, load.wakes, size)
				add := func(name, unit, better string, v float64) { sh.Add(colod, name, unit, better, v) }
				add("CPU a pair, idle", "% of one", "less", quiet.cpu)
				add("wake-ups a pair, idle", "1/s", "less", quiet.wakes)
				add("CPU a pair, with echoes", "% of one", "less", load.cpu)
				add("wake-ups a pair, with echoes", "1/s", "less", load.wakes)
				add("echoes answered a pair", "1/s", "", load.frames/float64(n))
				add("memory a pair", "KiB", "less", size)
				ci, cb, w, kb = append(ci, quiet.cpu), append(cb, load.cpu), append(w, quiet.wakes), append(kb, size)
			}
		})
		if err != nil {
			return err
		}
		at := float64(n)
		idle, busy = append(idle, report.PointOf(at, ci)), append(busy, report.PointOf(at, cb))
		wakes, mem = append(wakes, report.PointOf(at, w)), append(mem, report.PointOf(at, kb))
		r.Cases = append(r.Cases, sh.Case())
	}
	x := report.Axis{Label: "pairs on the node", Log: true}
	r.Curves = append(r.Curves,
		report.Curve{Name: "pair-cpu", Title: "Processor time a pair", X: x, Y: report.Axis{Label: "% of one CPU, both sides", Log: true},
			Series: []report.Series{report.Grown("idle", idle), report.Grown("50 echoes/s", busy)}},
		report.Curve{Name: "pair-wakeups", Title: "Wake-ups a pair, idle", X: x, Y: report.Axis{Label: "1/s, both sides"}, Series: []report.Series{report.Grown(colod, wakes)}},
		report.Curve{Name: "pair-memory", Title: "Memory a pair", X: x, Y: report.Axis{Label: "KiB, both sides"}, Series: []report.Series{report.Grown(colod, mem)}})
	return nil
}

var how = []string{
	fmt.Sprintf("*Connections*: both halves of the comparison and the log of input in one process, without sockets (`compare.Engine`, `compare.Describer`, `proxy/inputlog`). On every connection "+
		"in turn the client asks (%d bytes), both guests answer (%d bytes), the answer is compared and released, and the client acknowledges it. Memory is the heap after collection, with all "+
		"connections open, divided by their number; time is the thread's. The table of flows is made large enough.", request, payload),
	fmt.Sprintf("*Pairs*: one host with both data paths of every pair, each with packet sockets, a tap and a TLS link of its own, in lock-step; the guests are network stacks in namespaces. "+
		"Idle, and with an echo request (64 bytes) to every guest each %s, which both guests answer. Processor time and wake-ups are those of the data paths' turns, without falling asleep and waking; memory is "+
		"what the process gained when the data paths were opened.", echoEvery),
	"A slope is the exponent of the least-squares fit over both logarithms: 0 means that a further connection or pair costs what the first did.",
}

var limits = []string{
	"Connections: the kernel's sockets, TLS and the rest of the data path are not in these figures; data-path has them.",
	"Connections: by default the comparison keeps 16,384 flows; with more that are open at once it reports that as a divergence, which is a checkpoint. Memory and time beyond are what a larger table costs.",
	"Pairs: QEMU, the heartbeats and the coordinator of a pair are not there.",
	"With many pairs the data paths wait for the machine's CPUs, which does not count as their time.",
}
