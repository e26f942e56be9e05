package checkpoint

import (
	"fmt"

	"colod/bench/report"
)

// line is the least-squares line y = a + b x through the points, and its r²; ok is false with fewer than two different x.
func line(x, y []float64) (a, b, r2 float64, ok bool) {
	n := float64(len(x))
	var sx, sy, sxx, sxy, syy float64
	for i := range x {
		sx, sy, sxx, sxy, syy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i], syy+y[i]*y[i]
	}
	vx, vy, cov := n*sxx-sx*sx, n*syy-sy*sy, n*sxy-sx*sy
	if n < 2 || vx <= 1e-9 {
		return 0, 0, 0, false
	}
	b, r2 = cov/vx, 1
	if vy > 1e-12 {
		r2 = cov * cov / (vx * vy)
	}
	return (sy - b*sx) / n, b, r2, true
}

// conclude adds the curves, the lines through the points, and the goals.
func conclude(res *report.Result, done []int, idle map[string][]float64) {
	stop := report.Curve{
		Name: "checkpoint-stop", Title: "How long a checkpoint keeps the guest standing",
		X: report.Axis{Label: "changed memory, MiB"}, Y: report.Axis{Label: "ms, median"},
	}
	for _, ch := range channels {
		var x, y []float64
		var points []report.Point
		for _, d := range done {
			if f, ok := res.Find(caseName(d), ch.name, stopMedian); ok {
				points = append(points, report.PointOf(float64(d), f.Rounds))
				for _, v := range f.Rounds {
					x, y = append(x, float64(d)), append(y, v)
				}
			}
		}
		if len(points) > 0 {
			stop.Series = append(stop.Series, report.Series{Name: ch.name, Points: points})
		}
		if a, b, r2, ok := line(x, y); ok {
			res.How = append(res.How, fmt.Sprintf("%s: stop time = %.2f ms + %.3f ms for each MiB changed (least squares over all rounds, r² %.4f): %.0f MiB/s.",
				ch.name, a, b, r2, 1000/b))
			if ch.name == plain {
				res.AtLeast("stop time grows linearly with dirty memory: r² of the line, "+ch.name, 0.98, r2, "")
			}
		}
	}
	if len(done) > 1 {
		res.Curves = append(res.Curves, stop)
	}
	if len(idle) > 0 {
		c := report.Curve{
			Name: "checkpoint-idle", Title: "Stop times of an idle guest's checkpoints", X: report.Axis{Label: "ms", Log: true}, Y: report.Axis{Label: "% not longer"},
		}
		for _, ch := range channels {
			if len(idle[ch.name]) > 0 {
				c.Series = append(c.Series, report.Distribution(ch.name, idle[ch.name]))
			}
		}
		res.Curves = append(res.Curves, c)
	}
	for _, name := range []string{plain, secured} {
		if f, ok := res.Find(caseName(0), name, stopMedian); ok {
			res.AtMost("stop time of an idle guest, median, "+name, 3.5, f.Median, "ms")
		}
	}
}

var how = []string{
	"A Linux guest of 256 MiB with one vCPU, a virtio-net card and idle servers boots on node a; a program in it writes one word to every page of the given amount of " +
		"memory, again and again with rests of 20 ms, and checks each. It is protected over one channel after another, the secondary made anew each time, and takes " +
		"checkpoints at intervals longer than such a pass. *Stop time* is from STOP to RESUME of the primary, by QEMU's stamps. *QEMU, unix socket* is the least that " +
		"QEMU's COLO can do on one machine; *QEMU, TCP* is its own channel between the nodes' network namespaces; colod's relays use the same wire. *Transfer* is from the " +
		"secondary's word that it has stopped until it has all of the state, *load* from there until it runs, both as the primary's relay sees them.",
}

var limits = []string{
	"Both nodes share this machine's CPUs and memory bandwidth: what the two QEMUs could do side by side on two hosts, they do in turns. A real link adds a round trip to each " +
		"checkpoint and the time that its bandwidth needs.",
	"Without KVM the vCPU is emulated: stopping it and writing to a clean page cost more than in hardware.",
	"QEMU tells nothing of a checkpoint's bytes, so state and transfer are known of colod's channels only; the stream is the same.",
}
