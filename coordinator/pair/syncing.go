package pair

import (
	"fmt"
	"time"

	"colod/coordinator/arbiter"
)

// syncStep is how far a synchronisation is.
type syncStep uint8

const (
	// On the speaker.
	syncPreparing syncStep = iota + 1 // the other node launches its VM
	syncLinking                       // the data paths are being connected
	syncCopying                       // QEMU copies the guest
	syncArming                        // the first checkpoint with the data path in lock-step
	syncRecording                     // the record is to name the standby
	// On the secondary.
	syncLaunching // the VM is being launched
	syncWaiting   // for the state, and for the record
)

// syncStage belongs to Syncing.
type syncStage struct {
	step   syncStep
	why    string // (speaker) why this node was chosen
	armed  bool   // (secondary) asked to look at the record because the speaker is lost
	reread bool   // (speaker) the swap's outcome is unknown; the record is being read
}

// toSyncing begins a synchronisation with a node as speaker.
func (m *Machine) toSyncing(node, reason string) {
	m.sessions++
	m.session, m.with = fmt.Sprintf("%x-%d", m.boot, m.sessions), node
	m.sync = syncStage{step: syncPreparing}
	m.ckpt, m.pending = checkpoint{}, reasons{}
	m.become(Syncing, Speaker, reason)
	m.askToPrepare()
	m.set(timerPhase, m.cfg.StepTimeout)
}

// askToPrepare asks the other node for a secondary, or again over a fresh connection: the request or its answer may have
// been lost with the last one.
func (m *Machine) askToPrepare() {
	m.send(m.with, Prepare{Session: m.session, Generation: m.rec.Generation, Guest: m.cfg.Guest})
}

func (m *Machine) syncNext(s syncStep, limit time.Duration) {
	m.sync.step = s
	m.set(timerPhase, limit)
}

func (m *Machine) stepSyncingSpeaker(ev Event) {
	switch ev := ev.(type) {
	case Received:
		switch msg := ev.Msg.(type) {
		case Prepared:
			if msg.Session == m.session && m.sync.step == syncPreparing {
				m.linked = true
				m.syncNext(syncLinking, m.cfg.StepTimeout)
				m.emit(Link{Session: m.session})
			}
		case Refused:
			if msg.Session == m.session {
				m.syncFailed(m.with + " refused to run a secondary: " + msg.Reason)
			}
		case PeerVMDied:
			if msg.Session == m.session {
				m.syncFailed("the VM on " + m.with + " ended: " + msg.Reason)
			}
		case COLOBroken:
			if msg.Session == m.session {
				m.syncFailed(m.with + " is no longer fed: " + msg.Reason)
			}
		}
	case Linked:
		if m.sync.step != syncLinking {
			return
		}
		if ev.Err != "" {
			m.syncFailed("the data paths cannot be connected: " + ev.Err)
			return
		}
		m.syncNext(syncCopying, m.cfg.SyncTimeout)
		m.emit(Copy{Session: m.session})
	case Copied:
		if m.sync.step != syncCopying {
			return
		}
		if ev.Err != "" {
			if ev.Permanent {
				m.noAuto = ev.Err
			}
			m.syncFailed("the guest cannot be copied: " + ev.Err)
			return
		}
		m.sync.step = syncArming
		m.clear(timerPhase)
		m.beginCheckpoint(reasonsOf("arming"))
	case Swapped:
		m.recorded(ev)
	case RecordRead:
		m.recordReread(ev)
	case PeerUp:
		if m.sync.step == syncPreparing {
			m.askToPrepare()
		}
	case PeerDown:
		m.syncFailed(m.with + " is lost: " + ev.Reason)
	case restarted:
		m.syncFailed("colod on " + m.with + " was started again")
	case LinkLost:
		m.syncFailed("the link between the data paths is lost: " + ev.Reason)
	case COLOExit:
		if m.sync.step >= syncCopying {
			m.syncFailed("QEMU ended COLO: " + ev.Reason)
		}
	case VMDied:
		if m.sync.step == syncRecording {
			// The record may name the standby already, which holds a copy.
			m.handOver("the VM here died: "+ev.Reason, "its VM died: "+ev.Reason)
			return
		}
		m.send(m.with, Abort{Session: m.session, Reason: clip("the guest's VM died: " + ev.Reason)})
		m.cut()
		m.guestLost(ev.Reason)
	case VMShutdown:
		m.speakerShutdown(ev)
	case Quit:
		m.syncFailed("colod is being stopped")
	case Diverged:
		m.pending.add(ev.Reason)
	case expired:
		switch {
		case m.sync.step == syncRecording && ev.t == timerRetry:
			m.read()
		case m.sync.step == syncArming:
			m.checkpointEvent(ev)
		case ev.t == timerPhase:
			m.syncFailed(fmt.Sprintf("no progress within the time allowed (%s)", m.sync.name()))
		}
	default:
		if m.sync.step == syncArming {
			m.checkpointEvent(ev)
		} else {
			m.trackPause(ev)
		}
	}
}

func (s syncStage) name() string {
	switch s.step {
	case syncPreparing:
		return "preparing the secondary"
	case syncLinking:
		return "connecting the data paths"
	case syncCopying:
		return "copying the guest"
	case syncArming:
		return "first checkpoint"
	case syncRecording:
		return "writing the record"
	case syncLaunching:
		return "launching the secondary"
	case syncWaiting:
		return "waiting for the guest's state"
	}
	return "synchronising"
}

