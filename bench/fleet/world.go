// Package fleet runs many nodes and pairs in one process: the real state machines (coordinator/pair), the real choice of
// a node (coordinator/placement) and a real etcd through colod's own arbiter (coordinator/arbiter/etcd), with guests,
// links and data paths in simulated time.
//
// Two clocks meet in it. While nothing is asked of etcd, simulated time jumps from one event to the next. While anything
// is, it runs no faster than the wall's clock, and an answer comes as much later as etcd took to give it: what the nodes
// ask at once is asked of etcd at once, and what etcd takes is what the machines wait.
package fleet

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
)

// Config of a fleet. All must be set.
type Config struct {
	Nodes, Rack int // nodes in all, and in one rack, which is their failure domain
	Pairs       int
	Seed        uint64
	// Choose picks the node of a secondary: placement.Choose, or another policy to compare it with.
	Choose func(placement.Needs, []placement.Facts) (node, reason string, refused map[string]string)
	// Reserve: a node counts what it has promised to secondaries that are being made, as colod does.
	Reserve bool
	// Arbiters keep the records; nodes are spread over them.
	Arbiters []Arbiter
	// Limit of one question to the arbiter; 0 = colod's own, 3 s.
	Limit time.Duration
}

// What the simulated hosts are like.
const (
	guestMemory = 1 << 30   // bytes
	hostMemory  = 128 << 30 // bytes
	hostCPUs    = 64
	launches    = 8             // VMs that a host starts side by side
	copyRate    = 1_100_000_000 // bytes/s of guests' state to and from a host: 10 Gbit/s without headers
	maxGuests   = 100           // pairs that a spare node takes which do not list it, as in colod
	arbLimit    = 3             // s, of one question to the arbiter, colod's default
	factsEvery  = 10            // s between what a node tells of itself, as in colod
	restWait    = 60            // s after which a spare node forgets a pair that it has nothing to do with, as in colod
	beat        = 50e6          // ns, heartbeat
	lost        = 250e6         // ns of silence after which a node is lost
	specBytes   = 900           // of a pair's description
	us          = 1e3           // ns
	ms          = 1e6           // ns
	second      = 1e9           // ns
	staleResult = 1 << 16       // answers of etcd that may wait
)

type task struct {
	at  time.Duration
	seq uint64
	fn  func()
}

type queue []task

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(task)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = task{}
	*q = old[:len(old)-1]
	return x
}

// answer of the arbiter.
type answer struct {
	issued time.Duration // simulated
	took   time.Duration // measured
	then   func()
}

// world is the fleet.
type world struct {
	cfg  Config
	ctx  context.Context
	rnd  *rand.Rand
	now  time.Duration // since the start
	seq  uint64
	q    queue
	host []*host
	name map[string]*host
	all  []*guest

	answers chan answer
	under   int // questions under way
	base    time.Duration
	wall    time.Time // base on the wall's clock, while under > 0

	boots uint64
	m     measures
	fault string // what must never happen, and did
	late  bool   // a step took too long

	started int // pairs
}

func newWorld(ctx context.Context, cfg Config) *world {
	w := &world{cfg: cfg, ctx: ctx, rnd: rand.New(rand.NewPCG(cfg.Seed, 77)), name: map[string]*host{}, answers: make(chan answer, staleResult)}
	for i := range cfg.Nodes {
		h := &host{w: w, i: i, name: fmt.Sprintf("node%04d", i), rack: i / cfg.Rack, up: true, members: map[string]*member{}, arb: cfg.Arbiters[i%len(cfg.Arbiters)],
			launching: make([]time.Duration, launches)}
		w.host = append(w.host, h)
		w.name[h.name] = h
		w.after(w.delay(0, factsEvery*second), h.tell)
	}
	w.m.unprotected = cfg.Pairs
	for i := range cfg.Pairs {
		w.all = append(w.all, w.newGuest(i))
	}
	return w
}

func (w *world) after(d time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.q, task{w.now + max(d, 0), w.seq, fn})
}

func (w *world) delay(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rnd.Int64N(int64(hi-lo)+1))
}

// ask asks the arbiter: do runs on a goroutine of its own and returns what is done with the answer in simulated time.
func (w *world) ask(do func(context.Context) func()) {
	if w.under == 0 {
		w.base, w.wall = w.now, time.Now()
	}
	w.under++
	issued := w.now
	go func() {
		ctx, cancel := context.WithTimeout(w.ctx, cmp.Or(w.cfg.Limit, arbLimit*time.Second))
		defer cancel()
		began := time.Now()
		then := do(ctx)
		w.answers <- answer{issued, time.Since(began), then}
	}()
}

