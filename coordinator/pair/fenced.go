package pair

// fencing belongs to Fenced.
type fencing struct {
	gone bool
}

// toFenced: a VM runs here that must not. It is muted and ended.
func (m *Machine) toFenced(reason string) {
	m.cut()
	m.fence = fencing{}
	m.become(Fenced, NoRole, reason)
	m.gaveWay()
	if !m.muted {
		m.mute()
	}
	m.endVM()
}

// gaveWay answers the wishes to end the guest that were for this node to fulfil: the guest lives on at another.
func (m *Machine) gaveWay() {
	if !m.known || m.rec.Ended || m.rec.Speaker == m.cfg.Self {
		return
	}
	kept := m.asks[:0]
	for _, a := range m.asks {
		if a.to == "" && (a.Op == OpStop || a.Op == OpDelete) {
			m.reply(a, "not ended: the guest went to "+m.rec.Speaker+" meanwhile, where it goes on; ask again")
		} else {
			kept = append(kept, a)
		}
	}
	m.asks = kept
}

func (m *Machine) stepFenced(ev Event) {
	switch ev := ev.(type) {
	case Muted:
		if ev.Err != "" {
			m.warn("the guest's devices cannot be muted: " + ev.Err)
			m.set(timerRetry, m.cfg.RetryMin)
			return
		}
	case VMGone:
		if ev.Err != "" {
			m.warn("the VM here does not end: " + ev.Err)
			m.endVM()
			return
		}
		m.fence.gone = true
	case expired:
		if ev.t == timerRetry {
			m.mute()
		}
		return
	default:
		return
	}
	if !m.muted || !m.fence.gone {
		return
	}
	if m.known && m.rec.Ended {
		m.toStopped(m.rec.Reason, stopKeep)
		return
	}
	m.toStandby(m.reason)
}