// armed follows the arming checkpoint: from here on nothing is released
// without the secondary's agreement, so the record may name it.
func (m *Machine) armed() {
	m.syncNext(syncRecording, m.cfg.StepTimeout)
	reason := "protected by " + m.with
	if m.sync.why != "" {
		reason += ": " + m.sync.why
	}
	m.swap(arbiter.Record{Speaker: m.cfg.Self, Standby: m.with}, reason)
}

// recorded is the outcome of the swap that names the standby.
func (m *Machine) recorded(ev Swapped) {
	if m.sync.step != syncRecording {
		return
	}
	switch ev.Outcome {
	case SwapWon:
		m.toProtectedSpeaker()
	case SwapLost:
		m.recordLost()
	default:
		m.sync.reread = true
		m.set(timerRetry, m.cfg.RecordPoll)
	}
}

// recordReread resolves a swap of unknown outcome.
func (m *Machine) recordReread(ev RecordRead) {
	switch {
	case m.rec.Speaker != m.cfg.Self || m.rec.Ended:
		m.recordLost()
	case m.sync.step != syncRecording || !m.sync.reread:
	case ev.Err != "":
		m.set(timerRetry, m.cfg.RecordPoll)
	case m.rec == m.next:
		m.toProtectedSpeaker()
	default:
		m.sync.reread = false
		m.armed()
	}
}

// recordLost: somebody else changed the record under a speaker.
func (m *Machine) recordLost() {
	if m.rec.Ended {
		m.toStopped(m.rec.Reason, stopEnd)
		return
	}
	if m.rec.Speaker == m.cfg.Self {
		// Our own former colod: take the record as it is now.
		m.toClaiming(claim{how: Released}, "the record was changed: "+m.rec.String())
		return
	}
	m.toFenced("the record names another speaker: " + m.rec.String())
}

// syncFailed gives a synchronisation up; the guest goes on alone.
func (m *Machine) syncFailed(reason string) {
	m.failures++
	m.choice.none = true
	m.triedLast(m.with)
	m.send(m.with, Abort{Session: m.session, Reason: clip(reason)})
	step := m.sync.step
	switch {
	case step == syncRecording:
		// The record may name the standby already: only the record can tell.
		m.toClaiming(claim{how: Released}, reason)
	case step == syncPreparing:
		m.cut()
		m.toSolo("not protected: " + reason)
	default:
		m.cut()
		m.toPromoting(promoteFree, Released, "not protected: "+reason)
	}
}

func (m *Machine) stepSyncingSecondary(ev Event) {
	switch ev := ev.(type) {
	case VMLaunched:
		if ev.Err != "" {
			m.send(m.with, Refused{Session: m.session, Reason: clip(ev.Err)})
			m.toStandby("the secondary could not be launched: " + ev.Err)
			return
		}
		m.sync.step = syncWaiting
		m.send(m.with, Prepared{Session: m.session})
		m.sendStatus()
	case Linked:
		if ev.Err != "" {
			m.warn("the data paths cannot be connected: " + ev.Err)
			return
		}
		m.linked = true
	case VMStopped:
		m.emit(SecondaryStopped{At: ev.At})
	case VMResumed:
		m.emit(SecondaryResumed{At: ev.At})
	case Received:
		switch msg := ev.Msg.(type) {
		case Armed:
			if msg.Session == m.session && msg.Record.Pair == m.cfg.Pair && msg.Record.Standby == m.cfg.Self {
				m.learn(msg.Record)
				m.toProtectedSecondary()
			}
		case Abort:
			if msg.Session == m.session {
				m.toFenced(m.with + " gave up: " + msg.Reason)
			}
		case PeerVMDied:
			if msg.Session == m.session {
				m.secondaryAlone(m.with + ": " + msg.Reason)
			}
		case PeerEnded:
			m.toStopped("ended on "+m.with+": "+msg.Reason, stopEnd)
		}
	case RecordRead:
		if m.sync.armed && ev.Err != "" {
			m.set(timerRetry, m.cfg.RecordPoll)
			return
		}
		if m.sync.armed {
			m.secondaryRecord()
		}
	case PeerDown:
		m.secondaryAlone(m.with + " is lost: " + ev.Reason)
	case restarted:
		m.secondaryAlone("colod on " + m.with + " was started again")
	case VMDied:
		m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: clip(ev.Reason)})
		m.toStandby("the VM here died: " + ev.Reason)
	case VMShutdown:
		m.warn("the secondary's guest shut down: " + ev.Reason)
	case Quit:
		m.send(m.with, PeerVMDied{Session: m.session, Generation: m.rec.Generation, Reason: "colod is being stopped"})
		m.toFenced("colod is being stopped")
	case expired:
		switch ev.t {
		case timerPhase:
			m.secondaryAlone("no protection within the time allowed")
		case timerRetry:
			m.read()
		}
	}
}

// secondaryAlone: the session has no speaker any more. Only the record can
// tell whether this VM already counts.
func (m *Machine) secondaryAlone(reason string) {
	m.reason = reason
	if m.sync.step == syncLaunching {
		m.toFenced(reason)
		return
	}
	m.sync.armed = true
	m.readAnew()
}

func (m *Machine) secondaryRecord() {
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Exists() && m.rec.Standby == m.cfg.Self:
		if m.maint.on {
			reason := m.reason
			m.toProtectedSecondary()
			m.takeOver(claim{how: TakeOver}, reason)
			return
		}
		m.toClaiming(claim{how: TakeOver}, m.reason)
	default:
		m.toFenced(m.reason)
	}
}
