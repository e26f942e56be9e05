package pair

import "time"

// toSolo: the guest runs here alone.
func (m *Machine) toSolo(reason string) {
	m.soloAt = m.now
	m.become(Solo, Speaker, reason)
	m.set(timerRetry, m.backoff())
}

// backoff is how long to wait before protecting again: hardly at first, and
// twice as long after each failure.
func (m *Machine) backoff() time.Duration {
	if m.failures == 0 {
		if m.promote.how == TakeOver || m.promote.how == Released {
			return m.cfg.SettleWait
		}
		return 0
	}
	return doubled(m.cfg.RetryMin, m.cfg.RetryMax, m.failures-1)
}

// doubled is d doubled n times, at most limit.
func doubled(d, limit time.Duration, n int) time.Duration {
	for range n {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return d
}

func (m *Machine) stepSolo(ev Event) {
	switch ev := ev.(type) {
	case Received, PeerUp:
		if m.timers[timerRetry] == 0 {
			m.protectAgain()
		}
	case expired:
		switch ev.t {
		case timerRetry:
			m.protectAgain()
		case timerGrace:
			m.graceOver()
		}
	case VMDied:
		m.guestLost(ev.Reason)
	case VMShutdown:
		m.speakerShutdown(ev)
	case RecordRead:
		m.soloRecord(ev)
	case VMStopped, VMResumed:
		m.trackPause(ev)
	}
}

// protectAgain begins a synchronisation if it is wanted and possible now.
func (m *Machine) protectAgain() {
	if m.cfg.AutoProtect && m.noAuto == "" && m.cannotProtect() == "" {
		m.toSyncing(m.cfg.Peer + " is ready to run a secondary")
	}
}

// cannotProtect is why a synchronisation cannot begin, or "".
func (m *Machine) cannotProtect() string {
	switch {
	case m.quit:
		return "colod is being stopped"
	case m.timers[timerGrace] != 0:
		return "the guest is being ended"
	case m.vmPaused:
		return "the guest is stopped by its operator"
	case !m.peerUp:
		return m.cfg.Peer + " does not answer"
	case m.peer == nil:
		return m.cfg.Peer + " has not said yet where it stands"
	case !m.peer.Ready:
		return m.cfg.Peer + " is not ready: " + m.peer.State.String() + ": " + m.peer.Reason
	}
	return ""
}

// guestLost: the VM died and nobody holds a copy. It is started again, but
// not for ever.
func (m *Machine) guestLost(reason string) {
	if m.now-m.soloAt > restartMemory {
		m.restarts = 0
	}
	m.restarts++
	if m.restarts > m.cfg.MaxRestarts {
		m.toStopped("the VM died again and again: "+reason, stopKeep)
		return
	}
	m.toPromoting(promoteLaunch, Alone, "the VM died and nobody holds a copy; it is started again: "+reason)
}
