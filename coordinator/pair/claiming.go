package pair

import "colod/coordinator/arbiter"

// claim belongs to Claiming.
type claim struct {
	how    How    // how to speak once the record is won
	reason string // goes into the record
}

// toClaiming swaps the record to speak alone. The VM is freed from its peer
// meanwhile: that alone lets nothing out, and if the record is lost the VM is
// ended anyway.
func (m *Machine) toClaiming(c claim, reason string) {
	role := m.role
	if role == NoRole {
		role = Speaker
	}
	c.reason = reason
	m.claim = c
	m.cut()
	m.become(Claiming, role, reason)
	if m.vm != 0 {
		m.freeVM()
	}
	m.claimSwap()
}

func (m *Machine) claimSwap() {
	m.swap(arbiter.Record{Speaker: m.cfg.Self}, m.claim.reason)
}

func (m *Machine) stepClaiming(ev Event) {
	switch ev := ev.(type) {
	case Swapped:
		switch ev.Outcome {
		case SwapWon:
			m.claimed()
		case SwapLost:
			m.claimAgain()
		default:
			m.set(timerRetry, m.cfg.RecordPoll)
		}
	case RecordRead:
		// Only a read that follows a swap of unknown outcome decides here.
		if m.swapping != 0 {
			return
		}
		if ev.Err != "" {
			m.set(timerRetry, m.cfg.RecordPoll)
			return
		}
		m.claimAgain()
	case expired:
		switch ev.t {
		case timerRetry:
			m.readAnew()
		case timerGrace:
			m.graceOver()
		}
	case VMFreed:
		if ev.Err != "" {
			m.warn("the VM cannot be freed from its peer and is ended: " + ev.Err)
			m.endVM()
		}
	case VMDied:
		m.freeing = 0
	case VMShutdown:
		m.speakerShutdown(ev)
	case Received:
		if msg, ok := ev.Msg.(PeerEnded); ok && msg.Generation == m.rec.Generation && m.role == Secondary {
			m.toStopped("ended on "+ev.From+": "+msg.Reason, stopEnd)
		}
	}
}

// claimAgain looks at the record as it is now: won after all, worth another
// swap, or lost.
func (m *Machine) claimAgain() {
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Speaker == m.cfg.Self && m.rec.Standby == "":
		m.claimed()
	case !m.rec.Exists(), m.rec.Speaker == m.cfg.Self, m.rec.Standby == m.cfg.Self:
		m.claimSwap()
	default:
		m.toFenced("the record was lost: " + m.rec.String())
	}
}

// claimed: the record names this node alone.
func (m *Machine) claimed() {
	switch {
	case m.vm == 0 || m.ending != 0:
		reason := m.claim.reason
		if m.claim.how != Alone {
			reason += "; the VM here is gone as well: the guest is started again"
		}
		m.toPromoting(promoteLaunch, Alone, reason)
	default:
		m.toPromoting(promoteSpeak, m.claim.how, m.claim.reason)
	}
}
