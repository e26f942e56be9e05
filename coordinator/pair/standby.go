package pair

// toStandby: no VM here, mute, ready for the speaker.
func (m *Machine) toStandby(reason string) {
	m.cut()
	m.become(Standby, NoRole, reason)
	if !m.muted {
		m.mute()
	}
	m.set(timerPoll, m.cfg.RecordPoll)
}

func (m *Machine) stepStandby(ev Event) {
	switch ev := ev.(type) {
	case Muted:
		if ev.Err != "" {
			m.warn("the guest's devices cannot be muted: " + ev.Err)
			m.set(timerRetry, m.cfg.RetryMin)
			return
		}
		m.sendStatus() // ready now
	case expired:
		switch ev.t {
		case timerPoll:
			m.read()
			m.set(timerPoll, m.cfg.RecordPoll)
		case timerRetry:
			m.mute()
		}
	case RecordRead:
		m.standbyRecord()
	case Received:
		if p, ok := ev.Msg.(Prepare); ok {
			m.prepare(p)
		}
	}
}

// standbyRecord looks whether the record asks for something else than waiting.
func (m *Machine) standbyRecord() {
	switch {
	case !m.known || m.quit:
	case !m.rec.Exists() && m.cfg.First, m.rec.Exists() && !m.rec.Ended && m.rec.Speaker == m.cfg.Self:
		m.become(Idle, NoRole, "the record names this node as speaker")
		m.wait = waitFacts
		m.decide()
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopKeep)
	}
}

// prepare answers the speaker's request for a secondary.
func (m *Machine) prepare(p Prepare) {
	refuse := func(why string) {
		m.send(Refused{Session: p.Session, Reason: clip(why)})
	}
	switch {
	case m.quit:
		refuse(m.cfg.Self + " is being stopped")
	case !m.muted:
		refuse("the guest's devices on " + m.cfg.Self + " are not muted yet")
	case p.Guest != m.cfg.Guest:
		refuse("the guest is configured differently on " + m.cfg.Self + ": compare the keys vm, network.mac and network.mtu of both nodes' files")
	case p.Generation < m.rec.Generation:
		refuse("the request is older than the record")
	default:
		m.session = p.Session
		m.sync = syncStage{step: syncLaunching}
		m.become(Syncing, Secondary, m.cfg.Peer+" asks for a secondary")
		m.launch(true)
		m.set(timerPhase, m.cfg.SyncTimeout+2*m.cfg.StepTimeout)
	}
}
