package pair

// State is where a node stands with respect to one pair.
type State uint8

// The states. Each says when one is in it and what ends it.
const (
	// Idle: nothing has been decided yet. At start the record and a running
	// VM are looked for; after the speaker's VM died while a standby was
	// named, it waits for the other node to take over.
	Idle State = iota + 1
	// Standby: the other node speaks, or is to; no VM here, output muted.
	// Ends when the speaker asks for a secondary.
	Standby
	// Syncing: the guest is being copied to the secondary. The speaker still
	// has solo authority until the record names the standby.
	Syncing
	// Protected: both guests run in lock-step; the record names the standby.
	Protected
	// Checkpointing: the secondary is being made a copy of the primary again.
	Checkpointing
	// Claiming: the other side is lost and the record is being swapped. Mute
	// except for what both had agreed on.
	Claiming
	// Promoting: the record names this node and no standby; its VM is being
	// launched, adopted or freed from COLO, and the data path opened.
	Promoting
	// Solo: the guest runs here alone, by the record's authority.
	Solo
	// Stopped: the guest was ended on purpose, or cannot be run. Never a
	// failover. Ends by an operator's start, or when the other node speaks.
	Stopped
	// Fenced: the record names the other node although a VM runs here. It is
	// muted and ended, then this node is a standby.
	Fenced
	// Switching: a planned exchange of roles. The VM here stands still, and
	// the other node has been asked to take over; if it does not, the guest
	// goes on here.
	Switching
)

var stateNames = map[State]string{
	Idle: "idle", Standby: "standby", Syncing: "syncing", Protected: "protected",
	Checkpointing: "checkpointing", Claiming: "claiming", Promoting: "promoting",
	Solo: "solo", Stopped: "stopped", Fenced: "fenced", Switching: "switching",
}

func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return "invalid"
}

// Role is what this node's VM is in the pair.
type Role uint8

// The roles.
const (
	NoRole    Role = iota // no VM, or none that counts
	Speaker               // the VM whose output reaches clients
	Secondary             // the VM that follows
)

func (r Role) String() string {
	switch r {
	case Speaker:
		return "speaker"
	case Secondary:
		return "secondary"
	}
	return "none"
}

// Transition is one legal move between states.
type Transition struct {
	From, To State
	When     string
}

// Transitions are all legal moves; become refuses any other. The table in
// docs/pair-states.md is made of it.
var Transitions = []Transition{
	{Idle, Standby, "the record names the other node as speaker, or there is none and this node is not the first of the pair"},
	{Idle, Promoting, "the record names this node and no standby: the VM found is adopted, or one is launched"},
	{Idle, Claiming, "the record names this node and a standby, and the VM found here, or nobody's, is to go on; or a secondary was found here and the speaker does not answer; or the guest is here or to be started, and a write of the former colod may still be on its way"},
	{Idle, Fenced, "a VM was found here although the record names the other node"},
	{Idle, Stopped, "the record says that the guest was ended, or it was migrated away by somebody else"},

	{Standby, Syncing, "the speaker asks for a secondary"},
	{Standby, Idle, "the record names this node as speaker again"},
	{Standby, Stopped, "the record says that the guest was ended"},

	{Syncing, Protected, "the arming checkpoint is done and the record names the standby"},
	{Syncing, Solo, "(speaker) protection failed before anything was changed here"},
	{Syncing, Promoting, "(speaker) protection failed on the way: the VM is freed and goes on alone; or the VM died and is launched again"},
	{Syncing, Claiming, "(speaker) the other side was lost while the record was being written; (secondary) the speaker is lost and the record names this node as standby"},
	{Syncing, Idle, "(speaker) the VM here died while the record was being written: the other node may take over; or maintenance holds its start back"},
	{Syncing, Standby, "(secondary) the VM could not be prepared or died"},
	{Syncing, Fenced, "(secondary) the speaker gave up, or is lost before the record named this node"},
	{Syncing, Stopped, "the guest was ended on purpose"},

	{Protected, Checkpointing, "(speaker) a divergence, the timer or an operator asks for a checkpoint; (secondary) its VM stops for one"},
	{Protected, Claiming, "the other side is lost"},
	{Protected, Idle, "(speaker) the VM here died or was handed over: the other node takes over"},
	{Protected, Standby, "(secondary) the VM here died"},
	{Protected, Fenced, "the record names the other node and not this one"},
	{Protected, Stopped, "the guest was ended on purpose"},

	{Protected, Switching, "(speaker) an operator asked to exchange the roles, and the VM here stands still"},
	{Protected, Promoting, "(speaker) the record was written without the secondary, which is let go for another one, or as colod is being stopped"},

	{Checkpointing, Protected, "the checkpoint is done"},
	{Checkpointing, Promoting, "(speaker) the record was written without the secondary, which is let go for another one, or as colod is being stopped"},
	{Checkpointing, Claiming, "the other side is lost, or did not finish the checkpoint in time"},
	{Checkpointing, Idle, "(speaker) the VM here died or was handed over: the other node takes over"},
	{Checkpointing, Standby, "(secondary) the VM here died"},
	{Checkpointing, Fenced, "the record names the other node and not this one"},
	{Checkpointing, Stopped, "the guest was ended on purpose"},

	{Claiming, Promoting, "the record was won"},
	{Claiming, Fenced, "the record was lost to the other node"},
	{Claiming, Idle, "the record was won, but no VM is here and maintenance holds its start back"},
	{Claiming, Stopped, "the record says that the guest was ended, or it was ended on purpose here"},

	{Promoting, Solo, "the guest runs here and its output reaches clients"},
	{Promoting, Idle, "the VM died, and maintenance holds its start back"},
	{Promoting, Fenced, "the record names the other node"},
	{Promoting, Stopped, "the VM cannot be run, or was ended on purpose"},

	{Solo, Syncing, "the other node is ready to run a secondary"},
	{Solo, Promoting, "the VM died and nobody holds a copy: it is launched again"},
	{Solo, Idle, "the VM died, and maintenance holds its start back"},
	{Solo, Claiming, "the VM died, and the record was changed to name a standby"},
	{Solo, Fenced, "the record names the other node"},
	{Solo, Stopped, "the guest was ended on purpose, or dies again and again"},

	{Stopped, Standby, "the other node speaks"},
	{Stopped, Promoting, "an operator starts the guest here"},
	{Stopped, Claiming, "an operator starts the guest here, and the record still names a standby"},

	{Switching, Fenced, "the other node has taken over"},
	{Switching, Promoting, "the other node's VM died before it was heard, and it gave the record back"},
	{Switching, Claiming, "the other node cannot take over, or is lost: the guest goes on here"},
	{Switching, Idle, "the VM here died: the other node takes over"},
	{Switching, Stopped, "the guest was ended on purpose"},

	{Fenced, Standby, "the VM here is ended"},
	{Fenced, Stopped, "the VM here is ended, and the guest with it"},
}

// legal is Transitions as a set.
var legal = func() map[[2]State]bool {
	m := make(map[[2]State]bool, len(Transitions))
	for _, t := range Transitions {
		m[[2]State{t.From, t.To}] = true
	}
	return m
}()
