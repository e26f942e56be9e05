package pair

import "time"

// admit takes an operator's wish. A wish that only the speaker can fulfil is
// passed on to it. It reports whether the state is to see the event: never.
func (m *Machine) admit(a Ask) bool {
	var refusal string
	switch a.Op {
	case OpProtect:
		refusal = m.askProtect(a)
	case OpCheckpoint:
		refusal = m.askCheckpoint(a)
	case OpFailover:
		refusal = m.askFailover(a)
	case OpStop:
		refusal = m.askStop(a)
	case OpStart:
		refusal = m.askStart(a)
	case OpReboot:
		refusal = m.askReboot(a)
	case OpPause:
		refusal = m.askPause(a)
	case OpCont:
		refusal = m.askCont(a)
	case OpDelete:
		refusal = m.askDelete(a)
	case OpMigrate:
		refusal = m.askMigrate(a)
	case OpSwitchover:
		refusal = m.askSwitchover(a)
	case OpMaintenance:
		refusal = m.askMaintenance(a)
	case OpForce:
		refusal = m.askForce(a)
	default:
		refusal = "this operation is not known"
	}
	if refusal != "" {
		m.reply(a, refusal)
	}
	return false
}

func (m *Machine) askProtect(a Ask) string {
	switch {
	case m.state == Protected || m.state == Checkpointing:
		m.reply(a, "")
	case m.state == Syncing:
		m.await(a)
	case m.state == Solo:
		if why := m.cannotProtect(); why != "" {
			return why
		}
		m.noAuto, m.failures = "", 0
		m.await(a)
		m.choose(true)
	case m.state == Standby && m.forward(a):
		m.awaitOf(a)
	default:
		return m.busy()
	}
	return ""
}

func (m *Machine) askCheckpoint(a Ask) string {
	switch {
	case m.state != Protected && m.state != Checkpointing:
		return m.busy()
	case m.role == Speaker && m.vmPaused:
		return "the guest is stopped by its operator, and a checkpoint would make it run"
	case m.role == Speaker:
		m.request(reasonManual)
		m.await(a)
	case m.forward(a):
		m.reply(a, "")
	default:
		return m.partner() + " does not answer"
	}
	return ""
}

func (m *Machine) askFailover(a Ask) string {
	switch {
	case m.state != Protected && m.state != Checkpointing:
		return "there is no secondary that could take over; the pair is " + m.state.String() + ": " + m.reason
	case m.held != "":
		m.await(a)
		m.toClaiming(claim{how: TakeOver}, "takeover asked for by an operator: "+m.held)
	case !m.up(m.partner()):
		return m.partner() + " does not answer"
	case m.role == Speaker:
		return m.planFailover(a)
	default:
		m.forward(a)
		m.awaitOf(a)
	}
	return ""
}

func (m *Machine) askStop(a Ask) string {
	switch {
	case m.state == Stopped:
		m.await(a)
		m.stopSettle()
	case m.role == Speaker && (m.state == Solo || m.state == Syncing || m.state == Protected || m.state == Checkpointing || m.state == Promoting):
		m.await(a)
		m.deleting = m.deleting || a.Op == OpDelete
		if a.Grace > 0 && m.vm != 0 && !m.vmPaused && m.state != Syncing && m.state != Promoting {
			m.set(timerGrace, a.Grace)
			m.emit(PowerDown{})
			return ""
		}
		why := a.Why
		if why == "" {
			why = "ended by an operator"
		}
		m.endGuest(why)
	case (m.role == Secondary || m.state == Standby) && m.forward(a):
		m.awaitOf(a)
	default:
		return m.busy()
	}
	return ""
}

