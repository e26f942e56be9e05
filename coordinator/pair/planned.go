package pair

import (
	"slices"
	"strings"

	"colod/coordinator/arbiter"
)

// planStep is how far a planned change of roles is, on the speaker.
type planStep uint8

const (
	planNone   planStep = iota
	planChoose          // whether the target can run the secondary is being asked
	planReach           // whether this node reaches the arbiter is being looked at
	planLetGo           // the record is being written without the present secondary
	planFree            // the VM is being freed from the present secondary
	planSync            // the target is becoming the secondary
	planCheck           // whether both nodes reach the arbiter is being looked at
	planCover           // the checkpoint right before the exchange
	planPause           // the VM is being stopped
	planGive            // the secondary has been asked to take over
)

// plan is the planned change of roles under way.
type plan struct {
	step    planStep
	op      Op     // the wish that it fulfils
	target  string // the node that gets a role
	role    Role   // the role that it gets
	pausing uint64 // of the PauseVM awaited
	read    bool   // (planCheck) this node has read the record
	agreed  bool   // (planCheck) so has the other one
}

// reasonSwitch is the reason of the checkpoint before an exchange of roles.
const reasonSwitch = "switchover"

func (m *Machine) askSwitchover(a Ask) string {
	switch {
	case m.role == Speaker && (m.state == Protected || m.state == Checkpointing):
		return m.planSwitch(a, m.with)
	case m.forward(a):
		m.awaitOf(a)
		return ""
	}
	return "there is no secondary that could take over; the pair is " + m.state.String() + ": " + m.reason
}

// planSwitch begins an exchange of the roles with the secondary.
func (m *Machine) planSwitch(a Ask, target string) string {
	if why := m.cannotPlan(); why != "" {
		return why
	}
	m.await(a)
	m.plan = plan{op: a.Op, target: target, role: Speaker}
	m.planCheck()
	return ""
}

// planFailover asks the secondary's node whether it can take over. The VM
// here is ended as soon as that has said so: until then it may be the only
// one that is heard of again.
func (m *Machine) planFailover(a Ask) string {
	switch {
	case m.plan.op == OpFailover:
		m.await(a)
		return ""
	case m.plan.step != planNone:
		return "a planned change of roles is under way"
	case m.quit:
		return "colod is being stopped"
	case m.timers[timerGrace] != 0:
		return "the guest is being ended"
	case m.unusable != "":
		return "the secondary is being given up: " + m.unusable
	}
	m.await(a)
	m.plan = plan{op: OpFailover, target: m.with, role: Speaker}
	m.planCheck()
	return ""
}

// failover ends the VM here and lets the secondary take over.
func (m *Machine) failover() {
	m.plan = plan{}
	m.clear(timerSwitch)
	m.endVM()
	m.send(m.with, HandOver{Session: m.session, Generation: m.rec.Generation, Reason: "failover asked for by an operator"})
	m.given = m.session
	m.orphaned("failover to " + m.with + " asked for by an operator")
}

// planCheck sees to it that both nodes reach the arbiter before the guest
// stands still or is ended: nobody would be heard until one of them does.
func (m *Machine) planCheck() {
	m.plan.step, m.plan.read, m.plan.agreed = planCheck, false, false
	m.readAnew()
	m.send(m.with, HandOver{Session: m.session, Generation: m.rec.Generation, Check: true})
	m.set(timerSwitch, m.cfg.SwitchWait)
}

// planAgreed goes on once both have read the record.
func (m *Machine) planAgreed() {
	if m.plan.step == planCheck && m.plan.read && m.plan.agreed {
		if m.plan.op == OpFailover {
			m.failover()
			return
		}
		m.plan.step = planCover
		m.clear(timerSwitch)
		m.request(reasonSwitch)
	}
}

