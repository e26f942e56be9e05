package fleet

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
	"colod/coordinator/registry"
)

// pathMode is what a node's data path lets out.
type pathMode uint8

const (
	pathMuted     pathMode = iota
	pathSolo               // all
	pathPrimary            // all, and the secondary's is compared
	pathArmed              // what both agree on
	pathSecondary          // nothing
)

// vm is a VM; its guest is in copied's state.
type vm struct {
	id     uint64
	copied bool // it has a guest: a normal one, or an incoming one that has been given the state
	bytes  int64
	colo   *member // the other side, while both run in lock-step
	broken bool    // the stream between them is cut
	ckpt   bool
}

// member is one pair on one node: what colod's driver is around a machine.
type member struct {
	g  *guest
	on *host
	m  *pair.Machine

	vm       *vm
	path     pathMode
	session  string          // of the secondary that is awaited or runs here
	cut      map[string]bool // sessions that were cut
	promised bool            // memory for the secondary that was accepted
	known    map[string]bool // nodes that have to do with the pair
	tickAt   time.Duration
	sendAt   time.Duration
	vmFree   time.Duration // lanes
	pathFree time.Duration
	arbBusy  bool
	arbNext  []func()
	spec     bool // its description was written
	ended    bool
}

func (m *member) alive() bool { return m.vm != nil }

// join makes the pair's member on a host and starts it.
func (g *guest) join(on *host) *member {
	m := &member{g: g, on: on, known: map[string]bool{}, cut: map[string]bool{}}
	var peers []string
	listed := false
	for _, h := range g.listed {
		if h == on {
			listed = true
			continue
		}
		peers = append(peers, h.name)
	}
	if !listed {
		on.guests++
	}
	m.m = pair.New(pair.Config{Pair: g.name, Self: on.name, Peers: peers, First: g.listed[0] == on, Outside: true, Guest: "fleet", AutoProtect: true})
	on.members[g.name] = m
	g.members = append(g.members, m)
	g.w.boots++
	m.step(pair.Start{Boot: g.w.boots})
	for _, p := range peers {
		m.meet(p)
	}
	return m
}

// listed reports whether the pair's configuration names the node.
func (m *member) listed() bool { return m.g.listed[0] == m.on || m.g.listed[1] == m.on }

// leave ends a member that its node has nothing to do with any more.
func (m *member) leave() {
	m.ended = true
	delete(m.on.members, m.g.name)
	m.on.guests--
	for i, o := range m.g.members {
		if o == m {
			m.g.members = append(m.g.members[:i:i], m.g.members[i+1:]...)
			break
		}
	}
}

// meet lets the member know of a node, which is connected if it is up.
func (m *member) meet(name string) {
	if m.known[name] {
		return
	}
	m.known[name] = true
	if m.g.w.name[name].up {
		m.step(pair.PeerUp{Peer: name})
	}
}

// result gives the machine an event later.
func (m *member) result(d time.Duration, ev pair.Event) { m.g.w.after(d, func() { m.step(ev) }) }

// lane runs fn after what is before it on the lane, and gives its event.
func (m *member) lane(free *time.Duration, at time.Duration, fn func() pair.Event) {
	w := m.g.w
	at = max(*free, at)
	*free = at
	w.after(at-w.now, func() {
		if !m.on.up || m.ended {
			return
		}
		if ev := fn(); ev != nil {
			m.step(ev)
		}
	})
}

func (m *member) vmLane(lo, hi time.Duration, fn func() pair.Event) {
	m.lane(&m.vmFree, max(m.vmFree, m.g.w.now)+m.g.w.delay(lo, hi), fn)
}

func (m *member) pathLane(lo, hi time.Duration, fn func() pair.Event) {
	m.lane(&m.pathFree, max(m.pathFree, m.g.w.now)+m.g.w.delay(lo, hi), fn)
}

