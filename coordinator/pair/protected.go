package pair

import "colod/coordinator/arbiter"

// toProtectedSpeaker: the record names the standby.
func (m *Machine) toProtectedSpeaker() {
	m.failures, m.noAuto, m.restarts, m.restore = 0, "", 0, false
	m.forgive(m.with)
	m.choice.none = false
	m.become(Protected, Speaker, "protected by "+m.with)
	m.send(m.with, Armed{Session: m.session, Record: m.rec})
	m.planProtected() // its question is for a secondary that knows that it is one
	m.setIdle()
	m.quitSwap()
	m.pauseNow()
	m.checkpointNow()
}

// stepProtectedSpeaker serves Protected and Checkpointing.
func (m *Machine) stepProtectedSpeaker(ev Event) {
	switch ev := ev.(type) {
	case PeerUp:
		m.send(m.with, Armed{Session: m.session, Record: m.rec})
	case PeerDown:
		m.toClaiming(claim{how: Released}, m.with+" is lost: "+ev.Reason)
	case restarted:
		m.toClaiming(claim{how: Released}, "colod on "+m.with+" was started again")
	case LinkLost:
		m.peerUnusable("the link between the data paths is lost: " + ev.Reason)
	case COLOExit:
		m.peerUnusable("QEMU ended COLO: " + ev.Reason)
	case Received:
		switch msg := ev.Msg.(type) {
		case Prepared:
			if msg.Session == m.session {
				m.plan.agreed = true
				m.planAgreed()
			}
		case Refused:
			if msg.Session == m.session && m.plan.step == planCheck {
				m.planFailed(m.with + " refused to take over: " + msg.Reason)
			}
		case PeerVMDied:
			if msg.Session == m.session {
				m.toClaiming(claim{how: Released, gaveUp: true}, "the VM on "+m.with+" ended: "+msg.Reason)
			}
		case COLOBroken:
			if msg.Session == m.session {
				m.peerUnusable(m.with + " is no longer fed: " + msg.Reason)
			}
		}
	case VMChecked:
		m.vmChecked(ev)
	case VMDied:
		m.handOver("the VM here died: "+ev.Reason, "its VM died: "+ev.Reason)
	case VMShutdown:
		m.speakerShutdown(ev)
	case Chosen:
		m.planChosen(ev)
	case Swapped:
		switch {
		case m.plan.step == planLetGo:
			m.planSwapped(ev)
		case m.quit:
			m.quitSwapped(ev)
		default:
			m.protectedRecord()
		}
	case RecordRead:
		switch {
		case m.quit && m.swapping != 0:
		case m.plan.step == planReach:
			m.planReached(ev)
		case m.plan.step == planLetGo:
			// What it says may be of before or after the swap under way.
		case ev.Err == "":
			m.protectedRecord()
			m.plan.read = true
			m.planAgreed()
		case m.plan.step == planCheck:
			m.planFailed("the arbiter cannot be read, and without it nobody may speak: " + ev.Err)
		}
	case Quit:
		m.quitSpeaker()
	case Diverged:
		m.request(ev.Reason)
	case expired:
		switch {
		case ev.t == timerIdle:
			m.request(reasonTimer)
		case ev.t == timerGrace:
			m.graceOver()
		case ev.t == timerRetry:
			m.quitSwap()
		case ev.t == timerSwitch:
			m.planTimeout()
		case m.state == Checkpointing && m.unusable == "":
			m.checkpointEvent(ev)
		}
	default:
		if m.state == Checkpointing && m.unusable == "" {
			m.checkpointEvent(ev)
		} else {
			m.trackPause(ev)
		}
	}
}

// quitSpeaker: colod is to end, so the guest goes on alone. Until the record
// says so it stays protected, for as long as this colod is left alive.
func (m *Machine) quitSpeaker() {
	if m.plan.step == planPause {
		m.planGoOn("colod is being stopped")
	}
	m.planFailed("colod is being stopped")
	m.quitSwap()
}

const reasonQuit = "colod is being stopped: the guest goes on alone"

// quitSwap writes the record without the secondary.
func (m *Machine) quitSwap() {
	if m.quit && !m.exited && m.swapping == 0 {
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, reasonQuit)
	}
}

// quitSwapped is the outcome of quitSwap.
func (m *Machine) quitSwapped(ev Swapped) {
	switch ev.Outcome {
	case SwapWon:
		m.cut()
		m.toPromoting(promoteFree, Released, reasonQuit)
	case SwapLost:
		m.protectedRecord()
	case SwapUnknown:
		m.toClaiming(claim{how: Released}, reasonQuit)
	default:
		m.set(timerRetry, m.cfg.RecordPoll)
	}
}

// protectedRecord: the record has to be what a protected speaker knows.
func (m *Machine) protectedRecord() {
	if m.rec.Speaker != m.cfg.Self || m.rec.Standby != m.with || m.rec.Ended {
		m.recordLost()
	}
}

// peerUnusable: the other side no longer follows although its node may be
// well. Before it is given up, our own VM has to give a sign of life: it may
// be the one that is gone, and then the other side is the guest.
func (m *Machine) peerUnusable(reason string) {
	if m.unusable != "" {
		return
	}
	m.unusable = reason
	m.emit(CutSession{Session: m.session})
	m.checkVM()
}

