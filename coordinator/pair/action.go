package pair

import (
	"time"

	"colod/coordinator/arbiter"
)

// Action is something the driver has to do.
//
// The driver takes the actions of one Step in their order. Those on the VM
// (FindVM, LaunchVM, EndVM, PowerDown, PauseVM, ContVM, ResetVM, CheckVM,
// FreeVM, Copy, Trigger, Forget) are
// carried out one after the other; so are those on the data path (Mute,
// Speak, Link, Hold, MarkStopped, Cover, SecondaryStopped,
// SecondaryResumed), and those on the arbiter. CutSession takes effect at
// once, before whatever is still under way: it is what frees a VM operation
// that waits for a dead peer. Every action whose comment names a result is
// answered by exactly one event, whatever happens.
type Action interface{ isAction() }

// Actions.
type (
	// Moved tells of a change of state, for log, API and history.
	Moved struct {
		From, To State
		Role     Role
		Reason   string
	}
	// Warn is a sentence for the log that goes with no change of state.
	Warn struct{ Text string }
	// Fault is a mistake in this machine: an illegal move that was made.
	Fault struct{ Text string }

	// ReadRecord reads the record; result RecordRead.
	ReadRecord struct{ Op uint64 }
	// Swap swaps the record; result Swapped.
	Swap struct {
		Op         uint64
		Prev, Next arbiter.Record
	}

	// FindVM looks for a running VM of the pair and adopts it; result VMFound.
	FindVM struct{ Op uint64 }
	// LaunchVM launches a VM; result VMLaunched. With Incoming it waits for
	// the state of Session, whose net and state connections are expected
	// from then on.
	LaunchVM struct {
		Op       uint64
		Incoming bool
		Session  string
	}
	// EndVM ends the VM at once, if there is one; result VMGone.
	EndVM struct{ Op uint64 }
	// PowerDown asks the guest to shut itself down; no result.
	PowerDown struct{}
	// PauseVM lets the guest stand still, as QMP's stop does; result VMPaused.
	PauseVM struct{ Op uint64 }
	// ContVM lets it go on, as QMP's cont does; result VMContinued.
	ContVM struct{ Op uint64 }
	// ResetVM resets the guest, as QMP's system_reset does; result VMReset.
	ResetVM struct{ Op uint64 }
	// Forget removes what is kept of a guest that was deleted: the VM's
	// files and the registry's entries. No result.
	Forget struct{}
	// CheckVM asks the VM's monitor for a sign of life; result VMChecked.
	CheckVM struct{ Op uint64 }
	// FreeVM ends COLO on this side, so that the VM runs alone; result VMFreed.
	FreeVM struct{ Op uint64 }
	// CutSession closes the state relay of Session hard and stops waiting
	// for its connections; no result.
	CutSession struct{ Session string }
	// Copy starts COLO on the speaker: relay, migration, until both VMs run;
	// result Copied, which comes behind the VM's events that the copy causes: the
	// next ones are those of the arming checkpoint.
	Copy struct{ Session string }
	// Trigger asks QEMU for a checkpoint; result Triggered, and then
	// VMStopped and VMResumed.
	Trigger struct{ N uint64 }

	// Mute lets nothing of the guest out; result Muted.
	Mute struct{ Op uint64 }
	// Speak lets the guest's output out alone; result Speaking.
	Speak struct {
		Op  uint64
		How How
	}
	// Link connects the data paths of both nodes; result Linked.
	Link struct{ Session string }
	// Hold makes both data paths hold everything; result Held.
	Hold struct {
		N       uint64
		Reasons []string
	}
	// MarkStopped tells both data paths when the primary's VM stopped; no result.
	MarkStopped struct {
		N  uint64
		At time.Time
	}
	// Cover releases what the checkpoint covers and goes on comparing;
	// result Covered.
	Cover struct {
		N  uint64
		At time.Time
	}
	// SecondaryStopped and SecondaryResumed tell the secondary's data path
	// of its VM's events; no result.
	SecondaryStopped struct{ At time.Time }
	SecondaryResumed struct{ At time.Time }

	// Choose asks which node is to run the secondary; result Chosen. Ready
	// are the nodes that said they are ready, in the order of the pair's
	// list. Last are those with which protection failed lately, the latest
	// failure last: they are to be tried after all others, in this order.
	// Only says that no node outside of Ready may be taken.
	Choose struct {
		Op          uint64
		Ready, Last []string
		Only        bool
	}
	// Fence makes sure that a node cannot be heard any more, by the
	// configured command; result FencedNode. It may take long.
	Fence struct {
		Op   uint64
		Node string
	}
	// Maintained says what is to be kept over a restart of colod: after the
	// next Start it is given back as Ask with OpMaintenance. No result.
	Maintained struct {
		On  bool
		Why string
		Rev uint64
	}

	// Send sends a message to another node, if it is connected; no result.
	Send struct {
		To  string
		Msg Message
	}
	// Answer answers an Ask. Err is "" when the wish is fulfilled.
	Answer struct {
		ID  uint64
		Err string
	}
	// Exit says that after Quit nothing is left to be done.
	Exit struct{}
)

// How a node begins to speak alone.
type How uint8

// The ways.
const (
	Alone    How = iota + 1 // no peer before: first start, adoption
	Released                // was the primary: everything held is released
	TakeOver                // was the secondary: what was not released is emitted
)

func (h How) String() string {
	switch h {
	case Alone:
		return "alone"
	case Released:
		return "released"
	case TakeOver:
		return "takeover"
	}
	return "invalid"
}

func (Moved) isAction()            {}
func (Warn) isAction()             {}
func (Fault) isAction()            {}
func (ReadRecord) isAction()       {}
func (Swap) isAction()             {}
func (FindVM) isAction()           {}
func (LaunchVM) isAction()         {}
func (EndVM) isAction()            {}
func (PowerDown) isAction()        {}
func (PauseVM) isAction()          {}
func (ContVM) isAction()           {}
func (ResetVM) isAction()          {}
func (Forget) isAction()           {}
func (Choose) isAction()           {}
func (Fence) isAction()            {}
func (Maintained) isAction()       {}
func (CheckVM) isAction()          {}
func (FreeVM) isAction()           {}
func (CutSession) isAction()       {}
func (Copy) isAction()             {}
func (Trigger) isAction()          {}
func (Mute) isAction()             {}
func (Speak) isAction()            {}
func (Link) isAction()             {}
func (Hold) isAction()             {}
func (MarkStopped) isAction()      {}
func (Cover) isAction()            {}
func (SecondaryStopped) isAction() {}
func (SecondaryResumed) isAction() {}
func (Send) isAction()             {}
func (Answer) isAction()           {}
func (Exit) isAction()             {}
