// Package checkpoint measures checkpoints of a real guest by how much memory it has changed since the one before: how long it stands
// still, how long its state is on the way and how much that is; over colod's relay and over QEMU's own channels.
package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"colod/bench/report"
	"colod/bench/rig"
	"colod/bench/vmlab"
	"colod/internal/lab"
	"colod/internal/lab/guest"
)

// Benchmark is registered in bench/cmd/bench.
var Benchmark = rig.Benchmark{
	Name: "checkpoint", What: "stop and transfer time of checkpoints by dirty memory", Peer: "QEMU's own TCP and unix channels",
	Cases: func() []string {
		var names []string
		for _, d := range dirties {
			names = append(names, strconv.Itoa(d.mib))
		}
		return names
	},
	Run: run,
}

// dirties are the cases: memory that changes, how long the guest runs between two checkpoints, and how many are taken a round.
var dirties = []struct {
	mib         int
	gap         time.Duration // longer than a pass of the guest over that memory
	full, quick int
}{
	{0, 30 * time.Millisecond, 100, 15},
	{10, 150 * time.Millisecond, 30, 5},
	{100, 600 * time.Millisecond, 12, 4},
}

const (
	stopMedian = "stop time, median"
	transfer   = "transfer, median"
	stateBytes = "state, median"
)

func caseName(mib int) string {
	if mib == 0 {
		return "idle guest"
	}
	return fmt.Sprintf("%d MiB changing", mib)
}

func run(ctx context.Context, o rig.Options) ([]*report.Result, error) {
	rounds := o.RoundsOr(2, 1)
	res := &report.Result{Name: "checkpoint", Title: "Checkpoints by dirty memory", Rounds: rounds, How: how, Limits: limits}
	names := make([]string, len(channels))
	for i, c := range channels {
		names[i] = c.name
	}
	idle := map[string][]float64{}
	var done []int
	err := rig.Run(ctx, "checkpoint", o.Log, func(t *rig.TB) {
		t.Must(vmlab.Sweep(t.Context(), o.Log))
		l, err := vmlab.Up(t, lab.Options{Bare: true, Program: vmlab.Program(t), Progress: func(s string) { o.Log("lab: %s", s) }})
		t.Must(err)
		for _, d := range dirties {
			if !o.Wants(strconv.Itoa(d.mib)) {
				continue
			}
			sh := report.NewSheet(caseName(d.mib), names...)
			t.Must(rig.Run(t.Context(), caseName(d.mib), o.Log, func(t *rig.TB) {
				h := newHost(t, l, d.mib)
				o.Log("checkpoint: %s: the guest runs", caseName(d.mib))
				many := d.full
				if o.Quick {
					many = d.quick
				}
				for round := range rounds {
					for i := range channels {
						ch := channels[(i+round)%len(channels)]
						t.Must(rig.Run(t.Context(), ch.name, o.Log, func(t *rig.TB) {
							p := h.protect(t, ch)
							stops := measure(t, p, many, d.gap, sh)
							if d.mib == 0 {
								idle[ch.name] = append(idle[ch.name], stops...)
							}
							o.Log("checkpoint: %-16s round %d/%d %-18s stop p50 %6.2f p90 %6.2f ms (protected in %s)", caseName(d.mib), round+1, rounds, ch.name,
								report.Median(stops), report.Percentile(stops, 90), p.began.Round(time.Millisecond))
						}))
					}
				}
				if said := h.console(); bytes.Contains(said, []byte(guest.DirtyWrong)) {
					t.Fatalf("the guest found wrong memory: %s", said)
				}
			}))
			res.Cases = append(res.Cases, sh.Case())
			done = append(done, d.mib)
		}
	})
	if err != nil {
		return nil, err
	}
	conclude(res, done, idle)
	return []*report.Result{res}, nil
}

// measure takes many checkpoints and returns the stop times in ms.
func measure(t *rig.TB, p *protection, many int, gap time.Duration, sh *report.Sheet) []float64 {
	var stop, ask, send, load, size []float64
	inMS := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	const warm = 3 // the first ones carry what changed in the first copy
	for i := range warm + many {
		select {
		case <-time.After(gap):
		case <-t.Context().Done():
			t.Fatalf("%v", t.Context().Err())
		}
		s, err := p.checkpoint(t.Context())
		t.Must(err)
		if i < warm {
			continue
		}
		stop = append(stop, inMS(s.Pause()))
		ask = append(ask, inMS(s.Stopped.Sub(s.Triggered)))
		if p.ch.relay {
			send, load, size = append(send, inMS(s.relay.Transfer)), append(load, inMS(s.relay.Load)), append(size, float64(s.relay.Bytes)/(1<<20))
		}
	}
	name := p.ch.name
	sh.Add(name, stopMedian, "ms", "less", report.Median(stop))
	sh.Add(name, "stop time, p90", "ms", "less", report.Percentile(stop, 90))
	sh.Add(name, "stop time, shortest", "ms", "less", report.Percentile(stop, 0))
	sh.Add(name, "stop time, longest", "ms", "less", report.Percentile(stop, 100))
	sh.Add(name, "from the trigger to the stop, median", "ms", "less", report.Median(ask))
	if p.ch.relay {
		sh.Add(name, transfer, "ms", "less", report.Median(send))
		sh.Add(name, "load, median", "ms", "less", report.Median(load))
		sh.Add(name, stateBytes, "MiB", "less", report.Median(size))
	}
	return stop
}
