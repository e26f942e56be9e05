package pair

import (
	"strings"

	"colod/coordinator/arbiter"
)

// stopMode is what has to be done on the way to Stopped.
type stopMode uint8

const (
	stopKeep   stopMode = iota // nothing: the record says so already, or is left as it is
	stopEnd                    // the VM here is ended
	stopRecord                 // the VM here is ended and the record says that the guest is
)

// stopping belongs to Stopped.
type stopping struct {
	record   bool // the record has still to be written
	await    bool // the other node is to write into the record that the guest was ended
	starting bool // an operator's start is being recorded
	settled  bool // nothing is under way
}

// toStopped: the guest is not to run.
func (m *Machine) toStopped(reason string, mode stopMode) {
	m.clear(timerGrace)
	m.cut()
	if m.deleting {
		reason, mode = deleted+" by an operator: "+reason, stopRecord
	}
	m.stop = stopping{record: mode == stopRecord, await: mode == stopEnd && !m.rec.Ended}
	m.become(Stopped, NoRole, reason)
	if !m.muted {
		m.mute()
	}
	if (m.vm != 0 || m.launching != 0) && m.ending == 0 {
		m.endVM() // one that is being launched too: this comes after it
	}
	m.recordEnd()
	m.set(timerPoll, m.cfg.RecordPoll)
	m.stopSettle()
}

// recordEnd writes that the guest was ended, once it cannot be heard here
// any more: from then on the guest may be started on the other node.
func (m *Machine) recordEnd() {
	gone := m.vm == 0 && m.ending == 0 && m.launching == 0
	if m.stop.record && m.swapping == 0 && !m.stale && (m.muted || gone) {
		m.swap(arbiter.Record{Speaker: m.cfg.Self, Ended: true}, m.reason)
	}
}

func (m *Machine) stepStopped(ev Event) {
	switch ev := ev.(type) {
	case VMGone:
		if ev.Err != "" {
			m.warn("the VM here does not end: " + ev.Err)
			m.endVM()
			return
		}
		m.sendStatus()
		m.recordEnd()
		if m.stop.await {
			m.readAnew()
		}
	case Muted:
		if ev.Err != "" {
			m.warn("the guest's devices cannot be muted: " + ev.Err)
			m.set(timerRetry, m.cfg.RetryMin)
			return
		}
		m.recordEnd()
	case Swapped:
		m.stopSwapped(ev)
	case RecordRead:
		m.stopRead(ev)
	case expired:
		switch ev.t {
		case timerPoll:
			m.read()
			m.set(timerPoll, m.cfg.RecordPoll)
		case timerRetry:
			m.mute()
		}
	}
	if m.state == Stopped {
		m.stopSettle()
	}
}

// stopSwapped looks at the record after a swap: the end's, a start's, or one
// that was under way when the guest was ended.
func (m *Machine) stopSwapped(ev Swapped) {
	switch {
	case ev.Outcome != SwapWon && ev.Outcome != SwapLost:
		// The next poll reads the record.
	case !m.stop.starting:
		m.stopLook()
	case m.rec.Ended:
		// The end was recorded meanwhile, by the other node: it is what is to be undone.
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, "started by an operator")
	case m.rec.Speaker == m.cfg.Self:
		m.stop.starting = false
		m.toPromoting(promoteLaunch, Alone, "started by an operator")
	default:
		m.stop.starting = false
		m.answer(OpStart, "the record was changed by the other node: "+m.rec.String())
		m.stopLook()
	}
}

// stopRead looks at the record after a poll.
func (m *Machine) stopRead(ev RecordRead) {
	if ev.Err != "" || m.swapping != 0 {
		return
	}
	if m.stop.starting {
		m.stop.starting = false
		if m.rec.Speaker == m.cfg.Self && !m.rec.Ended {
			m.toPromoting(promoteLaunch, Alone, "started by an operator")
			return
		}
		m.answer(OpStart, "the record could not be written")
	}
	m.stopLook()
}

