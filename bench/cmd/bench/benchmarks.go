package main

import (
	"context"
	"io"
	"time"

	"colod/bench/checkpoint"
	"colod/bench/colocompare"
	"colod/bench/datapath"
	"colod/bench/drop"
	"colod/bench/failover"
	"colod/bench/fleet"
	"colod/bench/link"
	"colod/bench/load"
	"colod/bench/relay"
	"colod/bench/report"
	"colod/bench/rig"
	"colod/bench/scale"
	"colod/bench/systems"
)

// benchmarks in the order in which they run.
var benchmarks = []rig.Benchmark{
	coloCompare,
	dataPath,
	linkUse,
	systems.Benchmark,
	failover.Benchmark,
	relay.Benchmark,
	checkpoint.Benchmark,
	scale.Benchmark,
	fleet.Benchmark,
}

var coloCompare = rig.Benchmark{
	Name: "colo-compare", What: "comparator", Peer: "QEMU's colo-compare", Cases: colocompare.Cases,
	Run: func(ctx context.Context, o rig.Options) ([]*report.Result, error) {
		return one(colocompare.Run(ctx, colocompare.Options{Rounds: o.RoundsOr(3, 1), Each: o.EachOr(time.Second, 300*time.Millisecond), Frames: 16384, Only: o.Case,
			Profile: o.Profile, Log: o.Log}))
	},
	Parts: map[string]func([]string, io.Writer) int{"chardev": drop.Main},
}

var dataPath = rig.Benchmark{
	Name: "data-path", What: "data path without VMs", Peer: "plain kernel forwarding", Cases: loads,
	Run: func(ctx context.Context, o rig.Options) ([]*report.Result, error) {
		return one(datapath.Run(ctx, datapath.Options{Rounds: o.RoundsOr(4, 1), Each: o.EachOr(2*time.Second, 300*time.Millisecond), Only: o.Case, Profile: o.Profile,
			Congestion: o.Congestion, Log: o.Log}))
	},
	Parts: map[string]func([]string, io.Writer) int{"load": load.Main, "datapath-node": datapath.NodeMain},
}

var linkUse = rig.Benchmark{
	Name: "link", What: "bytes between the nodes", Peer: "every frame, as QEMU's filters send (computed)", Cases: link.Cases,
	Run: func(ctx context.Context, o rig.Options) ([]*report.Result, error) {
		return one(link.Run(ctx, link.Options{Rounds: o.RoundsOr(3, 1), Each: o.EachOr(2*time.Second, 300*time.Millisecond), Only: o.Case, Log: o.Log}))
	},
}

// loads are the cases of benchmarks on the data path.
func loads() []string {
	var names []string
	for _, k := range datapath.Loads("") {
		names = append(names, k.Name)
	}
	return names
}

func one(r *report.Result, err error) ([]*report.Result, error) { return []*report.Result{r}, err }
