package systems

import (
	"fmt"
	"slices"

	"colod/bench/load"
	"colod/bench/report"
)

// result makes the tables.
func (r *run) result() *report.Result {
	res := &report.Result{Name: "systems", Title: "Whole systems on real virtual machines", Rounds: r.rounds, How: r.how(), Limits: r.limits()}
	for _, kind := range loads {
		if r.samples[kind] != nil {
			res.Cases = append(res.Cases, r.sheet(kind).Case())
		}
	}
	if c, ok := r.boundSheet(res); ok {
		res.Cases = append(res.Cases, c)
	}
	if len(r.changed) > 0 {
		res.Cases = append(res.Cases, r.changedSheet(res).Case())
	}
	r.goals(res)
	return res
}

func caseName(kind string) string {
	k, _ := load.Find(kind)
	return k.Name + ": " + k.About
}

// sheet is one load over all systems.
func (r *run) sheet(kind string) *report.Sheet {
	k, _ := load.Find(kind)
	var systems []string
	for _, name := range r.systems {
		if r.samples[kind][name] != nil {
			systems = append(systems, name)
		}
	}
	sh := report.NewSheet(caseName(kind), systems...)
	for _, name := range systems {
		all := r.samples[kind][name]
		whole := !slices.Contains(all, nil)
		for round, o := range all {
			figure, unit := rateName(k)
			if o == nil {
				// What could not be carried to its end has a throughput of 0; a latency it has not.
				sh.Add(name, figure, unit, "more", 0)
				continue
			}
			sh.Add(name, figure, unit, "more", throughput(k, o))
			if ref := r.samples[kind][twin]; len(ref) > round && ref[round] != nil && name != native {
				sh.Add(name, figure+" to that of two natives", "", "more", throughput(k, o)/throughput(k, ref[round]))
			}
			if k.Bulk || !whole {
				continue
			}
			if len(o.Parts) > 0 {
				for _, part := range []string{"integer", "float", "syscall", "pipe", "switch", "spawn", "files"} {
					sh.Add(name, part, "a second", "more", o.Parts[part])
				}
				continue
			}
			sh.Add(name, "p50", "ms", "less", o.P50/1e3)
			sh.Add(name, "p99", "ms", "less", o.P99/1e3)
			if kind == "http-open" {
				sh.Add(name, "not served", "requests", "less", float64(o.Unserved))
			}
			if kind == "ping" {
				sh.Add(name, "lost", "requests", "less", float64(o.Again))
			}
		}
	}
	return sh
}

func rateName(k load.Kind) (figure, unit string) {
	switch {
	case k.Bulk:
		return "throughput", "MB/s"
	case k.Name == "mix":
		return "index", "geometric mean"
	case k.Name == "compile":
		return "rate", "files/s"
	}
	return "rate", "1/s"
}

const boundCase = "epochs: what output waits for, beside the bound asked for"

// boundSheet is how epochs kept their bounds, and what their time went into.
func (r *run) boundSheet(res *report.Result) (report.Case, bool) {
	sh := report.NewSheet(boundCase, epoch, bound5, bound30)
	curve := report.Curve{Name: "epochs", Title: "Longest possible wait of each epoch", X: report.Axis{Label: "wait (ms)", Log: true}, Y: report.Axis{Label: "share of epochs not above (%)"}}
	some := false
	for _, s := range []struct {
		name  string
		bound float64 // ms; 0 = none
	}{{epoch, 0}, {bound5, 5}, {bound30, 30}} {
		all := r.epochs[s.name]
		if len(all) == 0 {
			continue
		}
		some = true
		sh.Add(s.name, "epochs", "", "", float64(len(all)))
		var periods []float64
		of := func(get func(epochTimes) float64) []float64 { return each(all, get) }
		for _, f := range []struct {
			name string
			get  func(epochTimes) float64
		}{
			{"period", func(e epochTimes) float64 { return e.period }},
			{"longest wait of a frame", func(e epochTimes) float64 { return e.longest }},
			{"buffer", func(e epochTimes) float64 { return e.buffer }},
			{"request", func(e epochTimes) float64 { return e.request }},
			{"transfer", func(e epochTimes) float64 { return e.transfer }},
			{"load", func(e epochTimes) float64 { return e.load }},
			{"release", func(e epochTimes) float64 { return e.release }},
		} {
			v := of(f.get)
			if f.name == "period" {
				periods = v
			}
			sh.Add(s.name, f.name+" p50", "ms", "less", report.Percentile(v, 50))
			sh.Add(s.name, f.name+" p99", "ms", "less", report.Percentile(v, 99))
		}
		if s.bound > 0 {
			sh.Add(s.name, "periods beyond the bound", "%", "less", beyond(periods, s.bound))
			sh.Add(s.name, "checkpoints that alone take longer than the bound", "%", "less", beyond(of(epochTimes.checkpoint), s.bound))
			sh.Add(s.name, "epochs with a frame that waited beyond the bound", "%", "less", beyond(of(func(e epochTimes) float64 { return e.longest }), s.bound))
			for _, kind := range short {
				if part := slices.DeleteFunc(slices.Clone(all), func(e epochTimes) bool { return e.under != kind }); len(part) > 0 {
					sh.Add(s.name, "periods beyond the bound, under "+kind, "%", "less", beyond(each(part, func(e epochTimes) float64 { return e.period }), s.bound))
					sh.Add(s.name, "checkpoints that alone take longer, under "+kind, "%", "less", beyond(each(part, epochTimes.checkpoint), s.bound))
				}
			}
		}
		curve.Series = append(curve.Series, report.Distribution(s.name, thin(periods)))
	}
	if some {
		res.Curves = append(res.Curves, curve)
	}
	return sh.Case(), some
}

