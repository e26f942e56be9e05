package pair

import (
	"strings"
	"time"
)

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
	case Chosen:
		m.chosen(ev)
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
		m.choose(false)
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
	case m.cfg.Outside || len(m.readyPeers()) > 0:
		return ""
	}
	return m.nobodyReady()
}

// nobodyReady says of each node why it cannot run a secondary.
func (m *Machine) nobodyReady() string {
	var why []string
	for _, name := range m.peers.order {
		switch p := m.peers.by[name]; {
		case !p.up:
			why = append(why, name+" does not answer")
		case p.status == nil:
			why = append(why, name+" has not said yet where it stands")
		case !p.status.Ready:
			why = append(why, name+" is not ready: "+p.status.State.String()+": "+p.status.Reason)
		}
	}
	if len(why) == 0 {
		return "the pair has no other node"
	}
	return strings.Join(why, "; ")
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
