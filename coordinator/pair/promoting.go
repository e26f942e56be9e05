package pair

// promoteStage is what Promoting begins with.
type promoteStage uint8

const (
	promoteLaunch promoteStage = iota + 1 // launch a VM, then speak
	promoteFree                           // a VM runs: free it from COLO, and speak
	promoteSpeak                          // the VM is free, or being freed
)

// promotion belongs to Promoting.
type promotion struct {
	how       How
	launching bool // the VM is being launched, or will be once the former one is gone
	spoken    bool // the data path is open
	failed    int  // launches in a row that failed
}

// toPromoting: the record names this node and no standby. A VM that runs is
// heard at once, while it is still being freed from COLO: what it said and
// what clients say to it need not wait for that.
//
// This is the only way to speak alone, so the record is looked at once more
// here: if it names a standby after all, or may come to by a write that is
// late, it has to be won first.
func (m *Machine) toPromoting(stage promoteStage, how How, reason string) {
	if !m.forced && (m.rec.Speaker != m.cfg.Self || m.rec.Standby != "" || m.rec.Ended || m.doubt.on) {
		m.toClaiming(claim{how: how}, reason)
		return
	}
	if m.linked && how == Alone {
		how = Released
	}
	m.promote, m.starting = promotion{how: how}, false
	m.become(Promoting, Speaker, reason)
	switch stage {
	case promoteLaunch:
		m.promoteLaunch()
	case promoteFree:
		m.freeVM()
		m.promoteSpeak()
	case promoteSpeak:
		m.promoteSpeak()
	}
}

func (m *Machine) promoteLaunch() {
	m.promote.launching = true
	if m.ending == 0 {
		m.launch(false)
	}
}

// promoteSpeak opens the data path, unless a VM has to be launched first.
func (m *Machine) promoteSpeak() {
	if !m.promote.launching && !m.promote.spoken && m.speaking == 0 {
		m.speak(m.promote.how)
	}
}

// promoteDone goes on when the guest runs and is heard.
func (m *Machine) promoteDone() {
	if m.promote.spoken && !m.promote.launching && m.freeing == 0 {
		m.toSolo(m.reason)
	}
}

func (m *Machine) stepPromoting(ev Event) {
	switch ev := ev.(type) {
	case VMLaunched:
		if ev.Err != "" {
			m.launchFailed(ev.Err)
			return
		}
		m.promote.launching = false
		m.promoteSpeak()
		m.promoteDone()
	case VMFreed:
		if ev.Err != "" {
			m.warn("the VM cannot be freed from its peer and is ended: " + ev.Err)
			m.endVM()
			m.promoteLaunch()
			return
		}
		m.promoteDone()
	case VMGone:
		if ev.Err != "" {
			m.warn("the VM here does not end: " + ev.Err)
			m.endVM()
			return
		}
		if m.promote.launching && m.launching == 0 && m.timers[timerRetry] == 0 {
			m.launch(false)
		}
	case VMDied:
		m.freeing = 0
		if m.ending != 0 && m.promote.launching {
			return // it was being ended anyway
		}
		if m.maint.on {
			m.toHeld("the VM died: " + ev.Reason)
			return
		}
		m.restarts++
		if m.restarts > m.cfg.MaxRestarts {
			m.toStopped("the VM died again and again: "+ev.Reason, stopKeep)
			return
		}
		m.warn("the VM died and is launched again: " + ev.Reason)
		m.promoteLaunch()
	case VMShutdown:
		m.speakerShutdown(ev)
	case Speaking:
		if ev.Err != "" {
			m.linked = m.promote.how != Alone
			m.warn("the data path cannot be opened: " + ev.Err)
			m.set(timerRetry, m.cfg.RetryMin)
			return
		}
		m.promote.spoken = true
		m.promoteDone()
	case RecordRead:
		m.soloRecord(ev)
	case expired:
		switch ev.t {
		case timerRetry:
			if m.promote.launching && m.launching == 0 {
				m.promoteLaunch()
			}
			m.promoteSpeak()
		case timerGrace:
			m.graceOver()
		}
	}
}

// launchFailed: the guest is tried again, ever more rarely: what is missing
// may come, such as a file system that is mounted late.
func (m *Machine) launchFailed(why string) {
	m.promote.failed++
	wait := doubled(m.cfg.RetryMin, m.cfg.RetryMax, m.promote.failed-1)
	m.reason = "the guest cannot be started: " + why
	m.warn(m.reason + "; tried again in " + wait.String())
	m.answer(OpStart, m.reason)
	m.set(timerRetry, wait)
	m.sendStatus()
}

// soloRecord: a node that speaks alone saw the record.
func (m *Machine) soloRecord(ev RecordRead) {
	if ev.Err != "" {
		return
	}
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Speaker != m.cfg.Self:
		m.toFenced("the record names another speaker: " + m.rec.String())
	}
}
