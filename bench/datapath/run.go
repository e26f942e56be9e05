package datapath

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"colod/bench/load"
	"colod/bench/report"
	"colod/bench/rig"
)

// Options of a run.
type Options struct {
	Rounds  int
	Each    time.Duration // of one load in one mode
	Only    string        // name of one load
	Profile string        // file for a CPU profile of the data path that is the primary
	// Congestion is the congestion control of client and guests; default cubic, that of most distributions.
	Congestion string
	Log        func(format string, args ...any)
}

func (o Options) congestion() string {
	if o.Congestion == "" {
		return "cubic"
	}
	return o.Congestion
}

// tries bounds how often a void sample is taken again.
const tries = 3

// Run measures all loads in all modes.
func Run(ctx context.Context, o Options) (*report.Result, error) {
	res := &report.Result{Name: "data-path", Title: "Data path beside plain kernel forwarding", Rounds: o.Rounds, How: how, Limits: limits}
	sheets := map[string]*report.Sheet{}
	void := map[string]int{}
	err := rig.Run(ctx, "data-path", o.Log, func(t *rig.TB) {
		p := New(t, o)
		for round := range o.Rounds {
			samples := map[string]*[3]*Sample{}
			for m := Kernel; m <= LockStep; m++ {
				p.Enter(m)
				for _, k := range Loads(o.Only) {
					s := p.try(o, k, m, void)
					if samples[k.Name] == nil {
						samples[k.Name] = &[3]*Sample{}
					}
					samples[k.Name][m] = s
					if s != nil {
						o.Log("data-path %-10s round %d/%d %-11s %s", k.Name, round+1, o.Rounds, m, s.line(k))
					}
				}
			}
			p.Enter(Kernel)
			var trip50, trip99 float64
			if slices.ContainsFunc(Loads(o.Only), load.Kind.Single) {
				trip50, trip99 = p.roundTrip(o.Each / 2)
				o.Log("data-path %-10s round %d/%d p50 %4.0f us p99 %5.0f us", floor, round+1, o.Rounds, trip50, trip99)
			}
			for _, k := range Loads(o.Only) {
				s := samples[k.Name]
				if s[Kernel] == nil || s[Alone] == nil || s[LockStep] == nil {
					continue // one of them is void: no ratio
				}
				sh := sheets[k.Name]
				if sh == nil {
					systems := []string{Kernel.String(), Alone.String(), LockStep.String()}
					if k.Single() {
						systems = append(systems, floor)
					}
					sh = report.NewSheet(k.Name+": "+k.About, systems...)
					sheets[k.Name] = sh
				}
				for m := Kernel; m <= LockStep; m++ {
					s[m].note(sh, k, m, s[Kernel])
				}
				if k.Single() {
					sh.Add(floor, p50, "us", "less", trip50)
					sh.Add(floor, p99, "us", "less", trip99)
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, k := range Loads(o.Only) {
		if sh := sheets[k.Name]; sh != nil {
			res.Cases = append(res.Cases, sh.Case())
		}
		if n := void[k.Name]; n > 0 {
			res.Limits = append(res.Limits, fmt.Sprintf("%s: %d samples were void (a divergence or a loss on this machine) and taken again or left out.", k.Name, n))
		}
	}
	goals(res)
	return res, nil
}

// Loads are those to run.
func Loads(only string) []load.Kind {
	var out []load.Kind
	_, err := exec.LookPath("redis-server")
	for _, k := range load.Kinds {
		if only != "" && k.Name != only || k.Name == "redis" && err != nil {
			continue
		}
		out = append(out, k)
	}
	return out
}

// try takes one sample, again if it is void; nil when it stays so.
func (p *Pair) try(o Options, k load.Kind, m Mode, void map[string]int) *Sample {
	for range tries {
		s, err := p.Load(k.Name, o.Each)
		if err == nil {
			return &s
		}
		if p.t.Context().Err() != nil {
			p.t.FailNow()
		}
		void[k.Name]++
		o.Log("data-path %-10s void: %v", k.Name, err)
		p.Enter(m)
	}
	return nil
}

func (s *Sample) line(k load.Kind) string {
	cpu := fmt.Sprintf("CPUs: proxies %.2f + %.2f, stand-ins %.2f, servers %.2f + %.2f, client %.2f", s.A.Seconds()/s.Seconds, s.B.Seconds()/s.Seconds,
		s.Stands.Seconds()/s.Seconds, s.Server[0].Seconds()/s.Seconds, s.Server[1].Seconds()/s.Seconds, s.CPU/s.Seconds)
	if k.Bulk {
		return fmt.Sprintf("%6.2f Gbit/s, %s", float64(s.Bytes)*8/s.Seconds/1e9, cpu)
	}
	return fmt.Sprintf("%7.0f/s p50 %4.0f us p99 %5.0f us, %s", float64(s.Ops)/s.Seconds, s.P50, s.P99, cpu)
}

// Names of figures.
const (
	throughput = "throughput"
	rate       = "operations"
	p50        = "p50"
	p99        = "p99"
	added50    = "p50 added"
	added99    = "p99 added"
	used       = "CPUs used by all parts"
)

// floor is the system of what no lock-step can be below: see roundTrip.
const floor = "bare round trip to the other node"

func (s *Sample) note(sh *report.Sheet, k load.Kind, m Mode, kernel *Sample) {
	name := m.String()
	add := func(figure, unit, better string, v float64) { sh.Add(name, figure, unit, better, v) }
	if k.Bulk {
		gb := float64(s.Bytes) / 1e9
		add(throughput, "Gbit/s", "more", gb*8/s.Seconds)
		add("CPU of all parts per GB", "s", "less", s.All().Seconds()/gb)
		if m != Kernel {
			add("CPU of proxy A per GB", "s", "less", s.A.Seconds()/gb)
			add("CPU of proxy B per GB", "s", "less", s.B.Seconds()/gb)
		}
	} else {
		ops := float64(s.Ops)
		add(rate, "1/s", "more", ops/s.Seconds)
		add(p50, "us", "less", s.P50)
		add(p99, "us", "less", s.P99)
		if m != Kernel {
			add(added50, "us", "less", s.P50-kernel.P50)
			add(added99, "us", "less", s.P99-kernel.P99)
			add("CPU of proxy A per operation", "us", "less", s.A.Seconds()*1e6/ops)
			add("CPU of proxy B per operation", "us", "less", s.B.Seconds()*1e6/ops)
		}
		add("CPU of all parts per operation", "us", "less", s.All().Seconds()*1e6/ops)
		if s.Again > 0 {
			add("sent again", "", "less", float64(s.Again))
		}
	}
	add(used, "", "", s.All().Seconds()/s.Seconds)
	if m != Kernel {
		add("frames released", "1/s", "", float64(s.StatsA.ReleasedFrames)/s.Seconds)
		add("bytes per frame released", "", "", float64(s.StatsA.ReleasedBytes)/max(1, float64(s.StatsA.ReleasedFrames)))
	}
}

func goals(r *report.Result) {
	for _, k := range load.Kinds {
		c := k.Name + ": " + k.About
		if f, ok := r.Find(c, LockStep.String(), throughput); ok {
			r.AtLeast(k.About+": throughput in lock-step to kernel forwarding (where a core is free for the proxy)", 0.8, f.Ratio, "x")
		}
		if !k.Single() {
			continue
		}
		if f, ok := r.Find(c, LockStep.String(), added50); ok {
			r.AtMost(k.About+": p50 added", 60, f.Median, "us")
		}
		if f, ok := r.Find(c, LockStep.String(), p99); ok {
			r.AtMost(k.About+": p99", 200, f.Median, "us")
		}
	}
}

var how = []string{
	"A client, a bridge and two guests, each a network stack of its own behind a real tap with 64 KiB segments and partial checksums, serving the " +
		"same; the frames of a tap are carried to its guest by two goroutines in place of QEMU and virtio. *kernel*: tc redirects between tap and uplink, one " +
		"guest works. *proxy alone*: the proxy takes the output from its packet socket, parses it and sends it on at once, as in `StartPrimary` before the first checkpoint: " +
		"the floor of any comparison outside of the kernel. *lock-step*: both guests work, input is mirrored and output compared over a real TLS link between two addresses. All " +
		"three in turn in each round, on the same devices. Each data path runs in a process of its own, with the priority that colod's has; *CPU of proxy A* and *B* are those " +
		"processes'. TCP's congestion control is cubic everywhere unless said otherwise.",
	"A *line of 1 Gbit/s* (2.5) is a token bucket (tbf) at the client and at the host's port towards it: what most hosts have, and what leaves " +
		"processors free. Without one the devices carry what the processors can, and all parts of the benchmark share them.",
	"*" + floor + "*: 64 bytes over the link's devices and back, plain TCP, by two threads that do nothing else. It is the floor of *p50 added*: an answer is " +
		"released when the other node has said the same.",
}

var limits = []string{
	"All of it shares the machine's CPUs: in lock-step the second guest and the second proxy, which in service have a host of their own, take them from the " +
		"first. Where all CPUs are busy the throughput's ratio is one of CPU per byte, not of the data path's speed.",
	"The stand-ins have no vCPU exits: a real guest is slower, and the data path's share smaller.",
}
