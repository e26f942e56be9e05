// Package failover measures how long clients hear nothing when the machine that they talk to is lost, beside QEMU's own COLO
// with its filter chain and the same detection.
package failover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"colod/bench/report"
	"colod/bench/rig"
	"colod/bench/vmlab"
	"colod/internal/lab"
	"colod/internal/lab/client"
)

// Benchmark is this one.
var Benchmark = rig.Benchmark{
	Name: "failover", What: "client-seen pause at the loss of the virtual machine and of its node", Peer: "QEMU's own COLO with the same detection",
	Cases: func() []string { return []string{lossVM, lossNode} },
	Run: func(ctx context.Context, o rig.Options) ([]*report.Result, error) {
		r, err := Run(ctx, o)
		return []*report.Result{r}, err
	},
}

// What is lost, and the systems.
const (
	lossVM   = "vm"
	lossNode = "node"

	peer  = "QEMU COLO"
	colod = "colod"
)

// Clients: two streams, datagrams, and a server's own protocol. Each waits for an answer nearly all the time.
func clients() []client.Load {
	return []client.Load{
		{Kind: client.Echo, Name: "echo", Rate: 60 << 10},
		{Kind: client.Redis, Name: "redis", Rate: 200},
		{Kind: client.UDPEcho, Name: "udp", Rate: 200},
	}
}

var kinds = []struct{ client, figure string }{{"echo", "TCP echo"}, {"redis", "redis"}, {"udp", "UDP echo"}}

// patience is how long a client may hear nothing before it counts as lost.
const patience = 20 * time.Second

// settle is when what was on its way at the loss has arrived: what a client hears later comes from the survivor.
const settle = 150 * time.Millisecond

// pauses are what one system's clients saw at one kind of loss, over all runs.
type pauses struct {
	runs   int                  // in which there was a loss under the eyes of clients
	failed int                  // runs that failed for another reason than a client's
	silent map[string][]float64 // ms, the longest wait for an answer around the loss, by client
	lost   map[string]int       // clients whose connection broke or never heard anything again, or lost or got wrong bytes
	first  string               // the first of these, in words
}

func newPauses() *pauses { return &pauses{silent: map[string][]float64{}, lost: map[string]int{}} }

// Run measures.
func Run(ctx context.Context, o rig.Options) (*report.Result, error) {
	n := o.RoundsOr(50, 2)
	res := &report.Result{Name: "failover", Title: "Client-seen pause at a loss", Rounds: n, Limits: limits}
	all := map[string]map[string]*pauses{}
	var accel string
	err := rig.Run(ctx, "failover", o.Log, func(t *rig.TB) {
		t.Must(vmlab.Sweep(ctx, o.Log))
		program := vmlab.Program(t)
		losses := slices.DeleteFunc([]string{lossVM, lossNode}, func(k string) bool { return !o.Wants(k) })
		ours, err := startColod(t, program)
		t.Must(err)
		theirs, err := startPeer(t, program)
		t.Must(err)
		accel, _ = ours.lab.Accel()
		for _, loss := range losses {
			all[loss] = map[string]*pauses{peer: newPauses(), colod: newPauses()}
			// In turns, so that the machine's moods are the same for both.
			for i := range n {
				if peers := peerRuns(n); i*peers/n != (i+1)*peers/n {
					p := all[loss][peer]
					if err := theirs.lose(t.Context(), loss, p); err != nil {
						if t.Context().Err() != nil {
							t.Fatalf("%v", err)
						}
						// QEMU's COLO may fail by itself: its clients are lost, and the run goes on.
						err = fmt.Errorf("%s, loss of %s, run %d: %w", peer, loss, p.runs+p.failed+1, err)
						o.Log("failover FAILED: %v", err)
						p.fail(err)
					}
					o.Log("failover %-4s %d/%d %-9s %s", loss, i+1, n, peer, p.line())
				}
				p := all[loss][colod]
				if err := ours.lose(t.Context(), loss, p); err != nil {
					if t.Context().Err() != nil {
						t.Fatalf("%v", err)
					}
					// A failed run misses a goal; the others' figures stay, on a pair of which nothing is left to doubt.
					err = fmt.Errorf("%s, loss of %s, run %d: %w", colod, loss, i+1, err)
					o.Log("failover FAILED: %v", err)
					p.fail(err)
					t.Must(vmlab.Down(ours.lab))
					ours, err = startColod(t, program)
					t.Must(err)
				}
				o.Log("failover %-4s %d/%d %-9s %s", loss, i+1, n, colod, p.line())
			}
		}
	})
	if err != nil {
		return nil, err
	}
	res.How = how(accel)
	for _, loss := range []string{lossVM, lossNode} {
		if all[loss] != nil {
			table(res, loss, all[loss])
		}
	}
	return res, nil
}

// peerRuns is how many of n runs the peer takes part in: each starts a pair of its own, and its distribution is not the one asked for.
func peerRuns(n int) int { return max(min(n, 2), n*2/5) }

// fail counts a run in which the system did not get as far as the loss, or not over it.
func (p *pauses) fail(err error) {
	p.failed++
	if p.first == "" {
		p.first, _, _ = strings.Cut(err.Error(), "\n")
	}
}

