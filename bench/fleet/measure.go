package fleet

import (
	"slices"
	"time"

	"colod/bench/report"
	"colod/coordinator/pair"
)

// measures are what is counted since the last reset.
type measures struct {
	unprotected   int // pairs; survives a reset
	gone          int // pairs that no node holds any more; survives a reset
	lastProtected time.Duration
	hit           int       // pairs whose speaker was lost
	silences      []float64 // s, of those that are heard again
	events        int       // taken by machines
	refused       int       // secondaries that a node had no room for
	failed        int       // synchronisations that did not end in protection
	noNode        int       // choices without a node that fits

	reads, unknown, unanswered int
	writes                     []write

	choices   int
	choosing  time.Duration
	measuring bool
}

// write is a swap that was answered.
type write struct {
	at   time.Duration // simulated
	took time.Duration // measured
}

func (x *measures) write(issued, took time.Duration, o pair.Outcome) {
	switch o {
	case pair.SwapUnknown:
		x.unknown++
	case pair.SwapFailed:
		x.unanswered++
	}
	x.writes = append(x.writes, write{issued + took, took})
}

func (x *measures) chose(took time.Duration, _ int) {
	x.choices++
	x.choosing += took
}

func (x *measures) reset() {
	*x = measures{unprotected: x.unprotected, gone: x.gone, measuring: true}
}

// Summary is what a fault has brought about, until all pairs that can be protected are protected again.
type Summary struct {
	Hosts, Hit, Gone int // nodes lost; pairs whose speaker was lost; pairs that were lost with both their nodes

	Until                 float64 // s until all are protected again; simulated, with etcd's latency in it
	Writes, Reads         int
	PerSecond, Peak       float64 // writes in 1 s
	WriteP50, WriteP99    float64 // ms, measured
	Unknown               int     // writes of unknown outcome, and those that failed
	Silence50, Silence99  float64 // s in which nobody spoke for a pair whose speaker was lost
	SilenceMost           float64
	Refused, Failed       int
	Hottest               int     // secondaries begun on one node, the most
	Mean                  float64 // and of all nodes
	Speakers              int     // of guests on one node at the end, the most
	Memory                float64 // %, of the node whose memory was used the most
	Unprotected           int     // at the end
	Choice                float64 // us for one choice of a node, measured
	Events                int
	Two, None             int // pairs with two speakers, with none, at the end
	Wrong                 int // pairs whose record does not name the nodes that hold them
	TakenWall, SinceFault float64
	Chosen                int
}

func (w *world) summary(began time.Duration) Summary {
	x := &w.m
	s := Summary{Hit: x.hit, Gone: x.gone, Until: (x.lastProtected - began).Seconds(), Writes: len(x.writes), Reads: x.reads, Unknown: x.unknown + x.unanswered,
		Refused: x.refused, Failed: x.failed, Unprotected: x.unprotected, Events: x.events, Chosen: x.choices}
	if x.unprotected > 0 {
		s.Until = (w.now - began).Seconds()
	}
	var took []float64
	bySecond := map[int]int{}
	for _, a := range x.writes {
		took = append(took, a.took.Seconds()*1e3)
		k := int((a.at - began) / time.Second)
		bySecond[k]++
		s.Peak = max(s.Peak, float64(bySecond[k]))
	}
	s.PerSecond = float64(s.Writes) / max(s.Until, 1e-3)
	s.WriteP50, s.WriteP99 = report.Percentile(took, 50), report.Percentile(took, 99)
	s.Silence50, s.Silence99 = report.Percentile(x.silences, 50), report.Percentile(x.silences, 99)
	if len(x.silences) > 0 {
		s.SilenceMost = slices.Max(x.silences)
	}
	up, moved := 0, 0
	speakers := map[*host]int{}
	for _, g := range w.all {
		n := 0
		for _, m := range g.members {
			if m.on.up && m.alive() && m.m.Role() == pair.Speaker {
				speakers[m.on]++
				n++
			}
		}
		switch {
		case n > 1:
			s.Two++
		case n == 0 && !g.gone:
			s.None++
		}
	}
	for _, h := range w.host {
		if !h.up {
			s.Hosts++
			continue
		}
		up++
		moved += h.moved
		s.Hottest = max(s.Hottest, h.moved)
		s.Speakers = max(s.Speakers, speakers[h])
		s.Memory = max(s.Memory, 100*float64(h.most)/hostMemory)
	}
	s.Mean = float64(moved) / float64(max(up, 1))
	if x.choices > 0 {
		s.Choice = x.choosing.Seconds() * 1e6 / float64(x.choices)
	}
	return s
}
