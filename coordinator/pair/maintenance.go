package pair

// maintenance holds what happens by itself: a takeover by the secondary, the
// launch of a guest whose VM died, and protection. What a speaker needs in
// order to be heard it still does. All nodes of a pair know of it by their
// statuses; the higher revision counts.
type maintenance struct {
	on  bool
	why string
	rev uint64
}

// Maintenance reports whether what happens by itself is held, and why.
func (m *Machine) Maintenance() (on bool, why string) { return m.maint.on, m.maint.why }

// Held says what maintenance holds back at the moment, or "".
func (m *Machine) Held() string {
	switch {
	case !m.maint.on:
		return ""
	case m.held != "":
		return "takeover: " + m.held
	case m.state == Idle && m.wait == waitHeld:
		return "start of the guest: " + m.reason
	case m.state == Solo && m.cfg.AutoProtect:
		return "protection"
	}
	return ""
}

func (m *Machine) askMaintenance(a Ask) string {
	if a.Rev == 0 {
		a.Rev = m.maint.rev + 1
	}
	m.maintain(maintenance{on: a.On, why: clip(a.Why), rev: a.Rev})
	m.reply(a, "")
	return ""
}

// maintain takes in what is newer than what is known. Of two of the same
// revision the one that holds counts.
func (m *Machine) maintain(n maintenance) {
	old := m.maint
	if n.rev < old.rev || n.rev == old.rev && (old.on || !n.on) {
		return
	}
	m.maint = n
	m.emit(Maintained{On: n.on, Why: n.why, Rev: n.rev})
	m.sendStatus()
	if n.on {
		return
	}
	switch {
	case m.held != "" && m.role == Secondary:
		m.toClaiming(claim{how: TakeOver}, m.held)
	case m.state == Idle:
		if m.wait == waitHeld {
			m.wait = waitFacts
		}
		m.decide()
	case m.state == Solo && m.timers[timerRetry] == 0:
		m.protectAgain()
	}
}

// takeOver is what a secondary does when the speaker is gone, unless
// maintenance holds it back.
func (m *Machine) takeOver(c claim, reason string) {
	if !m.maint.on {
		m.toClaiming(c, reason)
		return
	}
	if m.held != "" {
		return
	}
	m.held = reason
	m.reason = "secondary of " + m.with + "; maintenance holds a takeover back: " + reason
	m.warn(m.reason)
	m.set(timerPoll, m.cfg.RecordPoll)
	m.sendStatus()
}

// toHeld: the guest would be started here, and is not in maintenance.
func (m *Machine) toHeld(reason string) {
	m.cut()
	if m.state != Idle {
		m.become(Idle, NoRole, reason)
		if !m.muted {
			m.mute()
		}
	}
	m.wait = waitHeld
	m.reason = reason + "; maintenance holds its start back"
	m.warn(m.reason)
	m.set(timerPoll, m.cfg.RecordPoll)
	m.sendStatus()
}
