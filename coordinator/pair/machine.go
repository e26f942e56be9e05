// Package pair is the state machine of one protected guest on one node.
//
// The machine is pure: events go in, actions come out, and it has no clock,
// no goroutine and no randomness. Two of them, one on each node, together
// with the arbiter's record keep the invariant of this package: a node lets
// the guest's output out alone only while the record names it as speaker and
// nobody as standby. Everything else, heartbeats and messages included, only
// decides how soon something happens.
package pair

import (
	"fmt"
	"time"

	"colod/coordinator/arbiter"
)

// Config is what a machine has to know. Durations of zero take the defaults.
type Config struct {
	Pair, Self  string
	Peers       []string // the other nodes, in the order of the pair's list
	First       bool     // this node is the speaker of a new pair
	Outside     bool     // Choose may find a node that is not in the list
	Guest       string   // fingerprint of what the guest sees; must be equal on both nodes
	AutoProtect bool     // protect again without being asked
	// Fencing: a node that is not known to have given up is fenced by Fence
	// before this one speaks in its stead. With FencingRequired nothing is
	// said here before that has worked.
	Fencing, FencingRequired bool

	IdleInterval      time.Duration // longest time between checkpoints; 0 = no limit
	CheckpointTimeout time.Duration // default 10 s
	Retrigger         time.Duration // default 1 s
	SyncTimeout       time.Duration // limit of the copy, default 10 min
	StepTimeout       time.Duration // limit of each other step of a synchronisation, default 60 s
	RetryMin          time.Duration // first wait before protecting again after a failure, default 1 s
	RetryMax          time.Duration // longest such wait, default 60 s
	RecordPoll        time.Duration // how often a waiting node reads the record, default 500 ms
	TakeoverWait      time.Duration // how long a speaker without VM waits for the standby to take over, default 30 s
	AdoptWait         time.Duration // how long a secondary found at start waits for the speaker, default 2 s
	SettleWait        time.Duration // how long after a takeover the next synchronisation waits, so that clients are served first; default 500 ms
	SuspectWait       time.Duration // how long a secondary that is no longer fed waits for the speaker's word, default 500 ms
	SwitchWait        time.Duration // how long the steps of a planned change of roles may take each, default 5 s
	QuitWait          time.Duration // how long a colod that is to end waits for an arbiter that does not answer, default 3 s
	MaxRestarts       int           // launches in a row after deaths without a copy, default 3

	// Strict makes an illegal move panic; for tests.
	Strict bool
}

func (c *Config) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.CheckpointTimeout, 10*time.Second)
	def(&c.Retrigger, time.Second)
	def(&c.SyncTimeout, 10*time.Minute)
	def(&c.StepTimeout, 60*time.Second)
	def(&c.RetryMin, time.Second)
	def(&c.RetryMax, 60*time.Second)
	def(&c.RecordPoll, 500*time.Millisecond)
	def(&c.TakeoverWait, 30*time.Second)
	def(&c.AdoptWait, 2*time.Second)
	def(&c.SettleWait, 500*time.Millisecond)
	def(&c.SuspectWait, 500*time.Millisecond)
	def(&c.SwitchWait, 5*time.Second)
	def(&c.QuitWait, 3*time.Second)
	if c.MaxRestarts == 0 {
		c.MaxRestarts = 3
	}
}

// restartMemory is how long a guest has to run alone for earlier deaths to
// be forgotten.
const restartMemory = 10 * time.Minute