// planTimeout: a step of an exchange was not done in time.
func (m *Machine) planTimeout() {
	switch m.plan.step {
	case planCheck:
		if m.plan.op == OpFailover && m.plan.read {
			m.planFailed(m.with + " did not say in " + m.cfg.SwitchWait.String() + " that it can take over")
			return
		}
		m.planFailed("the arbiter cannot be read from both nodes in " + m.cfg.SwitchWait.String() + ", and without it nobody may speak")
	case planReach:
		m.planFailed("the guest stays where it is: the arbiter cannot be read in " + m.cfg.SwitchWait.String())
	case planLetGo:
		m.planLetGo()
	case planPause:
		m.planGoOn("the guest could not be stopped in " + m.cfg.SwitchWait.String())
	}
}

// cannotPlan is why a planned change of roles cannot begin now, or "".
func (m *Machine) cannotPlan() string {
	switch {
	case m.plan.step != planNone:
		return "a planned change of roles is under way"
	case m.quit:
		return "colod is being stopped"
	case m.vmPaused || m.keepPaused:
		return "the guest is stopped by its operator; let it go on first"
	case m.timers[timerGrace] != 0:
		return "the guest is being ended"
	case m.unusable != "":
		return "the secondary is being given up: " + m.unusable
	}
	return ""
}

func (m *Machine) askMigrate(a Ask) string {
	speaks := m.role == Speaker && (m.state == Protected || m.state == Checkpointing || m.state == Solo)
	switch {
	case a.Target == "":
		return "the node to migrate to is missing"
	case !speaks && m.role != Speaker && m.forward(a):
		m.awaitOf(a)
		return ""
	case !speaks:
		return m.busy()
	case a.Target == m.cfg.Self && a.Role != Secondary:
		m.reply(a, "") // it is there
		return ""
	case a.Target == m.cfg.Self && m.state == Solo:
		return "there is no secondary that could take over; the pair is " + m.state.String() + ": " + m.reason
	case a.Target == m.cfg.Self:
		return m.planSwitch(a, m.with)
	case m.state != Solo && a.Target == m.with && a.Role == Secondary:
		m.reply(a, "")
		return ""
	case m.state != Solo && a.Target == m.with:
		return m.planSwitch(a, m.with)
	}
	return m.planMove(a)
}

// planMove begins to make another node than the present one the secondary.
func (m *Machine) planMove(a Ask) string {
	if why := m.cannotPlan(); why != "" {
		return why
	}
	if m.leaving {
		return "somebody migrates the guest away"
	}
	known := m.peers.by[a.Target]
	switch {
	case known == nil && !m.cfg.Outside:
		return a.Target + " is not a node of this pair; it has " + m.nodeList()
	case known != nil && !slices.Contains(m.readyPeers(), a.Target) && !m.cfg.Outside:
		return m.notReady(a.Target)
	}
	role := a.Role
	if role == NoRole {
		role = Secondary
	}
	m.await(a)
	m.plan = plan{step: planChoose, op: a.Op, target: a.Target, role: role}
	m.choice.op = m.newOp()
	m.emit(Choose{Op: m.choice.op, Ready: []string{a.Target}, Only: true})
	return ""
}

// planChosen goes on once it is known whether the target can run the secondary.
func (m *Machine) planChosen(ev Chosen) {
	if ev.Err == "" && !m.up(m.plan.target) {
		ev.Err = m.plan.target + " does not answer"
	}
	switch {
	case ev.Err != "":
		m.planFailed("the guest stays where it is: " + ev.Err)
	case m.state == Solo:
		m.planToSync()
	default:
		// Without the arbiter nothing is begun: the record's outcome would not be known.
		m.plan.step = planReach
		m.readAnew()
		m.set(timerSwitch, m.cfg.SwitchWait)
	}
}

// planReached goes on once the record was read.
func (m *Machine) planReached(ev RecordRead) {
	if ev.Err != "" {
		m.planFailed("the guest stays where it is: the arbiter cannot be read: " + ev.Err)
		return
	}
	m.protectedRecord()
	if m.plan.step == planReach {
		m.clear(timerSwitch)
		m.plan.step = planLetGo
		m.planLetGo()
	}
}

// planLetGo takes the present secondary out of the record. Until that is
// written the guest stays protected by it.
func (m *Machine) planLetGo() {
	if m.swapping == 0 {
		m.swap(arbiter.Record{Speaker: m.cfg.Self}, m.with+" is let go: "+m.plan.target+" becomes the secondary")
	}
}

