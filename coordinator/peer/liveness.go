package peer

import "time"

// liveness decides from the times of received frames whether the other node
// is lost. It is pure; times come in.
//
// Silence counts only while this node itself was awake: between two looks
// at most maxStep is added. A node that was paused, or whose processor was
// taken away, would otherwise blame its peer for its own sleep, before it
// has read what had arrived meanwhile.
type liveness struct {
	timeout time.Duration
	maxStep time.Duration

	silence time.Duration
	looked  time.Duration // time of the last look
	lost    bool
}

func newLiveness(interval, timeout, now time.Duration) *liveness {
	return &liveness{timeout: timeout, maxStep: interval, looked: now}
}

// heard tells that a frame arrived.
func (l *liveness) heard() {
	l.silence = 0
	l.lost = false
}

// look tells the time. It reports true once, when the silence reaches the
// timeout.
func (l *liveness) look(now time.Duration) bool {
	step := min(now-l.looked, l.maxStep)
	l.looked = now
	if l.lost {
		return false
	}
	l.silence += step
	l.lost = l.silence >= l.timeout
	return l.lost
}
