package pair

import "colod/coordinator/arbiter"

// An operator may make a node speak that cannot win the record because the
// arbiter does not answer. It is the one exception from the rule that the
// record decides, and the operator answers for the other node being silent.
// The record is written as soon as that can be done; if another node has it,
// the guest here is ended.

func (m *Machine) askForce(a Ask) string {
	switch {
	case m.forced && (m.state == Promoting || m.state == Solo):
		m.await(a)
		m.answerForce()
		return ""
	case m.state == Claiming && m.claim.won:
		m.await(a)
		m.warn("forced by an operator: " + m.claim.node + " is not fenced")
		m.claim.gaveUp = true
		m.claimed()
		return ""
	case m.state == Claiming && !m.stale && m.swapping != 0 && m.claim.tries < 2:
		return "the record is being written; force is for an arbiter that does not answer"
	case m.state == Claiming:
		how, reason := m.claim.how, "forced by an operator: "+m.claim.reason
		m.await(a)
		if m.vm == 0 || m.ending != 0 {
			m.force(promoteLaunch, Alone, reason+"; the VM here is gone: the guest is started again")
			return ""
		}
		m.force(promoteSpeak, how, reason)
		return ""
	case m.state == Idle && m.vm != 0 && m.ending == 0 && m.finding == 0:
		for _, name := range m.peers.order {
			if m.up(name) {
				return name + " answers: stop it there first, or let it take over"
			}
		}
		m.await(a)
		m.force(promoteFree, Alone, "forced by an operator: the VM found here speaks")
		return ""
	case m.state == Solo || m.state == Protected || m.state == Checkpointing || m.state == Syncing:
		return "there is nothing to be forced; the pair is " + m.state.String() + ": " + m.reason
	}
	return "no VM here can speak; the pair is " + m.state.String() + ": " + m.reason
}

func (m *Machine) force(stage promoteStage, how How, reason string) {
	m.forced = true
	m.swapping = 0 // its outcome is found out by reading
	m.warn("this node speaks without having won the record (" + m.rec.String() + "): if another node speaks too, clients see both")
	m.set(timerForce, m.cfg.RecordPoll)
	m.toPromoting(stage, how, reason)
}

// forcedRecord brings the record up to what was forced.
func (m *Machine) forcedRecord(ev Event) {
	switch ev := ev.(type) {
	case RecordRead:
		if ev.Err != "" || m.swapping != 0 {
			return
		}
	case Swapped:
		if ev.Outcome != SwapWon && ev.Outcome != SwapLost {
			return
		}
	}
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Speaker == m.cfg.Self && m.rec.Standby == "" && !m.doubt.on:
		m.forced = false
		m.clear(timerForce)
		m.warn("the record names this node now: what was forced is lawful")
		if m.state == Solo && m.timers[timerRetry] == 0 {
			m.protectAgain()
		}
	case !m.rec.Exists(), m.rec.Speaker == m.cfg.Self, m.rec.Standby == m.cfg.Self:
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, m.reason)
	default:
		m.toFenced("the record was lost: " + m.rec.String())
	}
}

// forceAgain tries again to write what was forced.
func (m *Machine) forceAgain() {
	if m.forced {
		m.readAnew()
		m.set(timerForce, m.cfg.RecordPoll)
	}
}

func (m *Machine) answerForce() {
	if m.state == Solo {
		m.answer(OpForce, "")
	}
}

// Forced reports whether this node speaks without having won the record.
func (m *Machine) Forced() bool { return m.forced }
