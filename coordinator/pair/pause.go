package pair

// The guest is stopped and continued here by its operator's wish, and reset.

func (m *Machine) askPause(a Ask) string {
	switch {
	case m.role == Speaker && (m.state == Solo || m.state == Protected || m.state == Checkpointing || m.state == Syncing):
		switch {
		case m.vmPaused:
			m.keepPaused = true
			m.reply(a, "")
			m.sendStatus()
		case m.plan.step != planNone:
			return "a planned change of roles is under way"
		default:
			m.await(a)
			m.keepPaused = true
			m.pauseNow()
		}
	case m.role != Speaker && m.forward(a):
		m.awaitOf(a)
	default:
		return m.busy()
	}
	return ""
}

// pauseNow stops the guest if that is wished for, in a state in which nothing
// else would make it run again.
func (m *Machine) pauseNow() {
	if m.keepPaused && !m.vmPaused && m.pausing == 0 && m.role == Speaker && m.unusable == "" &&
		(m.state == Solo || m.state == Protected && m.plan.step == planNone) {
		m.pausing = m.newOp()
		m.emit(PauseVM{Op: m.pausing})
	}
}

// paused is the result of pauseNow.
func (m *Machine) paused(ev VMPaused) {
	if ev.Err != "" {
		m.keepPaused = false
		m.warn("the guest cannot be stopped: " + ev.Err)
		m.answer(OpPause, "the guest cannot be stopped: "+ev.Err)
		m.checkpointNow()
		return
	}
	m.vmPaused = true
	m.answer(OpPause, "")
	m.sendStatus()
}

func (m *Machine) askCont(a Ask) string {
	switch {
	case m.role == Speaker && (m.state == Solo || m.state == Protected || m.state == Checkpointing || m.state == Syncing):
		m.keepPaused = false
		if m.pausing == 0 {
			m.answer(OpPause, "the guest is to go on")
		}
		if !m.vmPaused && m.pausing == 0 {
			m.reply(a, "")
			m.sendStatus()
			return ""
		}
		m.await(a)
		m.cont()
	case m.role != Speaker && m.forward(a):
		m.awaitOf(a)
	default:
		return m.busy()
	}
	return ""
}

// cont lets the guest go on.
func (m *Machine) cont() {
	m.contAfter = false
	m.conting = m.newOp()
	m.emit(ContVM{Op: m.conting})
}

// continued is the result of cont; RESUME may have come before.
func (m *Machine) continued(ev VMContinued) {
	if ev.Err != "" {
		m.warn("the guest cannot be continued: " + ev.Err)
		m.answer(OpCont, "the guest cannot be continued: "+ev.Err)
		return
	}
	m.resumed()
	m.answer(OpCont, "")
	m.sendStatus()
}

// resumed: a guest that somebody had stopped runs again. A checkpoint puts
// both guests together.
func (m *Machine) resumed() {
	if !m.vmPaused {
		return
	}
	m.vmPaused, m.keepPaused = false, false
	switch {
	case m.role != Speaker:
	case m.state == Protected || m.state == Checkpointing:
		m.request("paused")
	case m.state == Solo && m.timers[timerRetry] == 0:
		m.protectAgain()
	}
}

// Paused reports whether the guest here stands still because somebody stopped it.
func (m *Machine) Paused() bool { return m.vm != 0 && m.vmPaused && m.state != Switching }

// HeldStill reports whether an operator wants the guest to stand still, whoever runs it.
func (m *Machine) HeldStill() bool { return m.keepPaused }

func (m *Machine) askReboot(a Ask) string {
	switch {
	case m.role == Speaker && m.vm != 0 && (m.state == Solo || m.state == Protected || m.state == Checkpointing || m.state == Syncing):
		m.await(a)
		if m.resetting == 0 {
			m.resetting = m.newOp()
			m.emit(ResetVM{Op: m.resetting})
		}
	case m.role != Speaker && m.forward(a):
		m.awaitOf(a)
	default:
		return m.busy()
	}
	return ""
}

// wasReset: the guest restarts within its VM; the secondary's does not, until
// it is made a copy again.
func (m *Machine) wasReset() {
	switch {
	case m.role != Speaker:
	case m.state == Protected || m.state == Checkpointing:
		m.request(reasonReset)
	case m.state == Syncing && m.sync.step >= syncArming:
		m.pending.add(reasonReset)
	}
}

// reasonReset is the reason of the checkpoint after a reset.
const reasonReset = "reset"

// migrating follows a migration that somebody else has started.
func (m *Machine) migrating(ev VMMigration) {
	const away = "somebody else migrates the guest away"
	switch ev.Status {
	case "completed":
		m.leaving = false
		if m.role == Speaker || m.state == Idle {
			m.guestLeft()
		}
	case "failed", "cancelled", "none":
		if m.leaving {
			m.leaving = false
			m.warn("the migration of the guest by somebody else ended: " + ev.Status)
			if m.state == Solo && m.timers[timerRetry] == 0 {
				m.protectAgain()
			}
		}
	default:
		if m.leaving {
			return
		}
		m.leaving = true
		m.warn(away + "; it is not protected meanwhile")
		if m.state == Syncing && m.role == Speaker && m.sync.step < syncRecording {
			m.syncFailed(away)
		}
	}
}

// guestLeft: the guest runs elsewhere, out of colod's hands.
func (m *Machine) guestLeft() {
	m.left = false
	const reason = "the guest was migrated away by somebody else"
	switch m.state {
	case Solo, Promoting, Idle, Syncing, Protected, Checkpointing, Claiming, Switching:
		if m.session != "" {
			m.send(m.with, PeerEnded{Generation: m.rec.Generation, Reason: reason})
		}
		m.toStopped(reason, stopRecord)
	}
}