// arbiter asks after what is before it on the lane.
func (m *member) arbiter(do func(context.Context) func()) {
	w := m.g.w
	issue := func() {
		m.arbBusy = true
		w.ask(func(ctx context.Context) func() {
			then := do(ctx)
			return func() {
				m.arbBusy = false
				if m.on.up && !m.ended && then != nil {
					then()
				}
				if len(m.arbNext) > 0 && !m.arbBusy && m.on.up && !m.ended {
					next := m.arbNext[0]
					m.arbNext = m.arbNext[1:]
					next()
				}
			}
		})
	}
	if m.arbBusy {
		m.arbNext = append(m.arbNext, issue)
		return
	}
	issue()
}

func (m *member) step(ev pair.Event) {
	if !m.on.up || m.ended {
		return
	}
	w := m.g.w
	w.m.events++
	acts := m.m.Step(pair.Tick{Now: w.now})
	acts = append(acts, m.m.Step(ev)...)
	for _, a := range acts {
		m.act(a)
	}
	if d := m.m.Deadline(); d != 0 && d != m.tickAt {
		m.tickAt = d
		w.after(d-w.now, func() {
			if m.tickAt == d {
				m.tickAt = 0
				m.step(pair.Tick{Now: w.now})
			}
		})
	}
	m.g.update()
}

// receive takes a message of another member, as colod's driver does: a node that has no room refuses before the machine
// sees the request.
func (m *member) receive(from string, msg pair.Message) {
	m.meet(from)
	if p, ok := msg.(pair.Prepare); ok && m.vm == nil {
		if no := placement.Check(m.g.needs(m.on, nil), m.on.facts()); len(no) > 0 {
			m.g.w.m.refused++
			m.send(from, pair.Refused{Session: p.Session, Reason: m.on.name + " has no room: " + strings.Join(no, "; ")})
			return
		}
		if !m.promised {
			m.promised = true
			m.on.promised += int64(placement.SecondaryMemory(guestMemory))
		}
	}
	m.step(pair.Received{From: from, Msg: msg})
}

// kept gives back what was promised to a secondary, once it has its memory or will not be made.
func (m *member) kept() {
	if m.promised {
		m.promised = false
		m.on.promised -= int64(placement.SecondaryMemory(guestMemory))
	}
}

// send delivers a message in order.
func (m *member) send(to string, msg pair.Message) {
	w, o := m.g.w, m.g.w.name[to]
	at := max(m.sendAt, w.now+w.delay(100*us, ms))
	m.sendAt = at
	w.after(at-w.now, func() {
		if !o.up || !m.on.up {
			return
		}
		if other := o.members[m.g.name]; other != nil {
			other.receive(m.on.name, msg)
			return
		}
		if p, ok := msg.(pair.Prepare); ok {
			o.becomeGuest(m.g, m.on.name, p)
		}
	})
}

// becomeGuest makes the member of a pair that does not list the host, from its description in the registry.
func (h *host) becomeGuest(g *guest, from string, p pair.Prepare) {
	w := g.w
	refuse := func(why string) {
		w.m.refused++
		if m := w.name[from].members[g.name]; m != nil {
			m.result(ms, pair.Received{From: h.name, Msg: pair.Refused{Session: p.Session, Reason: h.name + ": " + why}})
		}
	}
	if h.guests >= maxGuests {
		refuse("has taken too many pairs already")
		return
	}
	w.ask(func(ctx context.Context) func() {
		_, err := h.arb.Spec(ctx, g.name)
		return func() {
			switch {
			case !h.up:
			case err != nil:
				refuse(err.Error())
			default:
				m := h.members[g.name]
				if m == nil {
					m = g.join(h)
				}
				m.receive(from, p)
			}
		}
	})
}

// describe writes the pair's description once its speaker is known.
func (m *member) describe() {
	if m.spec || !m.listed() {
		return
	}
	m.spec = true
	text, err := json.Marshal(map[string]string{"pair": m.g.name, "description": strings.Repeat("x", specBytes)})
	if err != nil {
		m.g.w.fail("describe %s: %v", m.g.name, err)
		return
	}
	m.g.w.ask(func(ctx context.Context) func() {
		err := m.on.arb.PutSpec(ctx, registry.Spec{Pair: m.g.name, Node: m.on.name, Config: text, Updated: time.Now()})
		return func() {
			if err != nil {
				m.spec = false
				m.g.w.after(factsEvery*second, m.describe)
			}
		}
	})
}