func (m *Machine) vmChecked(ev VMChecked) {
	if m.unusable == "" {
		return
	}
	if ev.Err != "" && m.up(m.with) {
		m.endVM()
		m.handOver("the VM here does not answer: "+ev.Err, "its VM does not answer: "+ev.Err)
		return
	}
	m.triedLast(m.with)
	m.toClaiming(claim{how: Released}, m.unusable)
}

// handOver tells the other node why to take over; the VM here is gone or
// being ended.
func (m *Machine) handOver(reason, tell string) {
	m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: clip(tell)})
	m.orphaned(reason)
}

// speakerShutdown: QEMU says why its VM ends. Only what somebody wished for
// is the end of the guest; the process's death follows for the rest.
func (m *Machine) speakerShutdown(ev VMShutdown) {
	if !ev.Planned {
		return
	}
	m.send(m.partner(), PeerEnded{Generation: m.rec.Generation, Reason: clip(ev.Reason)})
	m.toStopped("the guest was ended: "+ev.Reason, stopRecord)
}

// toProtectedSecondary: the speaker says that the record names this node as
// standby, and the record was taken in.
func (m *Machine) toProtectedSecondary() {
	m.become(Protected, Secondary, "secondary of "+m.with)
}

// stepProtectedSecondary serves Protected and Checkpointing.
func (m *Machine) stepProtectedSecondary(ev Event) {
	switch ev := ev.(type) {
	case VMStopped:
		m.emit(SecondaryStopped{At: ev.At})
		if m.state == Protected {
			m.becomeSecondary(Checkpointing, "the VM here takes the primary's state")
		}
	case VMResumed:
		m.emit(SecondaryResumed{At: ev.At})
		if m.state == Checkpointing {
			m.becomeSecondary(Protected, "secondary of "+m.with)
		}
	case PeerDown:
		m.takeOver(claim{how: TakeOver}, m.with+" is lost: "+ev.Reason)
	case restarted:
		m.takeOver(claim{how: TakeOver}, "colod on "+m.with+" was started again")
	case COLOExit:
		m.suspicion("QEMU ended COLO: " + ev.Reason)
	case LinkLost:
		m.suspicion("the link between the data paths is lost: " + ev.Reason)
	case Received:
		switch msg := ev.Msg.(type) {
		case PeerVMDied:
			if msg.Session == m.session {
				m.takeOver(claim{how: TakeOver, gaveUp: true}, m.with+": "+msg.Reason)
			}
		case HandOver:
			switch {
			case msg.Session != m.session:
				m.refuse(m.with, msg.Session, "another session is under way")
			case msg.Check:
				m.toCheck = true
				m.readAnew()
			default:
				m.toClaiming(claim{how: TakeOver, gaveUp: true, planned: true}, m.with+" hands over: "+msg.Reason)
			}
		case Status:
			m.keepPaused = msg.Paused
		case PeerEnded:
			if msg.Generation == m.rec.Generation {
				m.toStopped("ended on "+m.with+": "+msg.Reason, stopEnd)
			}
		case Abort:
			if msg.Session == m.session {
				m.toFenced(m.with + " gave up: " + msg.Reason)
			}
		}
	case RecordRead:
		switch {
		case ev.Err != "":
			if m.toCheck {
				m.toCheck = false
				m.refuse(m.with, m.session, m.cfg.Self+" cannot read the record: "+ev.Err)
			}
		case m.rec.Ended:
			m.toStopped(m.rec.Reason, stopEnd)
		case m.rec.Speaker != m.with || m.rec.Standby != m.cfg.Self:
			m.toFenced("the record no longer names this node: " + m.rec.String())
		case m.toCheck:
			m.toCheck = false
			m.send(m.with, Prepared{Session: m.session})
		}
	case VMDied:
		m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: clip(ev.Reason)})
		m.toStandby("the VM here died: " + ev.Reason)
	case VMShutdown:
		m.warn("the secondary's guest shut down: " + ev.Reason)
	case Quit:
		m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: "colod is being stopped"})
		m.toFenced("colod is being stopped")
	case expired:
		if ev.t == timerSuspect && m.suspect != "" {
			m.send(m.with, COLOBroken{Session: m.session, Reason: clip(m.suspect)})
			m.set(timerSuspect, m.cfg.SuspectWait)
		}
		if ev.t == timerPoll && m.held != "" {
			m.read()
			m.set(timerPoll, m.cfg.RecordPoll)
		}
	}
}

// becomeSecondary is a checkpoint's beginning or end. What maintenance holds
// back is still the reason to be told.
func (m *Machine) becomeSecondary(s State, reason string) {
	if m.held != "" {
		reason = m.reason
	}
	m.become(s, Secondary, reason)
}

// suspicion: this side is no longer fed. If the speaker's VM is dead or
// ended its node says so at once; so wait for its word, then ask for it.
func (m *Machine) suspicion(reason string) {
	if m.suspect == "" {
		m.suspect = reason
		m.set(timerSuspect, m.cfg.SuspectWait)
	}
}
