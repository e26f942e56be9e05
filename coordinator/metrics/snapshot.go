// Package metrics tells what a node and its pairs do, in numbers: for
// Prometheus, and as a short history for people who look now.
//
// It counts nothing itself. A Snapshot is taken of what the data paths and
// drivers count anyhow; Collector turns it into metrics, Series into rates
// and quantiles over the last seconds.
package metrics

import (
	"time"

	"colod/internal/loghist"
)

// Snapshot is a node at one moment.
type Snapshot struct {
	Node, Version string
	Since         time.Time // start of this colod
	CertExpires   time.Time // of the node's certificate
	EventsLost    uint64    // that could not be kept on disk
	Supervision   Supervision
	Pairs         []Pair
	Peers         []Peer
}

// Supervision is how the parts of a node are. Counters count since colod started.
type Supervision struct {
	Parts             map[string]uint64 // by state
	Failures, Actions map[string]uint64 // by kind of part
	ActionsHeld       uint64            // were due, and there had been too many
	HeartbeatRestarts uint64            // of the process that exchanges them
}

// Tolerance counts the uses of one rule since colod started.
type Tolerance struct {
	Name     string
	Uses     uint64
	Bytes    uint64 // hidden
	Followed uint64 // divergences in connections in which it had hidden something
}

// Peer is another node as seen from here.
type Peer struct {
	Name string
	Up   bool
	RTT  time.Duration // of heartbeats; 0 unknown

	Paths []Path
}

// Path is one path to another node, as its heartbeats see it.
type Path struct {
	Number int
	Up     bool
	RTT    time.Duration // median; 0 unknown
	Lost   uint64        // heartbeats
}

// Pair is one pair at one moment. Counters count since colod started.
type Pair struct {
	Name       string
	State      string
	Role       string
	Protected  bool // either side may be lost now
	Paused     bool // by its operator
	Held       bool // automatic actions are held by maintenance
	Runs       bool // a VM of the pair runs here
	Generation uint64
	Since      time.Time // of the state

	Released    Released
	Delay       *loghist.Hist // of every frame released by the data path; nil: none
	Hold        *loghist.Hist // of frames released since both sides said them; nil: none
	HeldFrames  int
	Budget      time.Duration
	Mirrored    uint64 // frames
	InputLost   uint64 // frames
	OutputLost  uint64 // frames
	Rewritten   int    // connections
	LinkIn      uint64 // bytes
	LinkOut     uint64 // bytes
	Checkpoints uint64
	ByReason    map[string]uint64 // of checkpoints
	StateBytes  uint64
	Stop        *loghist.Hist         // the guest's standstill for checkpoints; nil: none
	Transfer    *loghist.Hist         // of their state to the other side; nil: none
	Phase       [Phases]*loghist.Hist // of checkpoints; nil: none
	CkptDelay   *loghist.Hist         // sums of the phases; nil: none
	Divergences map[string]uint64     // by reason
	Causes      map[string]uint64     // divergences with a report, by what the report says
	LeftOut     map[string]uint64     // divergences without a report, by why
	Tolerances  []Tolerance
}

// Phases is how many phases a checkpoint has.
const Phases = 5

// PhaseNames are the phases in their order, each beginning where the one before ends.
var PhaseNames = [Phases]string{"buffer", "request", "transfer", "load", "release"}

// Released counts what was let out.
type Released struct {
	Agreed, Covered, Alone uint64 // frames
	Frames, Bytes          uint64
}
