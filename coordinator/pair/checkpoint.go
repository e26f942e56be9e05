package pair

import (
	"fmt"
	"strings"
	"time"
)

// ckptPhase is how far a checkpoint is.
type ckptPhase uint8

const (
	ckptHolding   ckptPhase = iota + 1 // both data paths begin to hold
	ckptTriggered                      // QEMU was asked
	ckptStopped                        // the primary's VM stands still
	ckptCovering                       // it runs again; what was held is being released
)

// checkpoint is the one under way, if phase is not 0.
type checkpoint struct {
	phase   ckptPhase
	reasons reasons
}

// reasons are the different causes of one checkpoint, in their order.
type reasons struct{ list []string }

// maxReasons bounds what one checkpoint remembers; the kinds are few.
const maxReasons = 16

func reasonsOf(r string) reasons { return reasons{[]string{r}} }

func (r *reasons) add(s string) {
	for _, x := range r.list {
		if x == s {
			return
		}
	}
	if len(r.list) < maxReasons {
		r.list = append(r.list, s)
	}
}

func (r reasons) empty() bool { return len(r.list) == 0 }

func (r reasons) String() string { return strings.Join(r.list, ", ") }

// Reasons of checkpoints that begin here; those of divergences are the data path's.
const (
	reasonTimer  = "timer"
	reasonManual = "manual"
)

// Planned says whether a reason of a checkpoint is other than divergence.
func Planned(reason string) bool { return reason == reasonTimer || reason == reasonManual }

// request asks for a checkpoint: now, or after the one under way.
func (m *Machine) request(reason string) {
	m.pending.add(reason)
	m.checkpointNow()
}

// checkpointNow begins a checkpoint if one is wanted and nothing stands
// against it. A VM that somebody stopped is left alone: a checkpoint would
// make it run again.
func (m *Machine) checkpointNow() {
	if m.state != Protected || m.role != Speaker || m.unusable != "" || m.pending.empty() ||
		m.vmPaused || m.pausing != 0 || m.plan.step == planPause {
		return
	}
	rs := m.pending
	m.pending = reasons{}
	m.become(Checkpointing, Speaker, "checkpoint: "+rs.String())
	m.beginCheckpoint(rs)
}

func (m *Machine) beginCheckpoint(rs reasons) {
	m.n++
	m.ckpt = checkpoint{phase: ckptHolding, reasons: rs}
	m.emit(Hold{N: m.n, Reasons: rs.list})
	m.set(timerPhase, m.cfg.CheckpointTimeout)
}

// checkpointEvent drives the checkpoint under way.
func (m *Machine) checkpointEvent(ev Event) {
	switch ev := ev.(type) {
	case Held:
		if ev.N != m.n || m.ckpt.phase != ckptHolding {
			return
		}
		if ev.Err != "" {
			m.checkpointFailed("the data paths cannot hold: " + ev.Err)
			return
		}
		m.ckpt.phase = ckptTriggered
		m.trigger()
	case Triggered:
		if ev.N == m.n && m.ckpt.phase == ckptTriggered && ev.Err != "" {
			m.checkpointFailed("QEMU cannot be asked for a checkpoint: " + ev.Err)
		}
	case VMStopped:
		if m.ckpt.phase == ckptTriggered {
			m.stopped(ev.At)
		} else {
			m.trackPause(ev)
		}
	case VMResumed:
		switch {
		case m.ckpt.phase == ckptStopped, m.ckpt.phase == ckptTriggered && m.vmPaused:
			// A VM that stood still before the checkpoint makes no STOP.
			m.vmPaused = false
			m.ckpt.phase = ckptCovering
			m.emit(Cover{N: m.n, At: ev.At})
		default:
			m.trackPause(ev)
		}
	case Covered:
		if ev.N != m.n || m.ckpt.phase != ckptCovering {
			return
		}
		if ev.Err != "" {
			m.checkpointFailed("what the checkpoint covers cannot be released: " + ev.Err)
			return
		}
		rs := m.ckpt.reasons
		m.ckpt = checkpoint{}
		m.checkpointDone(rs)
	case expired:
		switch ev.t {
		case timerPhase:
			if m.ckpt.phase != 0 {
				m.checkpointFailed(fmt.Sprintf("checkpoint %d was not done in %s (%s)", m.n, m.cfg.CheckpointTimeout, m.ckpt.phase))
			}
		case timerRetrigger:
			// A trigger that QEMU swallowed has no other sign. A second one
			// before STOP is harmless: it sets the same flag.
			if m.ckpt.phase == ckptTriggered {
				m.warn(fmt.Sprintf("checkpoint %d has not begun after %s: QEMU is asked again", m.n, m.cfg.Retrigger))
				m.trigger()
			}
		}
	}
}

func (p ckptPhase) String() string {
	switch p {
	case ckptHolding:
		return "waiting for the other node to hold"
	case ckptTriggered:
		return "waiting for the VM to stop"
	case ckptStopped:
		return "waiting for the VM to run again"
	case ckptCovering:
		return "waiting for the other node's VM to run again"
	}
	return "none"
}

func (m *Machine) trigger() {
	m.emit(Trigger{N: m.n})
	m.set(timerRetrigger, m.cfg.Retrigger)
}

func (m *Machine) stopped(at time.Time) {
	m.ckpt.phase = ckptStopped
	m.clear(timerRetrigger)
	m.emit(MarkStopped{N: m.n, At: at})
}

// trackPause remembers that somebody stopped the VM, and lets a checkpoint
// put both guests together again afterwards.
func (m *Machine) trackPause(ev Event) {
	switch ev.(type) {
	case VMStopped:
		m.vmPaused = true
	case VMResumed:
		m.resumed()
	}
}

// checkpointDone goes on after the checkpoint.
func (m *Machine) checkpointDone(rs reasons) {
	if m.state == Syncing {
		m.armed()
		return
	}
	m.become(Protected, Speaker, "protected by "+m.with)
	m.answer(OpCheckpoint, "")
	m.setIdle()
	m.quitSwap()
	m.planCovered(rs)
	m.pauseNow()
	m.checkpointNow()
}

func (m *Machine) checkpointFailed(reason string) {
	if m.state == Syncing {
		m.syncFailed(reason)
		return
	}
	m.peerUnusable(reason)
}

// SetIdleInterval changes Config.IdleInterval. It counts from the end of the next checkpoint on, or from the next event.
func (m *Machine) SetIdleInterval(d time.Duration) { m.cfg.IdleInterval = d }

func (m *Machine) setIdle() {
	if m.cfg.IdleInterval > 0 {
		m.set(timerIdle, m.cfg.IdleInterval)
	}
}
