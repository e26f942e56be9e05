// Package link measures what the link between the two data paths carries, per byte of the guest's output.
package link

import (
	"context"
	"slices"
	"time"

	"colod/bench/datapath"
	"colod/bench/load"
	"colod/bench/report"
	"colod/bench/rig"
)

// Options of a run.
type Options struct {
	Rounds int
	Each   time.Duration
	Only   string
	Log    func(format string, args ...any)
}

const (
	computed = "QEMU's filters (computed)"
	ours     = "colod"
	perOut   = "back, per byte of output"
)

// loads are those to run: all but the ones on a slower line, which make the same bytes, later.
func loads(only string) []load.Kind {
	return slices.DeleteFunc(datapath.Loads(only), func(k load.Kind) bool { return k.Line > 0 })
}

// Cases are the names of the loads.
func Cases() []string {
	var names []string
	for _, k := range loads("") {
		names = append(names, k.Name)
	}
	return names
}

// Run measures all loads in lock-step.
func Run(ctx context.Context, o Options) (*report.Result, error) {
	res := &report.Result{Name: "link", Title: "Bytes on the link between the nodes", Rounds: o.Rounds, How: how, Limits: limits}
	err := rig.Run(ctx, "link", o.Log, func(t *rig.TB) {
		p := datapath.New(t, datapath.Options{})
		p.Enter(datapath.LockStep)
		for _, k := range loads(o.Only) {
			sh := report.NewSheet(k.Name+": "+k.About, computed, ours)
			for round, void := 0, 0; round < o.Rounds; {
				s, err := p.Load(k.Name, o.Each)
				if err != nil {
					if void++; void > 3 || t.Context().Err() != nil {
						t.Fatalf("%v", err)
					}
					o.Log("link %-10s void: %v", k.Name, err)
					p.Enter(datapath.LockStep)
					continue
				}
				round++
				a := &s.StatsA
				out, in := float64(a.ReleasedBytes), float64(a.MirroredBytes)
				frames := float64(a.ReleasedFrames)
				add := func(figure string, theirs, mine float64) {
					sh.Add(computed, figure, "%", "less", 100*theirs)
					sh.Add(ours, figure, "%", "less", 100*mine)
				}
				// Each frame of the secondary, and each of the client, with 8 bytes of framing.
				back, there := out+8*frames, in+8*float64(a.Mirrored)
				add(perOut, back/out, float64(a.LinkIn)/out)
				add("there, per byte of output", there/out, float64(a.LinkOut)/out)
				add("both, per byte of input and output", (back+there)/(in+out), float64(a.LinkIn+a.LinkOut)/(in+out))
				sh.Add(ours, "both on the wire, with TLS, TCP and IP, per byte of input and output", "%", "less", 100*float64(s.LinkWire)/(in+out))
				sh.Add(ours, "back, per frame of output", "bytes", "less", float64(a.LinkIn)/frames)
				sh.Add(ours, "there beyond the frames, per frame of input", "bytes", "less", (float64(a.LinkOut)-in)/float64(max(a.Mirrored, 1)))
				sh.Add(ours, "output", "MB/s", "", out/s.Seconds/1e6)
				o.Log("link %-10s round %d/%d back %.3f %% of %.1f MB of output (%.0f bytes a frame), there %.2f %%, on the wire %.2f %% of input and output", k.Name, round,
					o.Rounds, 100*float64(a.LinkIn)/out, out/1e6, float64(a.LinkIn)/frames, 100*float64(a.LinkOut)/out, 100*float64(s.LinkWire)/(in+out))
			}
			res.Cases = append(res.Cases, sh.Case())
		}
	})
	if err != nil {
		return nil, err
	}
	for _, c := range res.Cases {
		if len(c.Name) > 5 && c.Name[:5] == "down:" {
			if f, ok := res.Find(c.Name, ours, perOut); ok {
				res.AtMost("bulk download: bytes from the secondary to the primary per byte of output", 2, f.Median, "%")
			}
		}
	}
	return res, nil
}

var how = []string{
	"The data path's topology in lock-step. *back* is from the secondary's node to the primary's: descriptors in place of output. *there* is the other " +
		"way: mirrored input, announcements, questions, watermarks. Before encryption, unless said otherwise; the wire's bytes are those of the link's device. QEMU's " +
		"filter chain sends every frame of both directions; its figure is computed from the same frames with its framing of 8 bytes.",
}

var limits = []string{"The device's counter counts headers once per super-frame, as sent to the device: with 1,500-byte frames on a wire 66 bytes come on top for each 1,448."}
