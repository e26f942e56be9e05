package pair

import (
	"errors"
	"time"

	"colod/coordinator/arbiter"
)

// Event is something that happened. Results of actions carry the action's Op
// number; a result whose number is not the awaited one is old and ignored.
type Event interface{ isEvent() }

// Events of the node itself.
type (
	// Start is the first event. Boot is a random number that tells this run
	// of colod from others.
	Start struct{ Boot uint64 }
	// Tick carries the time since an arbitrary start, from a monotonic
	// clock. It comes at the time Deadline names, and before other events.
	Tick struct{ Now time.Duration }
	// Quit asks for an orderly end of colod; the guest stays.
	Quit struct{}
	// Ask is an operator's wish. It is answered by an Answer with its ID
	// once it is fulfilled or refused.
	Ask struct {
		ID uint64
		Op Op
		// Grace is for OpStop and OpDelete: how long the guest may take to
		// shut itself down.
		Grace time.Duration
		// Target is for OpMigrate: the node that is to get a role.
		Target string
		// Role is for OpMigrate: the role that Target is to get. NoRole means
		// speaker if it is the secondary already, and secondary otherwise.
		Role Role
		// On is for OpMaintenance: on or off. For OpStart: make a guest
		// that was deleted anew.
		On bool
		// Force is for OpStart: start a guest that was released on another
		// node, where it may still run.
		Force bool
		// Why is for OpMaintenance: the operator's sentence. For OpStop: the
		// reason to be recorded, if it is not the usual one.
		Why string
		// Rev is for OpMaintenance: 0 for an operator's wish, and the one of
		// Maintained when the driver gives back what it kept over a restart.
		Rev uint64

		from string // node whose operator asks; "" = this one's
		to   string // node that it was passed on to; "" = none
	}
)

// Op is an operator's wish.
type Op string

// The wishes.
const (
	OpProtect    Op = "protect"
	OpCheckpoint Op = "checkpoint"
	OpFailover   Op = "failover"
	OpStop       Op = "stop"
	OpStart      Op = "start"

	OpReboot      Op = "reboot"      // reset the guest
	OpPause       Op = "pause"       // let it stand still
	OpCont        Op = "cont"        // let it go on
	OpDelete      Op = "delete"      // end it for good
	OpMigrate     Op = "migrate"     // give a node a role
	OpSwitchover  Op = "switchover"  // exchange the roles, planned
	OpMaintenance Op = "maintenance" // hold what happens by itself, or no longer
	OpForce       Op = "force"       // speak without having won the record
)

// Ops are all wishes.
var Ops = []Op{
	OpProtect, OpCheckpoint, OpFailover, OpStop, OpStart, OpReboot, OpPause, OpCont, OpDelete,
	OpMigrate, OpSwitchover, OpMaintenance, OpForce,
}

// Events of the arbiter.
type (
	// RecordRead is the result of ReadRecord.
	RecordRead struct {
		Op     uint64
		Record arbiter.Record
		Err    string
	}
	// Swapped is the result of Swap.
	Swapped struct {
		Op      uint64
		Outcome Outcome
		Record  arbiter.Record // the current one, for SwapWon and SwapLost
		Err     string
	}
)

// SwapResult is the event that follows from what an arbiter's Swap returned.
func SwapResult(op uint64, r arbiter.Record, err error) Swapped {
	ev := Swapped{Op: op, Record: r}
	switch {
	case err == nil:
		ev.Outcome = SwapWon
	case errors.Is(err, arbiter.ErrLost):
		ev.Outcome = SwapLost
	case arbiter.Unknown(err):
		ev.Outcome, ev.Err = SwapUnknown, err.Error()
	default:
		ev.Outcome, ev.Err = SwapFailed, err.Error()
	}
	return ev
}

// Outcome of a swap.
type Outcome uint8

// The outcomes.
const (
	SwapWon     Outcome = iota + 1
	SwapLost            // another record is there
	SwapUnknown         // nobody can tell: read it
	SwapFailed          // nothing was changed: try again
)

func (o Outcome) String() string {
	switch o {
	case SwapWon:
		return "won"
	case SwapLost:
		return "lost"
	case SwapUnknown:
		return "unknown"
	case SwapFailed:
		return "failed"
	}
	return "invalid"
}