// stopLook compares the record with what Stopped wants of it.
func (m *Machine) stopLook() {
	switch {
	case m.rec.Ended && m.deleting && !m.deleted():
		m.recordEnd()
	case m.rec.Ended:
		m.stop.record, m.deleting = false, false
	case m.rec.Speaker != m.cfg.Self && m.rec.Exists():
		m.stop.record = false
		if m.vm == 0 && m.ending == 0 {
			m.toStandby(m.rec.Speaker + " speaks")
		}
	default:
		if m.stop.await && m.rec.Speaker == m.cfg.Self {
			m.stop.await, m.stop.record = false, true // the other node cannot: it is for us
		}
		m.recordEnd()
	}
}

func (m *Machine) stopSettle() {
	if m.rec.Ended {
		m.stop.await = false
	}
	m.stop.settled = !m.stop.await && m.ending == 0 && m.launching == 0 && m.swapping == 0 && !m.stop.record && !m.stop.starting && m.vm == 0
	if !m.stop.settled {
		return
	}
	m.answer(OpStop, "")
	if m.deleted() {
		if !m.forgot {
			m.forgot = true
			m.emit(Forget{})
		}
		m.answer(OpDelete, "")
	}
}

// start carries out an operator's start.
func (m *Machine) start(a Ask) string {
	switch {
	case m.deleted() && !a.On:
		return "the guest was deleted; start it with --create to make it anew"
	case m.releasedElsewhere() && !a.Force:
		return m.rec.Speaker + " has released the guest, whose VM may run there without colod: a start here would make a second one; " +
			"take it back there (colod adopt), or, if that VM has ended, start the guest there, or here with --force"
	case !m.stop.settled:
		return "the guest is still being ended; try again"
	case m.rec.Speaker == m.cfg.Self && !m.rec.Ended:
		m.restarts = 0
		m.toPromoting(promoteLaunch, Alone, "started by an operator")
	case !m.rec.Ended:
		return "the record does not say that the guest was ended: " + m.rec.String()
	default:
		m.restarts = 0
		m.stop.starting, m.stop.settled = true, false
		m.forgot, m.deleting = false, false
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, "started by an operator")
	}
	return ""
}

// deleted is how the record's reason begins when the guest was deleted.
const deleted = "deleted"

// deleted reports whether the record says that the guest was ended for good.
func (m *Machine) deleted() bool { return m.rec.Ended && strings.HasPrefix(m.rec.Reason, deleted) }

// released is how the record's reason begins when the guest's VM was let go.
const released = "released on "

// ReleasedOn is how the record's reason begins when the guest's VM was let go
// on a node: it may run on there without colod.
func ReleasedOn(node string) string { return released + node }

// releasedElsewhere reports whether the record says that another node has let
// the guest's VM go. Whether it still runs, only that node can tell.
func (m *Machine) releasedElsewhere() bool {
	return m.rec.Ended && m.rec.Speaker != m.cfg.Self && strings.HasPrefix(m.rec.Reason, released)
}

// Deleted reports whether the record says that the guest was ended for good.
func (m *Machine) Deleted() bool { return m.deleted() }

// askDelete ends the guest for good.
func (m *Machine) askDelete(a Ask) string {
	if m.state != Stopped {
		return m.askStop(a)
	}
	m.await(a)
	if !m.deleted() {
		m.deleting = true
		m.reason = deleted + " by an operator: " + m.reason
		m.stop.record, m.stop.await = true, false
		m.recordEnd()
	}
	m.stopSettle()
	return ""
}

// graceOver: the guest has had its time to shut itself down.
func (m *Machine) graceOver() {
	m.endGuest("ended by an operator; it did not shut down in time")
}

// endGuest ends the guest on both nodes on purpose.
func (m *Machine) endGuest(reason string) {
	m.send(m.partner(), PeerEnded{Generation: m.rec.Generation, Reason: clip(reason)})
	m.toStopped(reason, stopRecord)
}
