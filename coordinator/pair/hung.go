package pair

// vmHung: the VM here is of no use any more although nobody stopped it, and
// reason says what is the case: it hangs, its guest stands still at a disk
// error, or its image lacks a write.
func (m *Machine) vmHung(reason string) {
	switch {
	case m.vmPaused, m.ending != 0, m.timers[timerGrace] != 0:
		return
	case m.maint.on:
		m.warn(reason + "; maintenance holds back what would be done")
		return
	}
	switch m.state {
	case Protected, Checkpointing:
		if m.role == Secondary {
			m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: clip(reason)})
			m.toFenced(reason)
			return
		}
		if !m.up(m.with) {
			return
		}
		m.endVM()
		m.handOver(reason, reason)
	case Syncing:
		if m.role == Secondary {
			m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: clip(reason)})
			m.toFenced(reason)
			return
		}
		m.endVM()
		if m.sync.step == syncRecording {
			m.handOver(reason, reason)
			return
		}
		m.send(m.with, Abort{Session: m.session, Reason: clip(reason)})
		m.cut()
		m.guestLost(reason)
	case Solo:
		// Launched again only once the hung one is gone for certain.
		m.endVM()
		m.guestLost(reason)
	case Switching:
		m.warn(reason)
	}
}

// secondaryDeaf: the secondary's guest says nothing any more. It would not
// be a guest that can take over, so it is made anew.
func (m *Machine) secondaryDeaf(reason string) {
	switch {
	case m.role != Speaker || m.state != Protected && m.state != Checkpointing || m.unusable != "" || m.vmPaused:
	case m.maint.on:
		m.warn("the secondary's guest is deaf: " + reason + "; maintenance holds back what would be done")
	default:
		if m.now-m.deafAt > restartMemory {
			m.deaf = 0
		}
		m.deaf, m.deafAt = m.deaf+1, m.now
		m.triedLast(m.with)
		m.toClaiming(claim{how: Released}, "the secondary's guest on "+m.with+" is deaf: "+reason)
	}
}