// Events of the VM. VM is the Op number of the action that launched or found
// it, so that late events of an earlier one are known as such.
type (
	// VMFound is the result of FindVM.
	VMFound struct {
		Op    uint64
		Found bool
		// Paused says that it stands still because somebody stopped it.
		Paused bool
		// Left says that its guest has been migrated away by somebody else
		// (QEMU's status postmigrate).
		Left bool
	}
	// VMLaunched is the result of LaunchVM.
	VMLaunched struct {
		Op  uint64
		Err string
	}
	// VMDied says that the process ended, or its monitor is gone for good.
	VMDied struct {
		VM     uint64
		Reason string
	}
	// VMShutdown is QEMU's SHUTDOWN event. Planned tells the guest's or an
	// operator's wish from everything else.
	VMShutdown struct {
		VM      uint64
		Planned bool
		Reason  string
	}
	// VMStopped and VMResumed are QEMU's STOP and RESUME with their time on
	// the host's wall clock, which is only passed on.
	VMStopped struct {
		VM uint64
		At time.Time
	}
	VMResumed struct {
		VM uint64
		At time.Time
	}
	// GuestReset is QEMU's RESET: the guest, or somebody, has restarted it
	// within its VM.
	GuestReset struct {
		VM     uint64
		Reason string
	}
	// VMHung says that the VM here is of no use any more although nobody
	// stopped it: it hangs, its guest stands still at a disk error, or its
	// image lacks a write. Reason says which, in full.
	VMHung struct {
		VM     uint64
		Reason string
	}
	// VMMigration is QEMU's MIGRATION of a migration that colod did not
	// start; the copying of the guest for its protection is not told. Status
	// is QEMU's, such as setup, active, completed, failed, cancelled.
	VMMigration struct {
		VM     uint64
		Status string
	}
	// COLOExit is QEMU's COLO_EXIT.
	COLOExit struct {
		VM     uint64
		Reason string
	}
	// VMChecked is the result of CheckVM.
	VMChecked struct {
		Op  uint64
		Err string
	}
	// VMFreed is the result of FreeVM.
	VMFreed struct {
		Op  uint64
		Err string
	}
	// VMGone is the result of EndVM.
	VMGone struct {
		Op  uint64
		Err string
	}
	// VMPaused is the result of PauseVM; VMStopped follows, or came before.
	VMPaused struct {
		Op  uint64
		Err string
	}
	// VMContinued is the result of ContVM; VMResumed follows, or came before.
	VMContinued struct {
		Op  uint64
		Err string
	}
	// VMReset is the result of ResetVM; GuestReset follows, or came before.
	VMReset struct {
		Op  uint64
		Err string
	}
	// Copied is the result of Copy: both VMs run in lock-step. Permanent
	// says that trying again is of no use, such as with a broken QEMU.
	Copied struct {
		Session   string
		Err       string
		Permanent bool
	}
	// Triggered is the result of Trigger.
	Triggered struct {
		N   uint64
		Err string
	}
)

// Events of the data path.
type (
	// Muted is the result of Mute.
	Muted struct {
		Op  uint64
		Err string
	}
	// Speaking is the result of Speak.
	Speaking struct {
		Op  uint64
		Err string
	}
	// Linked is the result of Link on the speaker, and comes by itself on
	// the secondary when the speaker has connected.
	Linked struct {
		Session string
		Err     string
	}
	// LinkLost says that the connection between the data paths is gone.
	LinkLost struct {
		Session string
		Reason  string
	}
	// Diverged asks for a checkpoint.
	Diverged struct{ Reason string }
	// Held is the result of Hold: both data paths hold everything.
	Held struct {
		N   uint64
		Err string
	}
	// Covered is the result of Cover: what was held before the checkpoint is
	// released and comparing goes on.
	Covered struct {
		N   uint64
		Err string
	}
)

// Events of the other nodes. Peer and From are their names.
type (
	// PeerUp says that the node answers, over a fresh connection.
	PeerUp struct{ Peer string }
	// PeerDown says that the node is considered lost.
	PeerDown struct{ Peer, Reason string }
	// Received is a message of another node.
	Received struct {
		From string
		Msg  Message
	}
	// SecondaryDeaf says, on the speaker, that the secondary's guest says
	// nothing any more although checkpoints complete.
	SecondaryDeaf struct{ Reason string }
	// Chosen is the result of Choose. Peer is connected. With Err no node
	// can be taken; the sentence says for each why not.
	Chosen struct {
		Op     uint64
		Peer   string
		Reason string // why this one
		Err    string
	}
	// FencedNode is the result of Fence.
	FencedNode struct {
		Op  uint64
		Err string
	}
)

// expired is a timer that ran out; made by Step from a Tick.
type expired struct{ t timer }

func (Start) isEvent()         {}
func (Tick) isEvent()          {}
func (Quit) isEvent()          {}
func (Ask) isEvent()           {}
func (RecordRead) isEvent()    {}
func (Swapped) isEvent()       {}
func (VMFound) isEvent()       {}
func (VMLaunched) isEvent()    {}
func (VMDied) isEvent()        {}
func (VMShutdown) isEvent()    {}
func (VMStopped) isEvent()     {}
func (VMResumed) isEvent()     {}
func (GuestReset) isEvent()    {}
func (VMHung) isEvent()        {}
func (VMMigration) isEvent()   {}
func (VMPaused) isEvent()      {}
func (VMContinued) isEvent()   {}
func (VMReset) isEvent()       {}
func (SecondaryDeaf) isEvent() {}
func (Chosen) isEvent()        {}
func (FencedNode) isEvent()    {}
func (COLOExit) isEvent()      {}
func (VMChecked) isEvent()     {}
func (VMFreed) isEvent()       {}
func (VMGone) isEvent()        {}
func (Copied) isEvent()        {}
func (Triggered) isEvent()     {}
func (Muted) isEvent()         {}
func (Speaking) isEvent()      {}
func (Linked) isEvent()        {}
func (LinkLost) isEvent()      {}
func (Diverged) isEvent()      {}
func (Held) isEvent()          {}
func (Covered) isEvent()       {}
func (PeerUp) isEvent()        {}
func (PeerDown) isEvent()      {}
func (Received) isEvent()      {}
func (expired) isEvent()       {}
