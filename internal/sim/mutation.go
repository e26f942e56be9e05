package sim

// Mutation is a deliberate fault of the simulated system, never of the product. The checks have to find each.
type Mutation uint8

// The mutations.
const (
	None Mutation = iota
	// AckBeforeLog: the speaker acknowledges client bytes before the secondary's node has them.
	AckBeforeLog
	// PromoteUnrecorded: a node takes a swap that it did not win for won.
	PromoteUnrecorded
	// WatermarkIgnored: the secondary's node forgets which datagrams were released.
	WatermarkIgnored
	// OutputUnchecked: the speaker's output leaves without the secondary's word.
	OutputUnchecked
	// NoCompare: the arbiter writes without looking at what is there.
	NoCompare
	// FencedLives: a VM that was to be ended lives on, and DeafMute: a node that was to be silent speaks on.
	FencedLives
	DeafMute
	// CoverEarly: output is released as covered before the checkpoint has been taken.
	CoverEarly
	// InputDropped: the secondary's guest is not given some of its input; that alone must be harmless.
	InputDropped
	// LateStart: colod's data path takes frames of after a checkpoint for covered ones.
	LateCover
	numMutations
)

var mutationNames = [numMutations]string{"none", "ack before log", "promotion without the record", "watermark ignored", "output unchecked",
	"swap without compare", "fenced VM lives", "deaf mute", "cover early", "input dropped", "late cover"}

func (m Mutation) String() string {
	if m < numMutations {
		return mutationNames[m]
	}
	return "invalid"
}
