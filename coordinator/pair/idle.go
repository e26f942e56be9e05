package pair

import (
	"strings"

	"colod/coordinator/arbiter"
)

// waiting says what Idle waits for.
type waiting uint8

const (
	waitFacts    waiting = iota // the record, and whether a VM runs here
	waitCreate                  // the swap that makes the first record
	waitTakeover                // the other node is to take over from the VM that died here
	waitSpeaker                 // the speaker's word about the secondary that was found here
	waitHeld                    // maintenance holds the start of the guest
)

// stepIdle decides at start, and after the speaker's VM died.
func (m *Machine) stepIdle(ev Event) {
	switch ev := ev.(type) {
	case Start:
		m.wait = waitFacts
		m.read()
		m.finding = m.newOp()
		m.emit(FindVM{Op: m.finding})
		return
	case RecordRead, VMFound:
		if r, ok := ev.(RecordRead); ok && r.Err != "" {
			m.set(timerRetry, m.cfg.RecordPoll)
			return
		}
	case Swapped:
		if m.wait == waitCreate {
			m.wait = waitFacts
		}
		if ev.Outcome == SwapUnknown || ev.Outcome == SwapFailed {
			m.set(timerRetry, m.cfg.RecordPoll)
			return
		}
	case VMGone:
		if ev.Err != "" {
			m.warn("the VM here does not end: " + ev.Err)
			m.endVM()
			return
		}
	case expired:
		switch ev.t {
		case timerRetry, timerPoll:
			m.read()
			return
		case timerPhase:
			m.idleTimeout()
			return
		}
	case Received:
		if ev.From == m.rec.Standby {
			switch msg := ev.Msg.(type) {
			case COLOBroken:
				m.remind(msg.Session)
			case Status:
				m.remindStatus()
			}
		}
	case PeerUp:
		m.remindStatus()
	case VMDied, PeerDown:
	default:
		return
	}
	m.decide()
}

// remind tells the standby once more that the guest is no longer here: it
// may not have heard it, and then it is no longer fed and does not know why.
func (m *Machine) remind(session string) {
	switch to := m.rec.Standby; {
	case m.wait != waitTakeover || m.vm != 0 && m.ending == 0 || session == "":
	case session == m.given: // by an operator's wish, which maintenance does not hold
		m.send(to, HandOver{Session: session, Generation: m.rec.Generation, Reason: clip(m.reason)})
	default:
		m.send(to, PeerVMDied{Session: session, Generation: m.rec.Generation, Reason: clip(m.reason)})
	}
}

// remindStatus does so if the standby has said that it is the secondary still.
func (m *Machine) remindStatus() {
	if s := m.says(m.rec.Standby); s != nil && s.HasVM && s.Role == Secondary {
		m.remind(s.Session)
	}
}

// decide chooses the state that follows from the record and the VM here.
func (m *Machine) decide() {
	if !m.known || m.stale || m.finding != 0 || m.swapping != 0 || m.ending != 0 || m.quit {
		return
	}
	have := m.vm != 0
	if m.left && have && m.rec.Exists() && m.rec.Speaker == m.cfg.Self && !m.rec.Ended {
		m.guestLeft()
		return
	}
	switch {
	case !m.rec.Exists() && m.cfg.First:
		m.wait = waitCreate
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, "new pair")
	case !m.rec.Exists() && have:
		m.toFenced("a VM runs here, but the pair has no record yet and " + m.firstNode() + " is its first speaker")
	case !m.rec.Exists():
		m.toStandby("waiting for " + m.firstNode() + " to start the guest")
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopKeep)
	case m.rec.Speaker == m.cfg.Self:
		m.decideSpeaker(have)
	case !have:
		m.toStandby(m.rec.Speaker + " speaks")
	case m.rec.Standby == m.cfg.Self:
		m.decideFoundSecondary()
	default:
		m.toFenced("the record names " + m.rec.Speaker + " as speaker and not this node as standby")
	}
}

