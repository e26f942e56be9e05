package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Durations, ns.
const (
	us  = int64(1e3)
	ms  = int64(1e6)
	sec = int64(1e9)
)

const maxNodes = 3

// Options choose what is simulated beside the seed.
type Options struct {
	// Mutation is a deliberate fault that the checks have to find.
	Mutation Mutation
	// Busy lets clients ask all the time.
	Busy bool
	// Clocks sets a node's wall clock each time right after its VM goes on after a checkpoint.
	Clocks bool
	// Trace keeps the story; Verbose keeps the frames too.
	Trace, Verbose bool
	// Skip leaves out the faults whose bit is set (the first fault is bit 0): for finding those that matter.
	Skip uint64
}

// Result is the outcome of one story.
type Result struct {
	Seed    uint64
	Failed  string // what was violated, "" if nothing
	Kind    string // of the violation
	Virtual int64  // ns
	Faults  int    // how many there were
	Trace   []string
	Stats   Stats
}

// Stats count over one story, or many.
type Stats struct {
	Steps, Events, Frames, Answers, Flows, Divergences, Checkpoints, Takeovers, Lost, Torn, PAWS uint64
	Faults                                                                                       uint64
}

// Add adds b.
func (s *Stats) Add(b *Stats) {
	s.Steps += b.Steps
	s.Events += b.Events
	s.Frames += b.Frames
	s.Answers += b.Answers
	s.Flows += b.Flows
	s.Divergences += b.Divergences
	s.Checkpoints += b.Checkpoints
	s.Takeovers += b.Takeovers
	s.Lost += b.Lost
	s.Torn += b.Torn
	s.PAWS += b.PAWS
	s.Faults += b.Faults
}

type counters struct {
	steps, events, released, answers, flows, divergences, checkpoints, takeovers, lost, torn, paws uint64
}

// world is all that there is in one story.
type world struct {
	opt    Options
	seed   uint64
	rng    *rand.Rand
	pcg    *rand.PCG
	now    int64
	q      queue
	mem    arena
	plan   plan
	nodes  []*node
	arb    arbiterModel
	cut    [maxNodes][maxNodes]bool // what i sends does not reach j
	conns  [maxNodes][maxNodes]*ctl // connections, i < j
	faults bool                     // operations may fail by themselves
	quiet  bool                     // clients begin nothing new

	clients     []*client
	flows       map[uint16]*flow
	port        uint16
	grams       []uint8 // how often each datagram was asked
	lanAt       *node   // where the switch saw the guest last
	incarnation int     // of the guest that is served

	tracing, verbose bool
	trace            []string
	stats            counters
	nfaults          int
	mendedAt         int64 // when the last fault mends itself
	clockSet         bool  // a wall clock was set
	forced           bool  // somebody let a node speak without the record
	pausedOnPurpose  bool  // somebody stopped the guest
	endedOnPurpose   bool  // somebody ended or reset the guest
	failed           *failure
	moves            map[[2]uint8]int
}

type failure struct{ kind, text string }

// fail ends the story.
func (w *world) fail(kind, format string, a ...any) {
	if w.failed == nil {
		w.failed = &failure{kind, fmt.Sprintf(format, a...)}
		if w.tracing {
			w.logf("VIOLATED (%s): %s", kind, w.failed.text)
		}
	}
}

func (w *world) logf(format string, a ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%11.6f ", float64(w.now)/1e9)+fmt.Sprintf(format, a...))
}

// after does fn d ns from now.
func (w *world) after(d int64, fn func()) { w.q.push(w.now+d, fn) }

// rnd is a number below n.
func (w *world) rnd(n int) int { return int(w.rng.Uint32N(uint32(n))) }

// between is a duration from lo to hi.
func (w *world) between(lo, hi int64) int64 { return lo + w.rng.Int64N(hi-lo+1) }

// chance is true once in n while faults are on.
func (w *world) chance(n int) bool { return w.faults && w.rnd(n) == 0 }

func (w *world) byName(name string) *node {
	if len(name) != 1 || int(name[0]-'a') >= len(w.nodes) {
		return nil
	}
	return w.nodes[name[0]-'a']
}

// run lets time pass until end, or until stop says so.
func (w *world) run(end int64, stop func() bool) bool {
	for len(w.q.t) > 0 && w.q.t[0].at <= end {
		t := w.q.pop()
		w.now = t.at
		w.stats.events++
		t.fn()
		if w.failed != nil {
			return false
		}
		if stop != nil && stop() {
			return true
		}
	}
	w.now = max(w.now, end)
	return false
}

// Runner runs stories one after the other, and uses its memory again.
type Runner struct{ w world }

// NewRunner makes a Runner.
func NewRunner() *Runner {
	r := &Runner{}
	r.w.pcg = rand.NewPCG(0, 0)
	r.w.rng = rand.New(r.w.pcg)
	return r
}

// Run tells the story of a seed.
func (r *Runner) Run(seed uint64, opt Options) Result {
	w := &r.w
	tasks, slabs, moves := w.q.t, w.mem.slabs, w.moves
	clear(tasks[:cap(tasks)])
	if moves == nil {
		moves = make(map[[2]uint8]int)
	}
	*w = world{opt: opt, seed: seed, rng: w.rng, pcg: w.pcg, moves: moves, tracing: opt.Trace, verbose: opt.Verbose,
		flows: make(map[uint16]*flow), port: 40000, grams: make([]uint8, 1)}
	w.q.t, w.mem.slabs = tasks[:0], slabs
	w.pcg.Seed(seed, 0x9e3779b97f4a7c15)
	w.tell()
	res := Result{Seed: seed, Virtual: w.now, Faults: w.nfaults, Trace: w.trace}
	if w.failed != nil {
		res.Failed, res.Kind = w.failed.text, w.failed.kind
	}
	c := &w.stats
	res.Stats = Stats{Steps: c.steps, Events: c.events, Frames: c.released, Answers: c.answers, Flows: c.flows, Divergences: c.divergences,
		Checkpoints: c.checkpoints, Takeovers: c.takeovers, Lost: c.lost, Torn: c.torn, PAWS: c.paws, Faults: uint64(w.nfaults)}
	return res
}

// Moves are how often each transition of the pair machine was taken, by all stories of r.
func (r *Runner) Moves() map[[2]uint8]int { return r.w.moves }

// Story is the trace as text, its last lines if there are more than limit.
func (r *Result) Story(limit int) string {
	t := r.Trace
	if len(t) > limit {
		t = t[len(t)-limit:]
	}
	return strings.Join(t, "\n")
}
