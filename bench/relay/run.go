// Package relay measures the relay of the guest's state: how long a checkpoint of a given size keeps the guest standing, and what it
// costs in CPU time, copied, spliced and encrypted, through real connections between network namespaces.
package relay

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"colod/bench/report"
	"colod/bench/rig"
	"colod/internal/netnstest"
)

// Benchmark is registered in bench/cmd/bench.
var Benchmark = rig.Benchmark{
	Name: "relay", What: "relay of the state: stop time and CPU of copied, spliced and encrypted", Peer: "one unix socket between the QEMUs",
	Cases: func() []string {
		var names []string
		for _, s := range sizes {
			names = append(names, sizeName(s))
		}
		return append(names, loopback)
	},
	Run:   run,
	Parts: map[string]func([]string, io.Writer) int{"relay-end": endMain},
}

// sizes of a checkpoint's state, bytes.
var sizes = []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}

const (
	loopback = "loopback"
	stopTime = "stop time, median"
	stopP99  = "stop time, p99"
	cpuTime  = "CPU of both relays"
	addrB    = "198.51.100.2:7000"
	addrLo   = "127.0.0.1:7000"
)

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func run(ctx context.Context, o rig.Options) ([]*report.Result, error) {
	rounds, each := o.RoundsOr(2, 1), o.EachOr(time.Second, 150*time.Millisecond)
	res := &report.Result{Name: "relay", Title: "Relay of the guest's state", Rounds: rounds, How: how, Limits: limits}
	state := make([]byte, slices.Max(sizes))
	for i := range state {
		state[i] = byte(i * 2654435761 >> 13)
	}
	wire, lo := map[int]*report.Sheet{}, map[int]*report.Sheet{}
	names := make([]string, len(ways))
	for i, w := range ways {
		names[i] = w.name
	}
	over := func(link, addr string, sheets map[int]*report.Sheet, list []int, prefix string) error {
		return rig.Run(ctx, "relay over "+link, o.Log, func(t *rig.TB) {
			a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
			netnstest.Veth(a, "repl", b, "repl")
			a.Addr("repl", "198.51.100.1/24")
			b.Addr("repl", "198.51.100.2/24")
			b.Up("lo")
			from := a
			if link == loopback {
				from = b
			}
			certs := t.TempDir()
			t.Must(rig.Certificates(certs, nodeA, nodeB))
			for round := range rounds {
				for i := range ways {
					w := ways[(i+round)%len(ways)]
					err := rig.Run(t.Context(), w.name, o.Log, func(t *rig.TB) {
						s := open(t, w, from, b, addr, certs)
						for _, n := range list {
							if sheets[n] == nil {
								sheets[n] = report.NewSheet(prefix+sizeName(n), names...)
							}
							t.Must(measure(s, state[:n], each, sheets[n]))
						}
					})
					t.Must(err)
				}
				o.Log("relay over %s: round %d/%d", link, round+1, rounds)
			}
		})
	}
	var list []int
	for _, n := range sizes {
		if o.Wants(sizeName(n)) {
			list = append(list, n)
		}
	}
	if len(list) > 0 {
		if err := over("veth", addrB, wire, list, ""); err != nil {
			return nil, err
		}
	}
	if o.Wants(loopback) {
		if err := over(loopback, addrLo, lo, []int{4 << 10, 1 << 20, 64 << 20}, "over loopback: "); err != nil {
			return nil, err
		}
	}
	for _, m := range []map[int]*report.Sheet{wire, lo} {
		for _, n := range sizes {
			if m[n] != nil {
				res.Cases = append(res.Cases, m[n].Case())
			}
		}
	}
	if len(list) > 1 {
		conclude(res, list)
	}
	return []*report.Result{res}, nil
}