// each is one figure of all epochs.
func each(all []epochTimes, get func(epochTimes) float64) (v []float64) {
	for _, e := range all {
		v = append(v, get(e))
	}
	return v
}

// beyond is the share of values above the bound, in %.
func beyond(v []float64, bound float64) float64 {
	n := 0
	for _, x := range v {
		if x > bound {
			n++
		}
	}
	return 100 * float64(n) / float64(max(len(v), 1))
}

// thin keeps at most some hundred values of a distribution, evenly by rank.
func thin(v []float64) []float64 {
	const most = 300
	if len(v) <= most {
		return v
	}
	s := slices.Sorted(slices.Values(v))
	out := make([]float64, most)
	for i := range out {
		out[i] = s[i*(len(s)-1)/(most-1)]
	}
	return out
}

const changingCase = "changing: HTTP with equal output, then divergent, then equal again"

// changedSheet is the load that changes, and the goals of the adaptive mode.
func (r *run) changedSheet(res *report.Result) *report.Sheet {
	sh := report.NewSheet(changingCase, lockstep, epoch, adaptive)
	for round := range r.rounds {
		at := func(name string) *changed {
			if all := r.changed[name]; round < len(all) {
				return all[round]
			}
			return nil
		}
		l, e, a := at(lockstep), at(epoch), at(adaptive)
		if l == nil || e == nil || a == nil {
			continue // a round counts when all three have it
		}
		total := 0
		for i, p := range phases {
			for _, s := range []struct {
				name string
				c    *changed
			}{{lockstep, l}, {epoch, e}, {adaptive, a}} {
				sh.Add(s.name, p.name, "1/s", "more", s.c.rate[i])
			}
			sh.Add(adaptive, p.name+", to the better fixed mode", "", "more", a.rate[i]/max(l.rate[i], e.rate[i]))
			sh.Add(adaptive, p.name+", time in epochs", "%", "", a.share[i])
			total += a.changes[i]
		}
		sh.Add(adaptive, "changes of mode", "", "less", float64(total))
	}
	return sh
}

// goals are those of the project.
func (r *run) goals(res *report.Result) {
	ratio := func(kind, system, to string) (float64, bool) {
		k, _ := load.Find(kind)
		name, _ := rateName(k)
		if to == twin {
			f, ok := res.Find(caseName(kind), system, name+" to that of two natives")
			return f.Median, ok
		}
		f, ok := res.Find(caseName(kind), system, name)
		return f.Ratio, ok && f.RatioTo != ""
	}
	for _, g := range []struct {
		kind, text string
		want       float64
	}{
		{"wget", "bulk download in lock-step, of native", 0.85},
		{"redis", "redis in lock-step, of native", 0.85},
		{"http-static", "static HTTP in lock-step, of native", 0.90},
	} {
		if got, ok := ratio(g.kind, lockstep, native); ok {
			res.AtLeast(g.text, g.want, got, "")
		}
		if got, ok := ratio(g.kind, lockstep, twin); ok {
			res.AtLeast(g.text+"'s figure where a second guest uses the same processors", g.want, got, "")
		}
		theirs, ok1 := ratio(g.kind, peer, native)
		ours, ok2 := ratio(g.kind, lockstep, native)
		if ok1 && ok2 && theirs > 0 {
			res.AtLeast(g.text[:len(g.text)-len(", of native")]+", of QEMU's COLO", 1, ours/theirs, "times")
		}
	}
	for _, g := range []struct {
		system string
		want   float64
	}{{bound5, 10}, {bound30, 2}} {
		if f, ok := res.Find(boundCase, g.system, "periods beyond the bound"); ok {
			res.AtMost("epochs beyond the bound, "+g.system, g.want, f.Median, "%")
		}
	}
	for _, p := range phases {
		if f, ok := res.Find(changingCase, adaptive, p.name+", to the better fixed mode"); ok {
			res.AtLeast("adaptive under a changing load, "+p.name+", of the better fixed mode", 0.85, f.Median, "")
		}
	}
	if f, ok := res.Find(changingCase, adaptive, "changes of mode"); ok {
		// Two are needed, two more are forgiven.
		res.AtMost("adaptive under a changing load, changes of mode", 4, f.Median, "")
	}
}

