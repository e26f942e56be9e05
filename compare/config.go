package compare

import "time"

const (
	defaultHold       = 20 * time.Millisecond
	defaultAckHold    = 100 * time.Millisecond
	defaultMaxFlows   = 16384
	defaultMaxFrames  = 4096
	defaultMaxBytes   = 64 << 20
	defaultMaxPieces  = 65536
	defaultFlowFrames = 1024
	defaultContext    = 256

	// silenceFactor and silenceLeast give the time that the secondary may be ahead with something that the
	// primary has not said: nobody waits for it, so it is long.
	silenceFactor = 10
	silenceLeast  = time.Second
	// reportAgain is the pause before a silence is reported again when no checkpoint followed.
	reportAgain = time.Second
	// WarmUp is the first time of an epoch, in which the secondary's guest may be slow; maxSlow bounds how often
	// the hold budget is doubled for it.
	WarmUp  = time.Second
	maxSlow = 3
	// smallWindow is the window, in bytes, below which a sender may wait for a larger one (RFC 9293 section 3.8.6.2.1);
	// three segments.
	smallWindow = 3 * 1460
	// maxTries bounds the digests made to find the twin of one datagram.
	maxTries = 64
	// maxSegment bounds the length of one described or asked range, in bytes.
	maxSegment = 1 << 17
	// maxOffset bounds the distance of a descriptor from the agreed position.
	maxOffset = 1 << 30
	// maxPendingAsks bounds the questions of one flow that wait for the secondary's guest.
	maxPendingAsks = 16
	// maxUnmapped bounds the frames of one flow that wait for its announcement.
	maxUnmapped = 64
	// minPiece is the least length of a digest's range in fine mode.
	minPiece = 512
	// housekeeping is how many of the secondary's ARP or neighbour discovery packets a flow remembers.
	housekeeping = 8
)

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Hold <= 0 {
		c.Hold = defaultHold
	}
	if c.AckHold <= 0 {
		c.AckHold = defaultAckHold
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = defaultMaxBytes
	}
	def(&c.Context, defaultContext)
	def(&c.MaxFlows, defaultMaxFlows)
	def(&c.MaxFrames, defaultMaxFrames)
	def(&c.MaxPieces, defaultMaxPieces)
	def(&c.MaxFlowFrames, defaultFlowFrames)
	return c
}
