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
	m.answerForce()
	m.pauseNow()
	if m.plan.step == planFree {
		m.planToSync()
	}
}

// backoff is how long to wait before protecting again: hardly at first, and
// twice as long after each failure.
func (m *Machine) backoff() time.Duration {
	n := m.failures
	if m.now-m.deafAt <= restartMemory {
		n = max(n, m.deaf)
	}
	if n > 0 {
		return doubled(m.cfg.RetryMin, m.cfg.RetryMax, n-1)
	}
	if m.promote.how == TakeOver || m.promote.how == Released {
		return m.cfg.SettleWait
	}
	return 0
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
		if m.plan.step == planChoose {
			m.planChosen(ev)
			return
		}
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
	if (m.cfg.AutoProtect || m.restore) && m.noAuto == "" && !m.maint.on && m.plan.step == planNone && m.cannotProtect() == "" {
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
	case m.vmPaused || m.pausing != 0 || m.keepPaused:
		return "the guest is stopped by its operator"
	case m.leaving:
		return "somebody else migrates the guest away"
	case m.forced:
		return "the record does not name this node yet"
	case m.cfg.Outside || len(m.readyPeers()) > 0:
		return ""
	}
	return m.nobodyReady()
}

// nobodyReady says of each node why it cannot run a secondary.
func (m *Machine) nobodyReady() string {
	var why []string
	for _, name := range m.peers.order {
		why = append(why, m.notReady(name))
	}
	if len(why) == 0 {
		return "the pair has no other node"
	}
	return strings.Join(why, "; ")
}

// notReady says why the node cannot run a secondary.
func (m *Machine) notReady(name string) string {
	switch p := m.peers.of(name); {
	case !p.up:
		return name + " does not answer"
	case p.status == nil:
		return name + " has not said yet where it stands"
	case p.status.State == Standby:
		return name + " is not ready: it is getting ready"
	default:
		return name + " is not ready: " + p.status.State.String() + ": " + p.status.Reason
	}
}

// guestLost: the VM died and nobody holds a copy. It is started again, but
// not for ever.
func (m *Machine) guestLost(reason string) {
	switch {
	case m.leaving:
		// It may run elsewhere now: nobody here can tell.
		m.toStopped("the VM died while somebody else migrated the guest away: "+reason, stopRecord)
		return
	case m.maint.on:
		m.toHeld("the VM died: " + reason)
		return
	}
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