func (w *world) take(a answer) {
	w.under--
	w.seq++
	heap.Push(&w.q, task{max(w.now, a.issued+a.took), w.seq, a.then})
}

// run lets time pass until it is end, or until reports true. It reports whether that was the case.
func (w *world) run(end time.Duration, until func() bool) bool {
	began := time.Now()
	for w.ctx.Err() == nil && w.fault == "" {
		if until() {
			return true
		}
		if w.late = time.Since(began) > wallLimit; w.late {
			return false
		}
		for more := true; more; {
			select {
			case a := <-w.answers:
				w.take(a)
			default:
				more = false
			}
		}
		next := end
		if len(w.q) > 0 {
			next = min(end, w.q[0].at)
		}
		if w.under > 0 {
			if wait := (next - w.base) - time.Since(w.wall); wait > 0 {
				t := time.NewTimer(wait)
				select {
				case a := <-w.answers:
					w.take(a)
					t.Stop()
					continue // it may be the next event
				case <-t.C:
				case <-w.ctx.Done():
				}
				t.Stop()
			}
		}
		if len(w.q) == 0 || w.q[0].at > end {
			w.now = max(w.now, end)
			return until()
		}
		t := heap.Pop(&w.q).(task)
		w.now = max(w.now, t.at)
		t.fn()
	}
	return false
}

// drain waits for what is still asked of the arbiter, so that nothing of it outlives the fleet.
func (w *world) drain() {
	for ; w.under > 0; w.under-- {
		<-w.answers
	}
}

// fail notes what must never happen.
func (w *world) fail(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf("at %.3f s: ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	}
}

// guest is a pair with all nodes that have to do with it.
type guest struct {
	w       *world
	name    string
	listed  []*host
	members []*member

	protected bool
	silent    time.Duration // since when nobody speaks; -1 = somebody does
	gone      bool          // no node holds it any more
	counted   bool          // its interruption was counted
}

// newGuest makes pair i: its speakers and secondaries lie evenly on the nodes, the two in different racks.
func (w *world) newGuest(i int) *guest {
	a := w.host[i%w.cfg.Nodes]
	b := a
	for b.rack == a.rack {
		b = w.host[w.rnd.IntN(w.cfg.Nodes)]
	}
	return &guest{w: w, name: fmt.Sprintf("g%05d", i), listed: []*host{a, b}, silent: -1}
}

func (g *guest) needs(on *host, last []string) placement.Needs {
	n := placement.Needs{Pair: g.name, Memory: guestMemory, SMP: 2, Domain: on.domain(), Last: last}
	for _, h := range g.listed {
		n.Listed = append(n.Listed, h.name)
	}
	return n
}

// update looks at the pair anew after one of its members has done something.
func (g *guest) update() {
	w := g.w
	alone, heard := 0, 0
	var speaker, second *member
	for _, m := range g.members {
		if !m.on.up || !m.alive() {
			continue
		}
		if m.path == pathSolo || m.path == pathPrimary {
			alone++
			heard++
		}
		if m.path == pathArmed {
			heard++
		}
		if s := m.m.State(); s == pair.Protected || s == pair.Checkpointing {
			switch m.m.Role() {
			case pair.Speaker:
				speaker = m
			case pair.Secondary:
				second = m
			}
		}
	}
	if alone > 1 {
		var who string
		for _, m := range g.members {
			who += fmt.Sprintf("; %s %s %s path %d, vm %v, record %v", m.on.name, m.m.State(), m.m.Role(), m.path, m.alive(), m.m.Record())
		}
		w.fail("two nodes may speak alone for %s%s", g.name, who)
	}
	protected := speaker != nil && second != nil && speaker.m.Session() == second.m.Session()
	if protected && g.gone { // its node started it anew
		g.gone = false
		w.m.gone--
		w.m.unprotected++
	}
	if protected != g.protected {
		g.protected = protected
		if protected {
			w.m.unprotected--
			w.m.lastProtected = w.now
			w.after(0, w.startNext)
		} else {
			w.m.unprotected++
		}
	}
	switch {
	case heard == 0 && g.silent < 0:
		g.silent = w.now
	case heard > 0 && g.silent >= 0:
		if w.m.measuring && g.counted {
			w.m.silences = append(w.m.silences, (w.now - g.silent).Seconds())
		}
		g.silent, g.counted = -1, false
	}
}