// Machine is the state machine. It is not safe for concurrent use.
type Machine struct {
	cfg Config

	now    time.Duration
	boot   uint64
	op     uint64 // last op number given out
	out    []Action
	state  State
	role   Role
	reason string
	timers timers

	// The arbiter's record as last seen. known says whether it was read at all.
	rec   arbiter.Record
	known bool
	stale bool // a swap's outcome is not known: the record has to be read
	doubt doubt
	// Numbers of the operations whose results are awaited; 0 = none.
	reading, swapping                             uint64
	finding, launching, ending, checking, freeing uint64
	muting, speaking                              uint64
	prev, next                                    arbiter.Record // what the swap under way, or of unknown outcome, is to replace, and writes

	// The VM here.
	vm       uint64 // number of the VM: the op that launched or found it; 0 = none
	vmPaused bool   // stopped by somebody else than a checkpoint

	peers peers // the other nodes

	// Session: one synchronisation and the protection that follows from it.
	session  string
	with     string // the other node of it
	sessions uint32
	ckpt     checkpoint
	n        uint64 // number of the last checkpoint
	pending  reasons
	muted    bool // nothing of a guest can get out here
	linked   bool // the data path works with the peer's; it may not speak alone without Released or TakeOver

	sync    syncStage
	claim   claim
	promote promotion
	stop    stopping
	fence   fencing
	wait    waiting // in Idle
	offer   offer   // a request for a secondary that waits
	choice  choice  // of a secondary, in Solo

	plan       plan
	maint      maintenance
	toCheck    bool   // (secondary) the speaker wants to know whether this node reaches the arbiter
	held       string // (secondary) why it would take over, while maintenance holds that
	given      string // session whose secondary was asked to take over by an operator's failover
	restore    bool   // protect again even without AutoProtect: it was given up for a plan that failed
	keepPaused bool   // an operator wants the guest to stand still, whoever runs it
	contAfter  bool   // once the VM is freed from its peer it is to be continued: colod itself had stopped it
	leaving    bool   // somebody else migrates the guest away
	left       bool   // ... and has: what was found here is what remained
	forced     bool   // speaks without having won the record
	deleting   bool   // the end that is under way is for good
	forgot     bool   // Forget was emitted for it
	starting   bool   // (in Idle) an operator wants the guest started in maintenance
	deaf       int    // secondaries that were given up as deaf, lately
	deafAt     time.Duration

	pausing, conting, resetting uint64 // numbers of operations whose results are awaited; 0 = none

	unusable string // (speaker) why the other side is given up, while our own VM is being checked
	suspect  string // (secondary) why it believes to be no longer fed
	noAuto   string // why protection is not tried again by itself
	failures int    // synchronisations that failed in a row
	restarts int    // deaths without a copy in a row
	soloAt   time.Duration

	quit, exited bool
	away         bool // the arbiter did not answer the last question
	asks         []Ask
}

// New makes a machine; the first event must be Start.
func New(cfg Config) *Machine {
	cfg.defaults()
	m := &Machine{cfg: cfg, state: Idle, reason: "colod starts"}
	for _, name := range cfg.Peers {
		m.peers.of(name)
	}
	return m
}

// State is the present state.
func (m *Machine) State() State { return m.state }

// Role is the present role.
func (m *Machine) Role() Role { return m.role }

// Reason is the sentence that goes with the present state.
func (m *Machine) Reason() string { return m.reason }

// Record is the arbiter's record as last seen.
func (m *Machine) Record() arbiter.Record { return m.rec }

// Session is the present session, or "".
func (m *Machine) Session() string { return m.session }

// HasVM reports whether a VM of the pair runs here.
func (m *Machine) HasVM() bool { return m.vm != 0 }

// Deadline is the time of the next Tick that matters; 0 = none.
func (m *Machine) Deadline() time.Duration { return m.timers.first() }

// Step takes one event and returns what is to be done, in order. The slice
// is the caller's.
func (m *Machine) Step(ev Event) []Action {
	m.out = nil
	if t, ok := ev.(Tick); ok {
		if t.Now > m.now {
			m.now = t.Now
		}
		for {
			t, ok := m.timers.pop(m.now)
			if !ok {
				break
			}
			m.dispatch(expired{t})
		}
	} else {
		m.dispatch(ev)
	}
	m.settle()
	return m.out
}

// dispatch applies the rules that hold in every state, then the state's own.
func (m *Machine) dispatch(ev Event) {
	if !m.common(ev) {
		return
	}
	switch m.state {
	case Idle:
		m.stepIdle(ev)
	case Standby:
		m.stepStandby(ev)
	case Syncing:
		if m.role == Speaker {
			m.stepSyncingSpeaker(ev)
		} else {
			m.stepSyncingSecondary(ev)
		}
	case Protected, Checkpointing:
		if m.role == Speaker {
			m.stepProtectedSpeaker(ev)
		} else {
			m.stepProtectedSecondary(ev)
		}
	case Claiming:
		m.stepClaiming(ev)
	case Promoting:
		m.stepPromoting(ev)
	case Solo:
		m.stepSolo(ev)
	case Stopped:
		m.stepStopped(ev)
	case Fenced:
		m.stepFenced(ev)
	case Switching:
		m.stepSwitching(ev)
	}
}

