package heartbeat

import (
	"fmt"
	"slices"
	"time"
)

// Event is one of PathUp, PathDown, PeerUp, PeerDown, Restarted.
type Event interface{ event() }

// The events. A peer and its paths are neither up nor down until the first
// answer: there is no PeerDown of a peer that was never heard of.
type (
	// PathUp says that answers come over a path, for the first time or again.
	PathUp struct {
		Peer string
		Path int // 0 is the path of the peer's first address
	}
	// PathDown says that a path was silent for the timeout.
	PathDown struct {
		Peer   string
		Path   int
		Alone  bool // no other path to this peer is up
		Reason string
	}
	// PeerUp comes with the first path that is up, or the first answer after
	// PeerDown.
	PeerUp struct{ Peer string }
	// PeerDown says that all paths were silent for the timeout.
	PeerDown struct {
		Peer   string
		Reason string
	}
	// Restarted says that the service's process had ended and another one has
	// taken its place: all keys are forgotten, and new ones have to be made by
	// new connections.
	Restarted struct{}
)

func (PathUp) event()    {}
func (PathDown) event()  {}
func (PeerUp) event()    {}
func (PeerDown) event()  {}
func (Restarted) event() {}

const (
	// again is how many answers in a row a path that was down needs to be up.
	again = 3
	// rttSamples is how many round trips the quantiles are made of.
	rttSamples = 512
)

// state is what is known of one peer. It is pure; times come in, measured from
// an arbitrary start with a clock that stands still while the host is
// suspended (CLOCK_MONOTONIC).
type state struct {
	name     string
	interval time.Duration
	timeout  time.Duration

	looked  time.Duration
	slept   time.Duration // in all, without being looked at
	silence time.Duration // awake, since an answer came over any path
	known   bool          // an answer has come once
	up      bool
	paths   []pathState
}

type pathState struct {
	silence  time.Duration // awake, since the last answer
	unheard  time.Duration // awake, since anything authentic
	known    bool
	up       bool
	row      int // answers since it was down
	sent     uint64
	answered uint64
	lastAt   time.Duration // of the last answer
	worst    time.Duration // longest awake silence that an answer ended while it was up
	rtt      [rttSamples]time.Duration
	rtts     uint64
}

func newState(name string, interval, timeout, now time.Duration, paths int) *state {
	return &state{name: name, interval: interval, timeout: timeout, looked: now, paths: make([]pathState, paths)}
}

// maxStep is how much silence can be added between two looks. An awake node
// looks at least once an interval.
func (s *state) maxStep() time.Duration { return s.interval + s.interval/2 }

// advance counts the time since the last look as silence, as far as this node
// was awake.
func (s *state) advance(now time.Duration) {
	step := now - s.looked
	if step <= 0 {
		return
	}
	s.looked = now
	if m := s.maxStep(); step > m {
		s.slept += step - m
		step = m
	}
	s.silence += step
	for i := range s.paths {
		s.paths[i].silence += step
		s.paths[i].unheard += step
	}
}

// sleep tells that this node was silent itself up to now.
func (s *state) sleep(now time.Duration) {
	s.slept += max(now-s.looked, 0)
	s.looked = now
}

// pinged tells that a ping was sent over a path.
func (s *state) pinged(path int) { s.paths[path].sent++ }

// heard tells that a ping of the peer came over a path.
func (s *state) heard(path int) { s.paths[path].unheard = 0 }

// answered tells that the answer to a ping came over a path, with the round
// trip without what the peer took. The events are added to out.
func (s *state) answered(now time.Duration, path int, rtt time.Duration, out []Event) []Event {
	s.advance(now)
	p := &s.paths[path]
	if p.up {
		p.worst = max(p.worst, p.silence)
	}
	p.silence, p.unheard, s.silence = 0, 0, 0
	p.answered++
	p.lastAt = now
	p.rtt[p.rtts%rttSamples] = rtt
	p.rtts++
	if !p.up {
		p.row++
		if p.row >= again || !p.known {
			p.up, p.known = true, true
			out = append(out, PathUp{Peer: s.name, Path: path})
		}
	}
	if !s.up {
		s.up, s.known = true, true
		out = append(out, PeerUp{Peer: s.name})
	}
	return out
}

// look tells the time, after everything that has arrived was told.
func (s *state) look(now time.Duration, out []Event) []Event {
	s.advance(now)
	for i := range s.paths {
		p := &s.paths[i]
		if p.silence < s.timeout {
			continue
		}
		p.row = 0
		if !p.up {
			continue
		}
		p.up = false
		reason := fmt.Sprintf("nothing was heard for %s", s.timeout)
		if p.unheard < s.timeout {
			reason = fmt.Sprintf("it is heard, but has not answered for %s: the other direction fails", s.timeout)
		}
		out = append(out, PathDown{Peer: s.name, Path: i, Alone: !s.anyUp(), Reason: reason})
	}
	if s.up && s.silence >= s.timeout {
		s.up = false
		out = append(out, PeerDown{Peer: s.name, Reason: s.why()})
	}
	return out
}

func (s *state) anyUp() bool {
	return slices.ContainsFunc(s.paths, func(p pathState) bool { return p.up })
}

func (s *state) why() string {
	over := "over its path"
	if n := len(s.paths); n > 1 {
		over = fmt.Sprintf("over any of %d paths", n)
	}
	for i := range s.paths {
		if s.paths[i].unheard < s.timeout {
			return fmt.Sprintf("it is heard, but has answered nothing %s for %s", over, s.timeout)
		}
	}
	return fmt.Sprintf("nothing was heard of it %s for %s", over, s.timeout)
}

// deadline is the next time at which look may have something to say.
func (s *state) deadline() time.Duration {
	left := time.Hour
	if s.up {
		left = s.timeout - s.silence
	}
	for i := range s.paths {
		if p := &s.paths[i]; p.up {
			left = min(left, s.timeout-p.silence)
		}
	}
	return s.looked + left
}

// PathStatus is what is known of one path.
type PathStatus struct {
	Path      int
	Local     string // address here
	Addr      string // address of the peer
	Up        bool
	RTTP50    time.Duration // of the last 512 round trips; 0 = none
	RTTP99    time.Duration
	RTTLast   time.Duration
	Sent      uint64        // pings, of the last second and a half too
	Lost      uint64        // pings without an answer, but for those that may still be under way
	LastHeard time.Duration // ago; below 0: never
	WorstGap  time.Duration // longest silence between two answers while it was up, own sleep apart
	Err       string        // of the last sending, if it failed
}

// status is the present status of a path.
func (s *state) status(now time.Duration, path int) PathStatus {
	p := &s.paths[path]
	st := PathStatus{Path: path, Up: p.up, Sent: p.sent, LastHeard: -1, WorstGap: p.worst}
	if p.answered > 0 {
		st.LastHeard = now - p.lastAt
	}
	if p.up {
		st.WorstGap = max(st.WorstGap, p.silence)
	}
	// Those of the last timeout may still be answered.
	if under := uint64(s.timeout/s.interval) + 1; p.sent > p.answered+under {
		st.Lost = p.sent - p.answered
	}
	n := int(min(p.rtts, rttSamples))
	if n == 0 {
		return st
	}
	st.RTTLast = p.rtt[(p.rtts-1)%rttSamples]
	all := slices.Clone(p.rtt[:n])
	slices.Sort(all)
	st.RTTP50, st.RTTP99 = all[n/2], all[min(n*99/100, n-1)]
	return st
}
