package pair

import "colod/coordinator/arbiter"

// claim belongs to Claiming.
type claim struct {
	how    How    // how to speak once the record is won
	reason string // goes into the record

	node    string // the other one; "" = none
	gaveUp  bool   // it is known to say nothing more
	planned bool   // it has handed over, and keeps its VM until this one is heard
	missing bool   // it does not answer, and may hold the guest
	won     bool   // the record names this node alone
	fencing uint64 // of the Fence under way; 0 = none
	failed  int    // fencings in a row that failed
	tries   int    // swaps and reads that did not help
}

// toClaiming swaps the record to speak alone. The VM is freed from its peer
// meanwhile: that alone lets nothing out, and if the record is lost the VM is
// ended anyway.
func (m *Machine) toClaiming(c claim, reason string) {
	role := m.role
	if role == NoRole {
		role = Speaker
	}
	c.reason, c.node = reason, m.partner()
	m.claim = c
	m.cut()
	m.become(Claiming, role, reason)
	if m.vm != 0 {
		m.freeVM()
	}
	m.claimSwap()
}

func (m *Machine) claimSwap() {
	reason := m.claim.reason
	if m.contAfter {
		reason = toGoOn + reason
	}
	m.swap(arbiter.Record{Speaker: m.cfg.Self}, reason)
}

// toGoOn is how the record's reason begins when the VM of the speaker may
// stand still by colod's doing: should that colod end before it has let it go
// on, the next one does.
const toGoOn = "the guest is to go on: "

func (m *Machine) stepClaiming(ev Event) {
	switch ev := ev.(type) {
	case Swapped:
		switch ev.Outcome {
		case SwapWon, SwapLost:
			m.claimAgain()
		default:
			m.claim.tries++
			m.set(timerRetry, m.cfg.RecordPoll)
		}
	case RecordRead:
		// Only a read that follows a swap of unknown outcome decides here.
		if m.swapping != 0 {
			return
		}
		if ev.Err != "" {
			m.claim.tries++
			m.set(timerRetry, m.cfg.RecordPoll)
			return
		}
		m.claimAgain()
	case FencedNode:
		m.fencedNode(ev)
	case expired:
		switch ev.t {
		case timerRetry:
			if m.claim.won {
				m.claimed()
				return
			}
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
		switch msg := ev.Msg.(type) {
		case PeerEnded:
			if msg.Generation == m.rec.Generation && m.role == Secondary && !m.claim.won {
				m.toStopped("ended on "+ev.From+": "+msg.Reason, stopEnd)
			}
		case Status:
			if m.claim.won && ev.From == m.claim.node && msg.Generation >= m.rec.Generation {
				m.claim.gaveUp = true // it knows that it has lost the record
				m.claimed()
			}
		}
	}
}

// claimAgain looks at the record as it is now: won after all, worth another
// swap, or lost.
func (m *Machine) claimAgain() {
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Speaker == m.cfg.Self && m.rec.Standby == "" && !m.doubt.on:
		m.claimed()
	case !m.rec.Exists(), m.rec.Speaker == m.cfg.Self, m.rec.Standby == m.cfg.Self:
		m.claimSwap()
	default:
		m.toFenced("the record was lost: " + m.rec.String())
	}
}

// claimed: the record names this node alone. What may still be heard
// elsewhere is fenced first, where that is configured.
func (m *Machine) claimed() {
	m.claim.won = true
	if m.mustFence() {
		if m.claim.fencing == 0 {
			m.claim.fencing = m.newOp()
			m.emit(Fence{Op: m.claim.fencing, Node: m.claim.node})
		}
		return
	}
	switch {
	case m.vm != 0 && m.ending == 0:
		m.toPromoting(promoteSpeak, m.claim.how, m.claim.reason)
	case m.canGiveBack():
		m.giveBack("the VM on " + m.cfg.Self + " died")
	case m.maint.on && !m.starting:
		m.toHeld(m.claim.reason + "; the VM here is gone")
	default:
		reason := m.claim.reason
		if m.claim.how != Alone {
			reason += "; the VM here is gone as well: the guest is started again"
		}
		m.toPromoting(promoteLaunch, Alone, reason)
	}
}

// canGiveBack reports whether the other node still has the guest that it
// handed over.
func (m *Machine) canGiveBack() bool {
	s := m.says(m.claim.node)
	return m.claim.planned && s != nil && s.State == Switching && s.HasVM && m.vm == 0
}

// giveBack writes the node into the record that handed over: the guest was
// not heard here.
func (m *Machine) giveBack(why string) {
	m.swap(arbiter.Record{Speaker: m.claim.node}, toGoOn+why)
}

// mustFence reports whether the other node may still be heard: it does not
// answer, and is not known to have given up.
func (m *Machine) mustFence() bool {
	c := &m.claim
	return m.cfg.Fencing && !c.gaveUp && c.node != "" && (c.how != Alone || c.missing) && !m.up(c.node)
}

// fencedNode is the outcome of Fence.
func (m *Machine) fencedNode(ev FencedNode) {
	switch {
	case ev.Err == "":
	case m.cfg.FencingRequired:
		wait := doubled(m.cfg.RetryMin, m.cfg.RetryMax, m.claim.failed)
		m.claim.failed++
		m.reason = m.claim.reason + "; " + m.claim.node + " cannot be fenced: " + ev.Err
		m.warn(m.reason + "; the guest is mute, and it is tried again in " + wait.String())
		m.set(timerRetry, wait)
		m.sendStatus()
		return
	default:
		m.warn(m.claim.node + " cannot be fenced, and the guest goes on here all the same (fencing.required is false): " + ev.Err)
	}
	m.claim.gaveUp = true
	m.claimed()
}