// common keeps what the machine knows up to date, and drops results and VM
// events that belong to something older. It reports whether the state is to
// see the event.
func (m *Machine) common(ev Event) bool {
	switch ev := ev.(type) {
	case Start:
		m.boot = ev.Boot
	case Quit:
		m.quit, m.away = true, false
		m.set(timerQuit, m.cfg.QuitWait)
	case Ask:
		return m.admit(ev)
	case RecordRead:
		if !m.done(&m.reading, ev.Op) {
			return false
		}
		if ev.Err != "" {
			m.warn("the record cannot be read: " + ev.Err)
			m.away = true
			return true
		}
		m.away = false
		m.stale = false
		m.doubt.saw(ev.Record.Generation, false)
		m.learn(ev.Record)
		if m.forced {
			m.forcedRecord(ev)
			return false
		}
	case Swapped:
		if !m.done(&m.swapping, ev.Op) {
			return false
		}
		switch ev.Outcome {
		case SwapWon, SwapLost:
			m.stale, m.away = false, false
			m.doubt.saw(ev.Record.Generation, ev.Outcome == SwapWon)
			m.learn(ev.Record)
		default:
			m.stale, m.away = true, true
			if ev.Outcome != SwapFailed {
				m.doubt.write(m.prev.Generation)
			}
			m.warn(fmt.Sprintf("the record cannot be written (%s): %s", ev.Outcome, ev.Err))
		}
		if m.forced {
			m.forcedRecord(ev)
			return false
		}
	case VMFound:
		if !m.done(&m.finding, ev.Op) {
			return false
		}
		if ev.Found {
			m.vm, m.vmPaused, m.keepPaused, m.left = ev.Op, ev.Paused, ev.Paused, ev.Left
		}
	case VMLaunched:
		if !m.done(&m.launching, ev.Op) {
			return false
		}
		m.vm, m.vmPaused, m.leaving = 0, false, false
		if ev.Err == "" {
			m.vm = ev.Op
		}
	case VMDied:
		if m.vm == 0 || ev.VM != m.vm {
			return false
		}
		m.vm = 0
		if m.timers[timerGrace] != 0 && m.role == Speaker {
			// It was asked to shut itself down: this is its end, however it
			// came, and whatever QEMU said of it or could not say any more.
			m.endGuest("ended by an operator; the VM ended: " + ev.Reason)
			return false
		}
	case VMShutdown:
		return m.vm != 0 && ev.VM == m.vm
	case VMHung:
		if m.vm != 0 && ev.VM == m.vm {
			m.vmHung(ev.Reason)
		}
		return false
	case SecondaryDeaf:
		m.secondaryDeaf(ev.Reason)
		return false
	case GuestReset:
		if m.vm != 0 && ev.VM == m.vm {
			m.wasReset()
		}
		return false
	case VMMigration:
		if m.vm != 0 && ev.VM == m.vm {
			m.migrating(ev)
		}
		return false
	case VMPaused:
		if m.done(&m.plan.pausing, ev.Op) {
			m.planPaused(ev)
		} else if m.done(&m.pausing, ev.Op) {
			m.paused(ev)
		}
		return false
	case VMContinued:
		if m.done(&m.conting, ev.Op) {
			m.continued(ev)
		}
		return false
	case VMReset:
		if m.done(&m.resetting, ev.Op) {
			m.answer(OpReboot, ev.Err)
		}
		return false
	case VMStopped:
		return m.vm != 0 && ev.VM == m.vm
	case VMResumed:
		return m.vm != 0 && ev.VM == m.vm
	case COLOExit:
		return m.vm != 0 && ev.VM == m.vm
	case VMChecked:
		return m.done(&m.checking, ev.Op)
	case VMFreed:
		if !m.done(&m.freeing, ev.Op) {
			return false
		}
		if ev.Err == "" {
			m.vmPaused = false // the end of COLO starts the guest, whoever stopped it
			if m.contAfter {
				m.cont() // and if it should not have, this does
			}
		}
	case VMGone:
		if !m.done(&m.ending, ev.Op) {
			return false
		}
		if ev.Err == "" {
			m.vm = 0
		}
	case Muted:
		if !m.done(&m.muting, ev.Op) {
			return false
		}
		m.muted = ev.Err == ""
	case Speaking:
		return m.done(&m.speaking, ev.Op)
	case FencedNode:
		return m.done(&m.claim.fencing, ev.Op)
	case Chosen:
		return m.done(&m.choice.op, ev.Op)
	case Copied:
		return ev.Session == m.session
	case Linked:
		return ev.Session == m.session
	case LinkLost:
		return ev.Session == m.session
	case expired:
		switch ev.t {
		case timerBehind:
			m.catchUp()
			return false
		case timerForce:
			m.forceAgain()
			return false
		case timerQuit:
			return false // settle looks
		}
	case PeerUp:
		m.peers.of(ev.Peer).up = true
		m.send(ev.Peer, m.status())
		if m.session != "" && ev.Peer != m.with {
			return false
		}
	case PeerDown:
		p := m.peers.of(ev.Peer)
		p.up, p.status = false, nil
		m.lostSpeaker(ev.Peer)
		if m.session != "" && ev.Peer != m.with {
			return false
		}
	case restarted:
		return m.session == "" || ev.peer == m.with
	case Received:
		return m.received(ev)
	}
	return true
}

