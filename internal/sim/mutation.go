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
	// DeafMute: a node that was to be silent speaks on.
	DeafMute
	// CoverEarly: output is released as covered before the checkpoint has been taken.
	CoverEarly
	// CoverLate: output of after the checkpoint is released as covered by it.
	CoverLate
	// LoadUntold: a secondary that goes on from a checkpoint whose end its data path does not know speaks all the same.
	LoadUntold
	// InputDropped: the secondary's guest is not given some of its input. That alone must be harmless.
	InputDropped
	numMutations
)

var mutationNames = [numMutations]string{"none", "ack before log", "promotion without the record", "watermark ignored", "output unchecked",
	"swap without compare", "deaf mute", "cover early", "cover late", "load untold", "input dropped"}

func (m Mutation) String() string {
	if m < numMutations {
		return mutationNames[m]
	}
	return "invalid"
}