// line is the last run in words.
func (p *pauses) line() string {
	var parts []string
	for _, k := range kinds {
		if v := p.silent[k.client]; len(v) > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f ms (median %.0f)", k.client, v[len(v)-1], report.Median(v)))
		}
		if n := p.lost[k.client]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s lost %d of %d", k.client, n, p.runs))
		}
	}
	return strings.Join(parts, ", ")
}

// watch runs clients, lets lose break the system, and notes what each client saw.
func (p *pauses) watch(ctx context.Context, l *lab.Lab, lose func() error) error {
	s, err := l.Client(ctx, clients())
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Await(time.Minute, func(r client.Report) bool { return r.Rounds > 3 }); err != nil {
		return err
	}
	time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // any moment between two checkpoints
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// From before the loss on, since making it takes a while: what a client waits for longest is the loss.
	if _, err := s.Mark(); err != nil {
		return err
	}
	if err := lose(); err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(settle)
	before, err := s.Report()
	if err != nil {
		return err
	}
	var now []client.Report
	for {
		if now, err = s.Report(); err != nil {
			return err
		}
		waiting := false
		for i, r := range now {
			waiting = waiting || r.Error == "" && r.Rounds == before[i].Rounds && r.Bytes == before[i].Bytes
		}
		if !waiting || time.Since(began) > patience || ctx.Err() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.runs++
	for i, r := range now {
		heard := r.Rounds > before[i].Rounds || r.Bytes > before[i].Bytes
		if r.Clean() && heard {
			p.silent[r.Name] = append(p.silent[r.Name], r.PauseMS)
			continue
		}
		p.lost[r.Name]++
		if p.first == "" {
			p.first = fmt.Sprintf("%s: heard again: %v, lost %d, repeated %d, wrong %d, %s", r.Name, heard, r.Lost, r.Repeated, r.Corrupt, r.Error)
		}
	}
	return nil
}

// table writes one kind of loss into the result.
func table(res *report.Result, loss string, by map[string]*pauses) {
	name := map[string]string{lossVM: "vm: the virtual machine is killed", lossNode: "node: the whole host falls silent"}[loss]
	sh := report.NewSheet(name, peer, colod)
	curve := report.Curve{Name: loss, Title: "Pause that a client sees, " + name, X: report.Axis{Label: "pause (ms)", Log: true}, Y: report.Axis{Label: "share of runs not above (%)"}}
	for _, s := range []string{peer, colod} {
		p := by[s]
		for _, k := range kinds {
			v := p.silent[k.client]
			if len(v) > 0 {
				sh.Add(s, k.figure+", p50", "ms", "less", report.Percentile(v, 50))
				sh.Add(s, k.figure+", p90", "ms", "less", report.Percentile(v, 90))
				sh.Add(s, k.figure+", p99", "ms", "less", report.Percentile(v, 99))
				sh.Add(s, k.figure+", longest", "ms", "less", slices.Max(v))
				curve.Series = append(curve.Series, report.Distribution(s+", "+k.figure, v))
			}
			sh.Add(s, k.figure+", connections lost", "%", "less", 100*float64(p.lost[k.client])/float64(max(p.runs, 1)))
		}
		sh.Add(s, "runs failed", "", "less", float64(p.failed))
		if p.first != "" {
			res.Limits = append(res.Limits, fmt.Sprintf("%s, loss of %s: the first failure: %s", s, loss, p.first))
		}
	}
	res.Cases = append(res.Cases, sh.Case())
	res.Curves = append(res.Curves, curve)
	res.AtMost("loss of "+loss+": runs of colod that failed", 0, float64(by[colod].failed), "")
	for _, k := range kinds {
		ours, theirs := by[colod].silent[k.client], by[peer].silent[k.client]
		if len(ours) > 0 && len(theirs) > 0 {
			res.AtMost("loss of "+loss+", "+k.figure+": median pause, of QEMU's COLO's", 1, report.Median(ours)/report.Median(theirs), "times")
		}
		res.AtMost("loss of "+loss+", "+k.figure+": connections lost with colod", 0, float64(by[colod].lost[k.client]), "")
	}
}

func how(accel string) []string {
	return []string{
		"A real guest (256 MiB, one vCPU, " + accel + ") on two hosts in network namespaces, in lock-step. Three clients that check every byte wait for answers nearly all " +
			"the time: TCP echo at 60 KiB/s, redis INCR 200 times a second, 200 datagrams a second. The pause is the longest time that a client waited for an answer over the connection that it had, from " +
			"just before the loss until it hears again. *vm*: QEMU gets SIGKILL. *node*: all processes of the host stop, its wires are cut, no goodbye leaves it.",
		fmt.Sprintf("QEMU's own COLO gets what it lacks, as quick as colod has it: its primary's death is seen by the same watch on the process; the loss of its node by heartbeats "+
			"every %s that are missing for %s, colod's own settings here. Then at once x-colo-lost-heartbeat, and the secondary's redirectors are removed, as its documentation says. The "+
			"two take turns, colod twice or three times and QEMU's once.", beatEvery, beatTimeout),
	}
}

var limits = []string{
	"A client's pause holds its own retransmission timer: what it had sent to a dead guest it sends again after 200 ms or more (RFC 6298), whoever answers.",
	"Nothing fences the primary of QEMU's COLO: after the loss of a node its secondary may go on beside a primary that lives. colod's pause holds the swap of the arbiter's record, " +
		"here in a directory on one machine.",
}
