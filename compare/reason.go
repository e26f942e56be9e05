package compare

// Reason says why the two guests are not one any more, or why a checkpoint is wanted.
type Reason uint8

const (
	reasonInvalid Reason = iota
	// ReasonPayload: a byte of a stream or datagram differs.
	ReasonPayload
	// ReasonLength: one stream ends where the other goes on.
	ReasonLength
	// ReasonFlags: one side closes or resets a connection where the other does not.
	ReasonFlags
	// ReasonOptions: the options of a SYN differ.
	ReasonOptions
	// ReasonSilenceSecondary: the primary spoke and the secondary did not within the hold budget.
	ReasonSilenceSecondary
	// ReasonSilencePrimary: the secondary spoke and the primary did not.
	ReasonSilencePrimary
	// ReasonProtocol: the peer's messages contradict themselves or what is known.
	ReasonProtocol
	// ReasonQueue: a bound on held frames, bytes, flows or descriptors was reached.
	ReasonQueue
	// ReasonLost: output of a guest was lost before it could be compared.
	ReasonLost
	// ReasonManual: an operator asked for a checkpoint.
	ReasonManual
	// ReasonUnparsable: frames that cannot be parsed differ.
	ReasonUnparsable
	// ReasonTimer: a periodic checkpoint.
	ReasonTimer
	reasonEnd
)

var reasonNames = [...]string{"invalid", "payload", "length", "flags", "options", "silence-secondary",
	"silence-primary", "protocol", "queue", "lost", "manual", "unparsable", "timer"}

// String is the word used in logs, metrics and the API alike.
func (r Reason) String() string {
	if r < reasonEnd {
		return reasonNames[r]
	}
	return "invalid"
}

// Reasons are all valid reasons in order.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonEnd-1)
	for r := reasonInvalid + 1; r < reasonEnd; r++ {
		all = append(all, r)
	}
	return all
}