// decideSpeaker: the record names this node as speaker.
func (m *Machine) decideSpeaker(have bool) {
	switch {
	case m.rec.Standby == "" && have:
		if m.vmPaused && strings.HasPrefix(m.rec.Reason, toGoOn) {
			m.keepPaused, m.contAfter = false, true
		}
		m.toPromoting(promoteFree, Alone, "the guest runs here already and is adopted")
	case m.rec.Standby == "" && m.maint.on && !m.starting:
		if m.wait != waitHeld {
			m.toHeld("the guest does not run")
		}
		if m.timers[timerPoll] == 0 {
			m.set(timerPoll, m.cfg.RecordPoll)
		}
	case m.rec.Standby == "":
		m.toPromoting(promoteLaunch, Alone, "the guest is started")
	case have:
		// colod died here in the middle of protection: the session is gone. If
		// the VM stands still, that may have been for a switchover.
		m.keepPaused, m.contAfter = false, m.vmPaused
		m.toClaiming(claim{how: Alone}, "the guest runs here already; its protection ended with the former colod")
	case m.hasNothing(m.rec.Standby) && !m.maint.on:
		m.toClaiming(claim{how: Alone}, "no node holds the guest any more: it is started again")
	default:
		// The other node may hold the only copy: let it take over.
		if m.wait != waitTakeover {
			m.wait = waitTakeover
			m.reason = "the guest is not here; waiting for " + m.rec.Standby + " to take over"
			m.set(timerPhase, m.cfg.TakeoverWait)
			m.sendStatus()
		}
		if m.timers[timerPoll] == 0 {
			m.set(timerPoll, m.cfg.RecordPoll)
		}
	}
}

// decideFoundSecondary: colod died here while this node was the standby. The
// speaker, if it lives, will begin anew; if it does not answer, this VM is
// the guest.
func (m *Machine) decideFoundSecondary() {
	if p := m.says(m.rec.Speaker); p != nil {
		if p.HasVM {
			m.toFenced(m.rec.Speaker + " speaks; the secondary found here is no longer fed")
			return
		}
		if m.maint.on {
			return
		}
		m.keepPaused, m.contAfter = false, m.vmPaused
		m.toClaiming(claim{how: Alone}, m.rec.Speaker+" has no VM: the secondary found here takes over")
		return
	}
	if m.wait != waitSpeaker {
		m.wait = waitSpeaker
		m.role = Secondary
		m.reason = "a secondary was found here; waiting for " + m.rec.Speaker
		m.set(timerPhase, m.cfg.AdoptWait)
	}
	if m.timers[timerPoll] == 0 {
		m.set(timerPoll, m.cfg.RecordPoll)
	}
}

func (m *Machine) idleTimeout() {
	if m.maint.on && (m.wait == waitTakeover || m.wait == waitSpeaker) {
		m.reason += "; maintenance holds it back"
		m.wait = waitHeld
		m.sendStatus()
		return
	}
	switch m.wait {
	case waitTakeover:
		m.toClaiming(claim{how: Alone, missing: true}, m.rec.Standby+" did not take over in "+m.cfg.TakeoverWait.String()+": the guest is started again here")
	case waitSpeaker:
		if m.up(m.rec.Speaker) {
			m.set(timerPhase, m.cfg.AdoptWait)
			return
		}
		m.keepPaused, m.contAfter = false, m.vmPaused
		m.toClaiming(claim{how: Alone, missing: true}, m.rec.Speaker+" does not answer: the secondary found here takes over")
	}
}

// toWaiting is what the speaker does whose VM is gone while the other node
// can take over.
func (m *Machine) toWaiting(reason string) {
	m.become(Idle, NoRole, reason)
	m.wait = waitTakeover
	m.set(timerPhase, m.cfg.TakeoverWait)
	m.set(timerPoll, m.cfg.RecordPoll)
}

// orphaned: see toWaiting; whoever calls it has said PeerVMDied.
func (m *Machine) orphaned(reason string) {
	m.cut()
	m.mute()
	m.toWaiting(reason)
}

// hasNothing reports that the node says it has no VM, nor is about to.
func (m *Machine) hasNothing(name string) bool {
	p := m.says(name)
	return p != nil && !p.HasVM && (p.State == Standby || p.State == Idle || p.State == Stopped)
}