func (m *Machine) askStart(a Ask) string {
	switch m.state {
	case Idle:
		if m.wait != waitHeld {
			return m.busy()
		}
		m.await(a)
		m.starting, m.wait = true, waitFacts
		m.decide()
	case Stopped:
		m.await(a)
		if why := m.start(a); why != "" {
			m.asks = m.asks[:len(m.asks)-1]
			return why
		}
	case Solo, Syncing, Protected, Checkpointing:
		m.reply(a, "")
	case Promoting:
		m.await(a)
		if m.promote.launching && m.launching == 0 && m.ending == 0 && m.timers[timerRetry] != 0 {
			m.clear(timerRetry)
			m.promoteLaunch() // it waits to be tried again
		}
	default:
		return m.busy()
	}
	return ""
}

func (m *Machine) busy() string {
	return "not possible now; the pair is " + m.state.String() + ": " + m.reason
}

// forward passes a wish on to the speaker.
func (m *Machine) forward(a Ask) bool {
	to := m.rec.Speaker
	if to == m.cfg.Self || !m.up(to) || a.from != "" {
		return false
	}
	m.send(to, Request{Op: a.Op, GraceMS: int64(a.Grace / time.Millisecond), Target: a.Target, Role: a.Role, On: a.On})
	return true
}

// await keeps a wish until it is fulfilled or cannot be.
func (m *Machine) await(a Ask) {
	m.asks = append(m.asks, a)
}

// awaitOf keeps a wish that was passed on.
func (m *Machine) awaitOf(a Ask) {
	a.to = m.rec.Speaker
	m.await(a)
}

func (m *Machine) reply(a Ask, err string) {
	switch {
	case a.ID != 0:
		m.emit(Answer{ID: a.ID, Err: err})
	case a.from != "":
		m.send(a.from, Reply{Op: a.Op, Err: clip(err)})
	}
}

// answer answers all wishes of a kind.
func (m *Machine) answer(op Op, err string) {
	kept := m.asks[:0]
	for _, a := range m.asks {
		if a.Op == op {
			m.reply(a, err)
		} else {
			kept = append(kept, a)
		}
	}
	m.asks = kept
}

func (m *Machine) refuseAll(why string) {
	for _, a := range m.asks {
		m.reply(a, why)
	}
	m.asks = nil
}

// answerMove answers the wishes that a change of state fulfils or defeats.
// Those of a plan are answered by it, and those that were passed on by the
// speaker, unless it is the speaker that is gone.
func (m *Machine) answerMove(s State) {
	why := s.String() + ": " + m.reason
	switch s {
	case Protected:
		m.answer(OpProtect, "")
		m.answer(OpStart, "")
	case Solo:
		m.answer(OpStart, "")
		m.answer(OpProtect, why)
		m.answer(OpCheckpoint, why)
		if m.promote.how == TakeOver {
			m.answer(OpFailover, "")
			m.answer(OpSwitchover, "")
		} else {
			m.answer(OpFailover, why)
		}
	case Standby:
		if m.rec.Speaker != m.cfg.Self {
			m.answer(OpFailover, "")
		}
		m.answer(OpProtect, why)
		m.answer(OpCheckpoint, why)
		m.answer(OpStart, why)
		m.answer(OpForce, why)
	case Stopped:
		for _, op := range Ops {
			switch op {
			case OpStop, OpDelete: // fulfilled once all is settled
			default:
				m.answer(op, why)
			}
		}
	case Fenced, Idle:
		for _, op := range []Op{OpProtect, OpCheckpoint, OpPause, OpCont, OpReboot, OpForce} {
			m.answer(op, why)
		}
	}
}

// lostSpeaker answers the wishes that were passed on to a node that is lost.
// A secondary that takes over fulfils some of them itself.
func (m *Machine) lostSpeaker(node string) {
	kept := m.asks[:0]
	for _, a := range m.asks {
		if a.to == node && (m.role != Secondary || a.Op != OpFailover && a.Op != OpSwitchover) {
			m.reply(a, node+" is lost; what became of the wish is not known")
		} else {
			kept = append(kept, a)
		}
	}
	m.asks = kept
}
