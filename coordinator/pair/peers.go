package pair

import (
	"strings"
	"time"
)

// peers are the other nodes as seen from here: those of the pair's list, and
// others that the record or a choice has named.
type peers struct {
	order []string // the list's first, then as they were learned
	by    map[string]*peerNode
}

// peerNode is one of them.
type peerNode struct {
	up     bool
	status *Status // as of the present connection; nil before the first
}

// of is the node of that name; a new one is remembered.
func (p *peers) of(name string) *peerNode {
	n := p.by[name]
	if n == nil {
		n = &peerNode{}
		if p.by == nil {
			p.by = map[string]*peerNode{}
		}
		p.by[name] = n
		p.order = append(p.order, name)
	}
	return n
}

// up reports whether the node answers.
func (m *Machine) up(name string) bool {
	n := m.peers.by[name]
	return n != nil && n.up
}

// says is the node's status as last told over the present connection, or nil.
func (m *Machine) says(name string) *Status {
	if n := m.peers.by[name]; n != nil {
		return n.status
	}
	return nil
}

// partner is the other node of the present session, or else of the record,
// or "".
func (m *Machine) partner() string {
	switch {
	case m.session != "":
		return m.with
	case !m.rec.Exists():
		return ""
	case m.rec.Speaker != m.cfg.Self:
		return m.rec.Speaker
	}
	return m.rec.Standby
}

// Partner is the other node of the present session, or else of the record
// (its speaker if that is not this node, else its standby), or "".
func (m *Machine) Partner() string { return m.partner() }

// PeerUp reports whether the node answers.
func (m *Machine) PeerUp(name string) bool { return m.up(name) }

// PeerStatus is what the node said last of itself over the present
// connection, or nil.
func (m *Machine) PeerStatus(name string) *Status {
	s := m.says(name)
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

// Peers are the names of all nodes known here, those of the pair's list first.
func (m *Machine) Peers() []string { return append([]string(nil), m.peers.order...) }

// received keeps the other nodes' statuses; it reports whether the state is
// to see the message. Messages of a session count only from its other node.
func (m *Machine) received(ev Received) bool {
	switch msg := ev.Msg.(type) {
	case Status:
		p := m.peers.of(ev.From)
		again := p.status != nil && p.status.Boot != msg.Boot
		ready := msg.Ready && (p.status == nil || !p.status.Ready)
		p.status = &msg
		if ready {
			m.nowReady(ev.From)
		}
		m.maintain(maintenance{on: msg.Maintenance, why: msg.MaintenanceWhy, rev: msg.MaintenanceRev})
		if again {
			m.dispatch(restarted{ev.From})
		}
		m.catchUp()
		if m.state == Syncing && m.role == Secondary && ev.From == m.with && msg.Session != m.session && msg.State != Claiming {
			m.secondaryAlone(m.with + " has ended the session")
		}
	case Request:
		// Another node's operator: as if asked here, with nobody to answer.
		m.dispatch(Ask{
			from: ev.From, Op: msg.Op, Grace: time.Duration(msg.GraceMS) * time.Millisecond,
			Target: msg.Target, Role: msg.Role, On: msg.On,
		})
		return false
	case Reply:
		m.replied(ev.From, msg)
		return false
	case HandOver:
		if ev.From == m.partner() && m.role == Secondary && (m.state == Protected || m.state == Checkpointing) {
			return true
		}
		if m.claim.planned && ev.From == m.claim.node && (m.state == Claiming || m.state == Promoting || m.state == Solo) {
			return false // that is what is being done
		}
		m.refuse(ev.From, msg.Session, m.cfg.Self+" is "+m.state.String()+": "+m.reason)
		return false
	case Prepare:
		m.offered(ev.From, msg)
		return false
	default:
		return ev.From == m.partner()
	}
	return true
}

// replied is the outcome of a wish that was passed on.
func (m *Machine) replied(from string, r Reply) {
	kept := m.asks[:0]
	for _, a := range m.asks {
		if a.to == from && a.Op == r.Op {
			m.reply(a, r.Err)
		} else {
			kept = append(kept, a)
		}
	}
	m.asks = kept
}

// nodeList names the other nodes.
func (m *Machine) nodeList() string {
	return strings.Join(append([]string{m.cfg.Self}, m.peers.order...), ", ")
}

// catchUp reads the record while another node knows a newer one.
func (m *Machine) catchUp() {
	for _, p := range m.peers.by {
		if p.status != nil && p.status.Generation > m.rec.Generation {
			m.read()
			m.set(timerBehind, m.cfg.RecordPoll)
			return
		}
	}
}

// restarted says that the node's colod is a new process: what it held for
// the session is gone.
type restarted struct{ peer string }

func (restarted) isEvent() {}

// firstNode is the speaker of a new pair.
func (m *Machine) firstNode() string {
	if m.cfg.First || len(m.cfg.Peers) == 0 {
		return m.cfg.Self
	}
	return m.cfg.Peers[0]
}