func (r *run) how() []string {
	return []string{
		"A real guest (Linux of Debian, 256 MiB, one vCPU, " + r.accel + ") with real servers, in a network namespace per host, started anew for each system and " +
			"round. **native** is the guest alone on the bridge, QEMU without colod. **two natives** are two of them at once, each under the same load of a client of " +
			"its own: what a second guest on the same processors costs, protection or not; figures are the mean of both. **colod** in its modes. **QEMU COLO** is QEMU's " +
			"own: filter-mirror, filter-redirector and colo-compare on the primary, redirectors and filter-rewriter on the secondary, TCP between the nodes for the filters, a " +
			"unix socket for the state, QEMU's own period of checkpoints (20 s). All have the same image and command line, and the systems take turns. " +
			"colod makes the main loop of its guests one that does not preempt (SCHED_BATCH, docs/decisions/0011); the others run as QEMU starts.",
		fmt.Sprintf("Each load lasts %s. ping is one request every 10 ms. wget is one HTTP download without an end, by a client of our own. scp is the real program. http-open "+
			"sends %d requests a second by a schedule and counts each latency from the moment at which the request was due. compile is the real compiler tcc in the guest, "+
			"one process a file, asked for over HTTP. mix are short jobs in the guest in the manner of UnixBench, each bound by one thing; its index is their geometric mean.", r.each, r.rate),
		"epochs: the period, from one checkpoint's release to the next one's, is the longest time that a frame of the guest can wait in that epoch, and what the bound is " +
			"held against, under all loads together and under each: ping leaves the processors to the pair, http-open uses a part of them, redis all; the longest wait of a frame is what one did wait. All epochs of a system's turns are counted, from colod's own records; buffer, request, transfer, load " +
			"and release are the parts of the wait of the oldest output (transfer and load: the guest stands still). Where a checkpoint alone, from request to release, takes longer than " +
			"the bound, no interval keeps it.",
		fmt.Sprintf("changing: %s each of static replies, of replies that differ in every answer and between the guests, and of static replies again, 16 connections; lock-step, "+
			"epochs of 25 ms, and adaptive, behind the other loads of the first %d rounds. A change of mode is what colod's status and log call one: a trial of lock-step that fails within some "+
			"checkpoints is none, but its cost is in the rates.", 5*r.each, changingRounds),
	}
}

// stood is in how many rounds a system did next to nothing under a load that it did carry in another.
func (r *run) stood(system, kind string) (n int) {
	k, ok := load.Find(kind)
	if !ok {
		return 0
	}
	var all []float64
	for _, o := range r.samples[kind][system] {
		if o != nil {
			all = append(all, throughput(k, o))
		}
	}
	for _, v := range all {
		if v < slices.Max(all)/100 {
			n++
		}
	}
	return n
}

func (r *run) limits() []string {
	l := []string{
		"Both guests, both daemons and the client share the processors of one machine: a guest that is emulated (tcg) or that computes takes from its twin what two hosts would have " +
			"twice. The ratio to *two natives* leaves that out; it also has two clients, so it errs in favour of the protected systems.",
		"The network between the hosts is memory: it has no delay and no limit.",
		"Neither a C compiler of the size of gcc nor the original UnixBench runs in the guest; the ratios say what kinds of work cost, not what a certain program costs.",
	}
	for _, kind := range loads {
		if n, all := r.stood(peer, kind), len(r.samples[kind][peer]); n > 0 {
			l = append(l, fmt.Sprintf("%s stood still under %s in %d of %d rounds (below a hundredth of its best): ratios to it say that much, not more.", peer, kind, n, all))
		}
	}
	if len(r.failed) > 0 {
		l = append(l, fmt.Sprintf("%d measurements failed and count as a throughput of 0:", len(r.failed)))
		l = append(l, r.failed...)
	}
	return l
}
