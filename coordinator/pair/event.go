package pair

import (
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
		// Grace is for OpStop: how long the guest may take to shut itself down.
		Grace time.Duration
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
)

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

// Events of the other node.
type (
	// PeerUp says that heartbeats come again.
	PeerUp struct{}
	// PeerDown says that the other node is considered lost.
	PeerDown struct{ Reason string }
	// Received is a message of the other node.
	Received struct{ Msg Message }
)

// expired is a timer that ran out; made by Step from a Tick.
type expired struct{ t timer }

func (Start) isEvent()      {}
func (Tick) isEvent()       {}
func (Quit) isEvent()       {}
func (Ask) isEvent()        {}
func (RecordRead) isEvent() {}
func (Swapped) isEvent()    {}
func (VMFound) isEvent()    {}
func (VMLaunched) isEvent() {}
func (VMDied) isEvent()     {}
func (VMShutdown) isEvent() {}
func (VMStopped) isEvent()  {}
func (VMResumed) isEvent()  {}
func (COLOExit) isEvent()   {}
func (VMChecked) isEvent()  {}
func (VMFreed) isEvent()    {}
func (VMGone) isEvent()     {}
func (Copied) isEvent()     {}
func (Triggered) isEvent()  {}
func (Muted) isEvent()      {}
func (Speaking) isEvent()   {}
func (Linked) isEvent()     {}
func (LinkLost) isEvent()   {}
func (Diverged) isEvent()   {}
func (Held) isEvent()       {}
func (Covered) isEvent()    {}
func (PeerUp) isEvent()     {}
func (PeerDown) isEvent()   {}
func (Received) isEvent()   {}
func (expired) isEvent()    {}