// done reports whether op is the awaited number, and stops waiting for it.
func (m *Machine) done(awaited *uint64, op uint64) bool {
	if *awaited == 0 || *awaited != op {
		return false
	}
	*awaited = 0
	return true
}

// learn takes a record in. Records only grow; an older one is a late answer.
func (m *Machine) learn(r arbiter.Record) {
	if m.known && r.Generation < m.rec.Generation {
		return
	}
	m.rec, m.known = r, true
}

// settle is done after every event: it ends a quitting machine that has come to rest, or that only waits for an arbiter
// which does not answer.
func (m *Machine) settle() {
	if !m.quit || m.exited {
		return
	}
	away := m.away && m.timers[timerQuit] == 0
	switch m.state {
	case Standby, Solo, Idle:
	case Stopped:
		gone := m.vm == 0 && m.ending == 0 && m.launching == 0
		switch {
		case m.stop.settled:
		case away && gone:
			m.warn("colod ends, and the record does not say yet that the guest was ended: the arbiter does not answer; the other node, or the next start here, may start the guest again")
		default:
			return
		}
	case Protected, Checkpointing, Claiming:
		if m.role != Speaker && m.state != Claiming || !away {
			return
		}
		// Whoever reaches the arbiter first goes on with the guest: the other node, or the next colod here.
		m.warn("colod ends, and the record still says that " + m.rec.String() + ": the arbiter does not answer; the guest is mute here until colod runs again and reaches it, or the other node does")
	default:
		return
	}
	m.exited = true
	m.refuseAll("colod is being stopped")
	m.emit(Exit{})
}

// become moves to a state. It resets what belongs to the old one.
func (m *Machine) become(s State, r Role, reason string) {
	if !legal[[2]State{m.state, s}] {
		text := fmt.Sprintf("illegal move from %s to %s: %s", m.state, s, reason)
		if m.cfg.Strict {
			panic(text)
		}
		m.emit(Fault{Text: text})
	}
	from := m.state
	m.state, m.role, m.reason = s, r, reason
	kept := timers{timerGrace: m.timers[timerGrace], timerBehind: m.timers[timerBehind], timerForce: m.timers[timerForce], timerSwitch: m.timers[timerSwitch],
		timerQuit: m.timers[timerQuit]}
	if r == Secondary && (s == Protected || s == Checkpointing) && (from == Protected || from == Checkpointing) {
		// A checkpoint that begins or ends here says nothing of what the secondary waits for.
		kept[timerSuspect], kept[timerPoll] = m.timers[timerSuspect], m.timers[timerPoll]
	} else {
		m.suspect = ""
	}
	m.timers, m.unusable = kept, ""
	if s != Protected && s != Checkpointing {
		m.held, m.toCheck = "", false
	}
	m.checking = 0
	if m.plan.step != planChoose {
		m.choice.op = 0
	}
	switch s {
	case Standby, Stopped, Fenced:
		m.keepPaused, m.contAfter, m.forced, m.restore = false, false, false, false
		m.clear(timerForce)
	}
	m.emit(Moved{From: from, To: s, Role: r, Reason: reason})
	m.planMoved(s)
	m.sendStatus()
	m.answerMove(s)
}