// measure takes checkpoints of one size for about the time each, at least 5.
func measure(s *stream, state []byte, each time.Duration, sh *report.Sheet) error {
	for range 3 { // buffers grow, congestion windows open
		if _, err := s.checkpoint(state); err != nil {
			return err
		}
	}
	before, err := s.cpu()
	if err != nil {
		return err
	}
	var took []float64
	for began := time.Now(); len(took) < 5 || time.Since(began) < each; {
		d, err := s.checkpoint(state)
		if err != nil {
			return err
		}
		took = append(took, float64(d)/float64(time.Microsecond))
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	sh.Add(s.way.name, stopTime, "µs", "less", report.Median(took))
	sh.Add(s.way.name, stopP99, "µs", "less", report.Percentile(took, 99))
	if !s.way.direct {
		used := (after - before).Seconds()
		sh.Add(s.way.name, cpuTime, "s/GiB", "less", used/(float64(len(took)*len(state))/(1<<30)))
		sh.Add(s.way.name, "CPU of both relays, per checkpoint", "µs", "less", 1e6*used/float64(len(took)))
	}
	sh.Add(s.way.name, "rate while it stands", "MB/s", "more", float64(len(state))/report.Median(took))
	return nil
}

// conclude adds the curves and the break-even.
func conclude(res *report.Result, list []int) {
	curve := func(name, title, unit, figure string) report.Curve {
		c := report.Curve{Name: name, Title: title, X: report.Axis{Label: "state, KiB", Log: true}, Y: report.Axis{Label: unit, Log: true}}
		for _, w := range ways {
			var p []report.Point
			for _, n := range list {
				if f, ok := res.Find(sizeName(n), w.name, figure); ok {
					p = append(p, report.PointOf(float64(n)/1024, f.Rounds))
				}
			}
			if len(p) > 0 {
				c.Series = append(c.Series, report.Grown(w.name, p))
			}
		}
		return c
	}
	res.Curves = append(res.Curves,
		curve("relay-stop", "How long a checkpoint's state keeps the guest standing", "µs, median", stopTime),
		curve("relay-cpu", "CPU time of both relays", "s/GiB", cpuTime))
	for _, f := range []struct{ figure, what string }{{stopTime, "stop time"}, {cpuTime, "CPU time"}} {
		var ratio []float64
		for _, n := range list {
			x, _ := res.Find(sizeName(n), spliced, f.figure)
			ratio = append(ratio, x.Ratio)
		}
		res.How = append(res.How, fmt.Sprintf("Break-even in %s: %s.", f.what, breakEven(list, ratio)))
	}
	n := list[len(list)-1]
	if f, ok := res.Find(sizeName(n), spliced, cpuTime); ok {
		res.AtMost("CPU time of the spliced relay to that of the copying one, "+sizeName(n), 1, f.Ratio, "ratio")
	}
}

// breakEven says from which size on splicing is cheaper than copying; ratio is of spliced to copied, by size.
func breakEven(list []int, ratio []float64) string {
	from := len(list)
	for from > 0 && ratio[from-1] > 0 && ratio[from-1] < 1 {
		from--
	}
	switch from {
	case 0:
		return "splicing costs less than copying at every size measured, from " + sizeName(list[0]) + " on"
	case len(list):
		return "at no size measured does splicing cost less than copying at all larger ones too"
	}
	return fmt.Sprintf("splicing costs less than copying from %s on, and not at %s", sizeName(list[from]), sizeName(list[from-1]))
}

var how = []string{
	"Two relays as in production, each in a process of its own and a network namespace of its own, TCP over a veth pair between them; stand-ins for the two " +
		"QEMUs speak COLO's protocol through unix sockets, in writes of QEMU's size, and load in no time. *Stop time* is from the first byte of the state until the " +
		"word that it is loaded: what the transport adds to the guest's standstill. *CPU* is what both relay processes used, by the scheduler's clock, the kernel's work on " +
		"their behalf included. *Copied* goes through colod's memory, *spliced* stays in the kernel, *TLS* is TLS 1.3 with mutual authentication, which is the default. " +
		"*No relay* is one unix socket between the stand-ins, the least that there can be on one machine.",
}

var limits = []string{
	"A veth pair and loopback hide what a network card does: on them a spliced page goes by reference from one QEMU's socket to the other relay's; no " +
		"copy to a card, no interrupts, no segmentation (super-frames of 64 KiB cross whole, loopback's MTU is 65,536), and the receiver's packet work runs in the sender's time. A real link adds its round trip once a checkpoint " +
		"and its bandwidth (64 MiB at 10 Gbit/s: 54 ms), and narrows the distance between copied and spliced where the wire is the bound. The cases *over loopback* show how much less a " +
		"measurement over loopback would have told.",
	"All processes share the machine's CPUs: with few of them, what a relay computes delays the stand-ins as well.",
	"Kernel TLS is not measured: see docs/decisions.",
}