// planSwapped is the outcome of planLetGo's swap. While it is not known the
// two go on as they are: what both say is good under either record. Another
// swap finds out, and settles it.
func (m *Machine) planSwapped(ev Swapped) {
	alone := m.rec.Speaker == m.cfg.Self && m.rec.Standby == "" && !m.rec.Ended && !m.doubt.on
	switch {
	case ev.Outcome == SwapWon, ev.Outcome == SwapLost && alone:
		reason := m.with + " is let go: " + m.plan.target + " becomes the secondary"
		m.clear(timerSwitch)
		m.plan.step = planFree
		m.cut()
		m.toPromoting(promoteFree, Released, reason)
	case ev.Outcome == SwapUnknown, ev.Outcome == SwapFailed && m.doubt.on:
		m.set(timerSwitch, m.cfg.RecordPoll)
	case ev.Outcome == SwapFailed:
		m.planFailed("the guest stays where it is: the record cannot be written: " + ev.Err)
	default:
		m.planFailed("the guest stays where it is: the record was changed meanwhile: " + m.rec.String())
		m.protectedRecord()
	}
}

// planToSync makes the target the secondary.
func (m *Machine) planToSync() {
	why := m.cannotProtect()
	if why == "" && !m.up(m.plan.target) {
		why = m.plan.target + " does not answer"
	}
	if why != "" {
		m.planFailed(m.plan.target + " cannot become the secondary: " + why)
		return
	}
	m.plan.step = planSync
	m.toSyncing(m.plan.target, m.plan.target+" is to run the secondary: asked for by an operator")
	m.sync.why = "asked for by an operator"
}

// planProtected goes on once the target is the secondary.
func (m *Machine) planProtected() {
	switch {
	case m.plan.step != planSync:
	case m.plan.role == Speaker:
		m.planCheck()
	default:
		m.planDone()
	}
}

// planCovered goes on after a checkpoint.
func (m *Machine) planCovered(rs reasons) {
	if m.plan.step != planCover || !slices.Contains(rs.list, reasonSwitch) {
		return
	}
	m.plan.step = planPause
	m.plan.pausing = m.newOp()
	m.emit(PauseVM{Op: m.plan.pausing})
	m.set(timerSwitch, m.cfg.SwitchWait)
}

// planPaused: the VM stands still, and what it has said before goes out as
// the secondary agrees. Nothing new comes, so the roles can be exchanged.
func (m *Machine) planPaused(ev VMPaused) {
	if ev.Err != "" {
		m.planGoOn("the guest cannot be stopped: " + ev.Err)
		return
	}
	m.vmPaused = true
	m.plan.step = planGive
	m.become(Switching, Speaker, "hands over to "+m.with)
	m.send(m.with, HandOver{Session: m.session, Generation: m.rec.Generation, Reason: "switchover asked for by an operator"})
	m.set(timerPhase, m.cfg.SwitchWait)
	m.set(timerPoll, m.cfg.RecordPoll)
}

// planGoOn gives the exchange up while the pair is whole; the guest goes on.
func (m *Machine) planGoOn(why string) {
	m.planFailed(why)
	m.cont()
}

// planDone: what was planned is reached.
func (m *Machine) planDone() {
	op := m.plan.op
	m.plan = plan{}
	m.clear(timerSwitch)
	m.answer(op, "")
}

// planFailed gives the plan up.
func (m *Machine) planFailed(why string) {
	if m.plan.step == planNone {
		return
	}
	op := m.plan.op
	// It was protected, or was to be: so it is to be again.
	m.restore = m.restore || m.plan.step == planFree || m.plan.step == planSync
	if m.plan.step == planChoose {
		m.choice.op = 0
	}
	m.plan = plan{}
	m.clear(timerSwitch)
	m.warn(string(op) + ": " + why)
	m.answer(op, why)
}