// newOp is a fresh operation number.
func (m *Machine) newOp() uint64 {
	m.op++
	return m.op
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

func (m *Machine) warn(text string) { m.emit(Warn{Text: text}) }

// send sends a message if the node is there.
func (m *Machine) send(to string, msg Message) {
	if m.up(to) {
		m.emit(Send{To: to, Msg: msg})
	}
}

// status is what the other nodes are told of this one.
func (m *Machine) status() Status {
	return Status{
		Boot: m.boot, State: m.state, Role: m.role, Generation: m.rec.Generation,
		HasVM: m.vm != 0, Ready: m.ready(), Paused: m.keepPaused, Session: m.session, Reason: clip(m.reason),
		MaintenanceRev: m.maint.rev, Maintenance: m.maint.on, MaintenanceWhy: m.maint.why,
	}
}

// sendStatus tells all nodes where this one stands.
func (m *Machine) sendStatus() {
	for _, name := range m.peers.order {
		m.send(name, m.status())
	}
}

// ready reports whether a request for a secondary would be met.
func (m *Machine) ready() bool { return m.state == Standby && m.vm == 0 && m.muted && !m.quit }

// clip keeps a sentence within what a message may carry.
func clip(s string) string {
	if len(s) > maxReason {
		return s[:maxReason]
	}
	return s
}

// The actions with results.

func (m *Machine) read() {
	if m.reading == 0 {
		m.reading = m.newOp()
		m.emit(ReadRecord{Op: m.reading})
	}
}

// readAnew reads the record as it is from now on: the answer to an earlier
// question is not waited for.
func (m *Machine) readAnew() {
	m.reading = 0
	m.read()
}

// swap asks for the record's change; the reason goes into the record.
func (m *Machine) swap(next arbiter.Record, reason string) {
	next.Pair = m.cfg.Pair
	next.Generation = m.rec.Generation + 1
	next.Reason = clip(reason)
	if m.swapping != 0 {
		m.doubt.write(m.prev.Generation) // the answer to that one is not waited for
	}
	m.prev, m.next = m.rec, next
	m.swapping = m.newOp()
	m.emit(Swap{Op: m.swapping, Prev: m.rec, Next: next})
}

// doubt is whether a write may still be on its way to the arbiter: one whose
// outcome nobody knows, or one of a former run of colod. It can only be
// applied to the generation that it was made for. While that is the record's,
// reading the record decides nothing about what may be done alone: only a
// swap of one's own that is won does, as nothing late can follow it.
type doubt struct {
	on    bool
	gen   uint64
	asked bool // the record was seen; before, all may be late
}

// write notes a write whose outcome is not known, for that generation.
func (d *doubt) write(gen uint64) { d.on, d.gen = true, gen }

// saw notes the record's generation as read, or as one's own swap made it.
func (d *doubt) saw(gen uint64, own bool) {
	switch {
	case own:
		*d = doubt{asked: true}
	case !d.asked:
		*d = doubt{on: true, gen: gen, asked: true}
	case d.on && gen > d.gen:
		d.on = false
	}
}

func (m *Machine) launch(incoming bool) {
	m.launching = m.newOp()
	m.muted = false // the data path will have a role
	m.keepPaused, m.contAfter = false, false
	m.answer(OpPause, "the VM is launched anew")
	a := LaunchVM{Op: m.launching, Incoming: incoming}
	if incoming {
		a.Session = m.session
	}
	m.emit(a)
}

func (m *Machine) endVM() {
	m.ending = m.newOp()
	m.emit(EndVM{Op: m.ending})
}

func (m *Machine) checkVM() {
	m.checking = m.newOp()
	m.emit(CheckVM{Op: m.checking})
}

func (m *Machine) freeVM() {
	m.freeing = m.newOp()
	m.emit(FreeVM{Op: m.freeing})
}

func (m *Machine) mute() {
	m.muting = m.newOp()
	m.linked = false
	m.emit(Mute{Op: m.muting})
}

func (m *Machine) speak(h How) {
	m.speaking = m.newOp()
	m.muted = false
	m.linked = false
	m.emit(Speak{Op: m.speaking, How: h})
}

// cut ends the session's relays; the session's name is forgotten.
func (m *Machine) cut() {
	if m.session != "" {
		m.emit(CutSession{Session: m.session})
		m.session, m.with = "", ""
	}
	m.ckpt = checkpoint{}
	m.pending = reasons{}
}
