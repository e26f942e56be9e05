package pair

import "time"

// timer names what a Tick may bring about. Each is set within a state and
// forgotten when the state is left, but for those that say otherwise.
type timer uint8

const (
	timerPoll      timer = iota // read the record again
	timerPhase                  // limit of the present step
	timerRetry                  // try something again
	timerIdle                   // next checkpoint without another reason
	timerRetrigger              // QEMU has not stopped for a checkpoint
	timerSuspect                // say that the secondary is no longer fed
	timerGrace                  // the guest has had its time to shut down; survives changes of state
	timerSwitch                 // limit of a step of a planned change of roles; survives changes of state
	timerForce                  // write what was forced into the record; survives changes of state
	timerBehind                 // the other node knows a newer record than this one; survives changes of state
	timerQuit                   // the arbiter has had its time to take in that colod ends; survives changes of state
	numTimers
)

// timers are the times at which each runs out; 0 = not set.
type timers [numTimers]time.Duration

// set starts timer t to run out d from now.
func (m *Machine) set(t timer, d time.Duration) {
	at := m.now + d
	if at <= 0 {
		at = 1
	}
	m.timers[t] = at
}

func (m *Machine) clear(t timer) { m.timers[t] = 0 }

// first is the earliest time, or 0.
func (ts *timers) first() time.Duration {
	var min time.Duration
	for _, at := range ts {
		if at != 0 && (min == 0 || at < min) {
			min = at
		}
	}
	return min
}

// pop takes out the earliest timer that has run out.
func (ts *timers) pop(now time.Duration) (timer, bool) {
	best := numTimers
	for t, at := range ts {
		if at != 0 && at <= now && (best == numTimers || at < ts[best]) {
			best = timer(t)
		}
	}
	if best == numTimers {
		return 0, false
	}
	ts[best] = 0
	return best, true
}