// planMoved ends a plan that a change of state has defeated or fulfilled.
func (m *Machine) planMoved(s State) {
	var within []State
	switch m.plan.step {
	case planNone:
		return
	case planChoose, planReach, planLetGo, planCheck, planCover, planPause:
		within = []State{Protected, Checkpointing}
		if m.plan.step == planChoose {
			within = append(within, Solo)
		}
	case planFree:
		within = []State{Claiming, Promoting, Solo, Syncing}
	case planSync:
		within = []State{Syncing, Protected}
	case planGive:
		if s == Fenced && m.rec.Speaker == m.plan.target && !m.rec.Ended {
			m.planDone()
			return
		}
		within = []State{Switching}
	}
	if slices.Contains(within, s) {
		return
	}
	if m.plan.step == planPause && m.plan.pausing != 0 {
		m.contAfter = true // the VM may stand still, or will
	}
	m.planFailed(s.String() + ": " + m.reason)
}

// stepSwitching: the other node has been asked to take over. Its swap of the
// record decides; if it does not come, this node takes the guest back. Even
// when the record names the other node the VM here is kept until that one is
// heard: if its VM dies before, it gives the record back.
func (m *Machine) stepSwitching(ev Event) {
	switch ev := ev.(type) {
	case RecordRead:
		if ev.Err == "" {
			m.switchRecord()
		}
	case Received:
		switch msg := ev.Msg.(type) {
		case Status:
			if m.rec.Speaker == ev.From && m.speaks(msg) {
				m.toFenced(ev.From + " speaks")
			}
		case PeerVMDied:
			if msg.Session == m.session {
				m.takeBack("the VM on " + m.with + " ended: " + msg.Reason)
			}
		case Refused:
			if msg.Session == m.session {
				m.takeBack(m.with + " refused to take over: " + msg.Reason)
			}
		}
	case PeerUp:
		m.send(m.with, HandOver{Session: m.session, Generation: m.rec.Generation, Reason: "switchover asked for by an operator"})
	case PeerDown:
		m.takeBack(m.with + " is lost: " + ev.Reason)
	case restarted:
		m.takeBack("colod on " + m.with + " was started again")
	case VMDied:
		m.handOver("the VM here died: "+ev.Reason, "its VM died: "+ev.Reason)
	case VMShutdown:
		m.speakerShutdown(ev)
	case Quit:
		m.takeBack("colod is being stopped")
	case expired:
		switch ev.t {
		case timerPhase:
			m.takeBack(m.with + " did not take over in " + m.cfg.SwitchWait.String())
		case timerPoll:
			m.read()
			m.set(timerPoll, m.cfg.RecordPoll)
		}
	}
}

// switchRecord looks at the record while the other node is to take over.
func (m *Machine) switchRecord() {
	switch {
	case m.rec.Ended:
		m.toStopped(m.rec.Reason, stopEnd)
	case m.rec.Speaker == m.cfg.Self && m.rec.Standby == "":
		m.contAfter = true
		reason := m.with + " gave the guest back: " + strings.TrimPrefix(m.rec.Reason, toGoOn)
		m.cut()
		m.toPromoting(promoteFree, Released, reason)
	case m.rec.Speaker == m.cfg.Self:
	case m.rec.Speaker != m.with || !m.up(m.with):
		m.toFenced(m.rec.Speaker + " speaks")
	default:
		if said := m.says(m.with); said != nil && m.speaks(*said) { // it said so before the record was read
			m.toFenced(m.with + " speaks")
			return
		}
		m.reason = m.with + " has the record and is about to speak"
	}
}

// speaks reports whether a node that the record names as speaker says that its
// guest's output reaches clients.
func (m *Machine) speaks(s Status) bool {
	return s.Role == Speaker && s.State != Promoting && s.State != Claiming && s.Generation >= m.rec.Generation
}

// takeBack claims the record for this node, whose VM stands still, and lets
// it go on. If the other node has won the record meanwhile, this one loses it.
func (m *Machine) takeBack(reason string) {
	if m.rec.Speaker != m.cfg.Self {
		m.toFenced(m.rec.Speaker + " has the record; " + reason)
		return
	}
	m.contAfter = true
	m.triedLast(m.with)
	m.toClaiming(claim{how: Released}, reason+": the guest goes on here")
}
