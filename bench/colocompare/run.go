// Package colocompare measures our comparator against QEMU's colo-compare: the same frames through the same sockets in
// the same framing, each in a process of its own.
package colocompare

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"colod/bench/report"
	"colod/bench/rig"
)

// Options of a run.
type Options struct {
	Rounds  int
	Each    time.Duration // of measuring, per comparator, case and round
	Frames  int           // of a trace
	Only    string        // name of one case
	Profile string        // file for a CPU profile of our comparator, of the last case and round
	Log     func(format string, args ...any)
}

// Run measures all cases.
func Run(ctx context.Context, o Options) (*report.Result, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("compare with QEMU's colo-compare: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	res := &report.Result{Name: "colo-compare", Title: "Comparator beside QEMU's colo-compare", Rounds: o.Rounds, How: how, Limits: limits}
	ours := func(dir string) []string {
		a := ourArgs(dir)
		if o.Profile != "" {
			a = append(a, "-cpuprofile", o.Profile)
		}
		return a
	}
	var worst, most float64
	var worstCase, mostCase string
	for _, sp := range specs {
		if o.Only != "" && o.Only != sp.name {
			continue
		}
		sheet := report.NewSheet(sp.name+": "+sp.about, "QEMU", "colod")
		for round := range o.Rounds {
			for _, sys := range []struct {
				name, program string
				args          func(string) []string
			}{{"QEMU", qemu, qemuArgs}, {"colod", self, ours}} {
				var out outcome
				var cpu rig.CPU
				err := rig.Run(ctx, sp.name, o.Log, func(t *rig.TB) {
					out, cpu = measure(t, sp, o, start(t, sys.program, sys.args))
				})
				if err != nil {
					return nil, fmt.Errorf("%s with %s: %w", sp.name, sys.name, err)
				}
				note(sheet, sys.name, out, cpu)
				o.Log("colo-compare %-18s round %d/%d %-5s %9.0f frames/s %6.2f CPU-s/Mframe, asked for %d checkpoints, %.1f %% out of order, %d lost",
					sp.name, round+1, o.Rounds, sys.name, float64(out.frames)/out.wall.Seconds(), cpu.Total.Seconds()/float64(out.frames)*1e6, out.asked,
					100*float64(out.reordered)/float64(max(out.released, 1)), out.lost)
			}
		}
		c := sheet.Case()
		res.Cases = append(res.Cases, c)
		if f, ok := res.Find(c.Name, "colod", perCPU); ok && (worst == 0 || f.Ratio < worst) {
			worst, worstCase = f.Ratio, sp.name
		}
		if f, ok := res.Find(c.Name, "colod", asked); ok && f.Max >= most {
			most, mostCase = f.Max, sp.name
		}
	}
	res.AtLeast("frames per CPU second, least ratio to QEMU of all cases ("+worstCase+")", 5, worst, "x")
	if most == 0 {
		mostCase = "all the same"
	}
	res.AtMost("false checkpoints asked for per million frames, most of all cases ("+mostCase+")", 0, most, "")
	return res, nil
}

// measure feeds sp to p for o.Each, after one loop that is not counted.
func measure(t *rig.TB, sp spec, o Options, p *peer) (outcome, rig.CPU) {
	f := newFeeder(p, sp.build(min(o.Frames, 32<<20/sp.size)))
	t.Must(f.loop(t.Context()))
	f.out = outcome{}
	before, err := rig.ProcessCPU(p.pid)
	t.Must(err)
	for f.out.wall < o.Each {
		t.Must(f.loop(t.Context()))
	}
	after, err := rig.ProcessCPU(p.pid)
	t.Must(err)
	return f.out, after.Sub(before)
}

const (
	perCPU = "frames per CPU second"
	asked  = "checkpoints asked for per million frames"
)

func note(s *report.Sheet, name string, o outcome, cpu rig.CPU) {
	n, mega := float64(o.frames), 1e6/float64(o.frames)
	s.Add(name, perCPU, "1/s", "more", n/cpu.Total.Seconds())
	s.Add(name, "CPU per million frames", "s", "less", cpu.Total.Seconds()*mega)
	s.Add(name, "frames", "1/s", "more", n/o.wall.Seconds())
	s.Add(name, "throughput", "MB/s", "more", float64(o.bytes)/o.wall.Seconds()/1e6)
	s.Add(name, "system share of CPU", "%", "", 100*cpu.System.Seconds()/max(cpu.System.Seconds()+cpu.User.Seconds(), 1e-9))
	s.Add(name, asked, "", "less", float64(o.asked)*mega)
	s.Add(name, "checkpoints done per million frames", "", "less", float64(o.checkpoints)*mega)
	s.Add(name, "stalls", "", "less", float64(o.stalls))
	s.Add(name, "released out of order", "%", "less", 100*float64(o.reordered)/float64(max(o.released, 1)))
	s.Add(name, "bytes lost per million frames", "", "less", float64(o.lost)*mega)
}

var how = []string{
	"QEMU's colo-compare runs without a VM (`-machine none`, its own iothread), ours (`internal/chardev`: compare.Describer and compare.Engine on one " +
		"thread with one poll loop) in a process of its own. One feeder plays both guests and the network over unix sockets in QEMU's framing, with 512 frames " +
		"under way (tcp-lag: 4,096). CPU time is the comparator's process alone, by the scheduler's clock. Every trace is one that two guests that are alike may " +
		"send, so every checkpoint asked for is a false one.",
	"When a comparator asks for a checkpoint, both guests run on to the next point at which they have said the same (256 frames apart, or one of each flow), " +
		"everything under way is read, and the checkpoint is said to be done at once, at no cost: the best that can happen to a comparator.",
}

var limits = []string{
	"Frames per second of wall clock are bounded by the feeder, which has one CPU; frames per CPU second are not.",
	"colod's data path has other sockets than these and a link between its halves: see the data path's figures.",
	"A segment that the primary repeats is compared again by colod, for which it keeps the secondary's last 512.",
	"Both halves of colod's comparator run here, and both are paid for; in service one runs on each node.",
}

// Cases are the names of all cases.
func Cases() []string {
	var names []string
	for _, sp := range specs {
		names = append(names, sp.name)
	}
	return names
}
