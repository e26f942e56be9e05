package fleet

import (
	"fmt"
	"slices"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
)

// host is a node.
type host struct {
	w    *world
	i    int
	name string
	rack int
	arb  Arbiter

	up      bool
	members map[string]*member // by pair
	told    *placement.Facts   // what it said of itself last; nil: nothing yet
	guests  int                // pairs here that do not list it

	used, promised int64 // bytes: of guests' memory, and of secondaries that are being made
	running        int   // VMs
	most           int64 // bytes, the highest of used
	launching      []time.Duration
	copies         []*transfer

	moved int // secondaries that were begun here since the fault
}

func (h *host) domain() string { return fmt.Sprintf("rack%02d", h.rack) }

// facts are what the node knows of itself.
func (h *host) facts() placement.Facts {
	free := hostMemory - h.used
	if h.w.cfg.Reserve {
		free -= h.promised
	}
	return placement.Facts{Name: h.name, Domain: h.domain(), CPUCount: hostCPUs, MemTotal: hostMemory, MemFree: uint64(max(free, 0)), Pairs: h.running, Spare: true}
}

// tell says it to all others, again and again.
func (h *host) tell() {
	if !h.up {
		return
	}
	f := h.facts()
	h.told = &f
	h.w.after(factsEvery*second, h.tell)
}

// candidates are the nodes that h can choose from, as it knows them.
func (h *host) candidates(ready []string, only bool) []placement.Facts {
	var all []placement.Facts
	for _, name := range ready {
		if o := h.w.name[name]; o.told != nil {
			all = append(all, *o.told)
		} else {
			all = append(all, placement.Facts{Name: name, MemTotal: 1 << 62, MemFree: 1 << 62})
		}
	}
	if only {
		return all
	}
	if all == nil {
		all = make([]placement.Facts, 0, len(h.w.host))
	}
	for _, o := range h.w.host {
		if o != h && o.up && o.told != nil && !slices.Contains(ready, o.name) {
			all = append(all, *o.told)
		}
	}
	return all
}

// launch is when a VM that is launched now runs.
func (h *host) launch() time.Duration {
	i := 0
	for k, at := range h.launching {
		if at < h.launching[i] {
			i = k
		}
	}
	h.launching[i] = max(h.launching[i], h.w.now) + h.w.delay(150*ms, 400*ms)
	return h.launching[i]
}

// transfer is the copy of a guest's state from one host to another. All that go from or to a host share its link evenly;
// a copy is as fast as the busier end lets it be.
type transfer struct {
	ends  [2]*host
	left  float64 // bytes, as of since
	rate  float64 // bytes/s
	since time.Duration
	turn  int // of its schedule: an older one is void
	done  func()
}

// copyTo starts one; done is called at its end, also if a host is lost meanwhile.
func (h *host) copyTo(o *host, done func()) {
	t := &transfer{ends: [2]*host{h, o}, left: guestMemory, since: h.w.now, done: done}
	for _, e := range t.ends {
		e.copies = append(e.copies, t)
	}
	h.share()
	o.share()
}

// share gives the host's copies their rates anew.
func (h *host) share() {
	for _, t := range h.copies {
		t.pace()
	}
}

func (t *transfer) pace() {
	w := t.ends[0].w
	rate := copyRate / float64(max(len(t.ends[0].copies), len(t.ends[1].copies)))
	if rate == t.rate {
		return
	}
	t.left -= t.rate * (w.now - t.since).Seconds()
	t.rate, t.since = rate, w.now
	t.turn++
	turn := t.turn
	w.after(time.Duration(t.left/rate*second), func() {
		if t.turn != turn {
			return
		}
		t.turn = -1
		for _, e := range t.ends {
			e.copies = slices.DeleteFunc(e.copies, func(o *transfer) bool { return o == t })
		}
		for _, e := range t.ends {
			e.share()
		}
		t.done()
	})
}

// use books memory of a VM.
func (h *host) use(bytes int64) {
	h.used += bytes
	h.most = max(h.most, h.used)
}

// lose takes the power from hosts at once. Those that had to do with them notice when heartbeats stay away.
func (w *world) lose(hosts []*host) {
	dead := map[*host]bool{}
	for _, h := range hosts {
		h.up = false
		dead[h] = true
	}
	touched := map[*guest]bool{}
	tell := map[*host]map[*host]bool{} // who is told of whom
	for _, h := range hosts {
		for _, m := range h.members {
			touched[m.g] = true
			for _, o := range m.g.members {
				if o.on.up {
					if tell[o.on] == nil {
						tell[o.on] = map[*host]bool{}
					}
					tell[o.on][h] = true
				}
			}
		}
	}
	for _, h := range w.host { // in an order that does not depend on maps
		if tell[h] == nil {
			continue
		}
		for _, d := range hosts {
			if !tell[h][d] {
				continue
			}
			w.after(lost+w.delay(0, beat), func() {
				for _, m := range h.sorted() {
					if m.known[d.name] {
						m.step(pair.PeerDown{Peer: d.name, Reason: "no heartbeat"})
					}
				}
			})
		}
	}
	for _, g := range w.all {
		if !touched[g] {
			continue
		}
		held, spoke := false, false
		for _, m := range g.members {
			held = held || m.on.up && m.vm != nil && m.vm.copied
			spoke = spoke || !m.on.up && m.alive() && m.path != pathSecondary && m.path != pathMuted
		}
		g.update()
		switch {
		case g.gone:
		case !held:
			g.gone = true
			w.m.gone++
			w.m.unprotected-- // it is not to be waited for
		case spoke:
			g.counted = true
			w.m.hit++
		}
	}
}

// sorted are the node's members in the order of the pairs' names.
func (h *host) sorted() []*member {
	out := make([]*member, 0, len(h.members))
	for _, m := range h.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int {
		if a.g.name < b.g.name {
			return -1
		}
		return 1
	})
	return out
}
