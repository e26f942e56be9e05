package pair

import "slices"

// choice is the search for a secondary.
type choice struct {
	op     uint64   // of the Choose under way; 0 = none
	asked  bool     // an operator asked for it
	none   bool     // the last attempt failed: a node that becomes ready is reason for another one
	failed []string // nodes with which protection failed lately, the latest last
}

// ready are the nodes that would run a secondary, in the list's order.
func (m *Machine) readyPeers() []string {
	var names []string
	for _, name := range m.peers.order {
		if p := m.peers.by[name]; p.up && p.status != nil && p.status.Ready {
			names = append(names, name)
		}
	}
	return names
}

// choose asks for a secondary. asked says that an operator wants it.
func (m *Machine) choose(asked bool) {
	if m.choice.op != 0 {
		m.choice.asked = m.choice.asked || asked
		return
	}
	m.choice.op, m.choice.asked = m.newOp(), asked
	m.emit(Choose{Op: m.choice.op, Ready: m.readyPeers(), Last: append([]string(nil), m.choice.failed...)})
}

// chosen begins the synchronisation with the node that was chosen.
func (m *Machine) chosen(ev Chosen) {
	reason := ev.Peer + " is ready to run a secondary"
	if ev.Reason != "" {
		reason = ev.Peer + " is to run the secondary: " + ev.Reason
	}
	switch {
	case ev.Err != "":
		m.notChosen("no node can run a secondary: " + ev.Err)
	case m.cannotProtect() != "":
		m.notChosen(m.cannotProtect())
	case !m.up(ev.Peer) || ev.Peer == m.cfg.Self:
		m.notChosen(ev.Peer + " was chosen to run a secondary and does not answer")
	case m.choice.asked:
		m.toSyncing(ev.Peer, "asked for by an operator; "+reason)
		m.sync.why = ev.Reason
	default:
		m.toSyncing(ev.Peer, reason)
		m.sync.why = ev.Reason
	}
}

// notChosen tries again later.
func (m *Machine) notChosen(why string) {
	m.failures++
	m.choice.none = true
	m.reason = "not protected: " + why
	m.answer(OpProtect, m.reason)
	m.sendStatus()
	m.set(timerRetry, m.backoff())
}

// nowReady: the node has become ready. After a failure it need not wait for
// the next attempt, unless it was the one that failed.
func (m *Machine) nowReady(node string) {
	if m.state == Solo && m.choice.none && m.choice.op == 0 && !slices.Contains(m.choice.failed, node) {
		m.choice.none = false
		m.clear(timerRetry)
	}
}

// triedLast remembers that protection failed with the node, so that it is
// tried after all others.
func (m *Machine) triedLast(node string) {
	m.forgive(node)
	m.choice.failed = append(m.choice.failed, node)
}

// forgive forgets that protection failed with the node.
func (m *Machine) forgive(node string) {
	m.choice.failed = slices.DeleteFunc(m.choice.failed, func(n string) bool { return n == node })
}
