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
		m.prepare()
	case expired:
		switch ev.t {
		case timerPoll:
			m.read()
			m.set(timerPoll, m.cfg.RecordPoll)
		case timerRetry:
			m.mute()
		}
	case RecordRead:
		if ev.Err != "" && m.offer.from != "" {
			m.refuse(m.offer.from, m.offer.msg.Session, m.cfg.Self+" cannot read the record: "+ev.Err)
			m.offer = offer{}
		}
		m.standbyRecord()
		m.prepare()
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

// offer is a speaker's request for a secondary that waits until this node can
// answer it.
type offer struct {
	from string // "" = none
	msg  Prepare
}

// offered takes a request for a secondary. What comes while this node is
// still getting ready, or knows less of the record than the sender, waits. The
// same request (session and sender) comes again over a fresh connection.
func (m *Machine) offered(from string, p Prepare) {
	switch {
	case m.state == Idle || m.state == Standby:
		if m.offer.from != "" && (m.offer.from != from || m.offer.msg.Session != p.Session) {
			m.refuse(m.offer.from, m.offer.msg.Session, "another request for a secondary came")
		}
		m.offer = offer{from, p}
		m.prepare()
	case m.session == p.Session && from == m.with:
		if m.state == Syncing && m.sync.step == syncWaiting {
			m.send(from, Prepared{Session: m.session})
		}
	case m.role == Secondary && from == m.with && m.state == Syncing:
		m.refuse(from, p.Session, "an earlier secondary is being ended; try again")
		m.secondaryAlone(m.with + " begins anew")
	case m.role == Secondary && from == m.with && (m.state == Protected || m.state == Checkpointing):
		m.refuse(from, p.Session, "an earlier secondary is being ended; try again")
		m.toFenced(m.with + " begins anew")
	default:
		m.refuse(from, p.Session, m.cfg.Self+" is "+m.state.String()+": "+m.reason)
	}
}

func (m *Machine) refuse(to, session, why string) {
	m.send(to, Refused{Session: session, Reason: clip(why)})
}

// prepare answers the request that waits, if that can be done now.
func (m *Machine) prepare() {
	from, p := m.offer.from, m.offer.msg
	if from == "" {
		return
	}
	refuse := func(why string) {
		m.offer = offer{}
		m.refuse(from, p.Session, why)
	}
	switch {
	case m.quit:
		refuse(m.cfg.Self + " is being stopped")
	case m.state != Idle && m.state != Standby:
		refuse(m.cfg.Self + " is " + m.state.String() + ": " + m.reason)
	case p.Guest != m.cfg.Guest:
		refuse("the guest is configured differently on " + m.cfg.Self + ": compare the keys vm, network.mac and network.mtu of both nodes' files")
	case m.state == Idle || !m.muted:
		// Wait: for the record, a VM to be ended, or the devices to be muted.
	case p.Generation > m.rec.Generation:
		m.read()
	case p.Generation < m.rec.Generation:
		refuse("the request is older than the record")
	case from != m.rec.Speaker:
		refuse("the record does not name " + from + " as speaker: " + m.rec.String())
		m.readAnew()
	default:
		m.offer = offer{}
		m.session, m.with = p.Session, from
		m.sync = syncStage{step: syncLaunching}
		m.become(Syncing, Secondary, from+" asks for a secondary")
		m.launch(true)
		m.set(timerPhase, m.cfg.SyncTimeout+2*m.cfg.StepTimeout)
	}
}
