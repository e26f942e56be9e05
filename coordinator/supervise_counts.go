package coordinator

import (
	"maps"
	"strings"
	"sync"

	"colod/coordinator/metrics"
	"colod/coordinator/watchdog"
)

// partKinds are the kinds of supervised parts, as the metrics name them.
var partKinds = []string{"arbiter", "guest", "heartbeats", partLoop, "node", "output", "path", partProxy, "vm"}

// partKind is the kind of a part: the last word of pair/NAME/vm, node or path of
// node/NAME/..., else its name.
func partKind(part string) string {
	words := strings.Split(part, "/")
	switch {
	case words[0] == "pair":
		return words[len(words)-1]
	case words[0] == "node" && len(words) > 2:
		return "path"
	}
	return words[0]
}

// supervisionCounts count what the supervision did since colod started.
type supervisionCounts struct {
	mu       sync.Mutex
	failures map[string]uint64 // by kind of part
	actions  map[string]uint64
	held     uint64
	restarts uint64 // of the process of the heartbeats
}

func newSupervisionCounts() *supervisionCounts {
	c := &supervisionCounts{failures: map[string]uint64{}, actions: map[string]uint64{}}
	for _, k := range partKinds {
		c.failures[k], c.actions[k] = 0, 0
	}
	return c
}

func (c *supervisionCounts) take(e watchdog.Effect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e := e.(type) {
	case watchdog.Changed:
		if e.To == watchdog.Failed {
			c.failures[partKind(e.Part)]++
		}
	case watchdog.Do:
		c.actions[partKind(e.Part)]++
	case watchdog.Held:
		c.held++
	}
}

// restarted counts that the process of the heartbeats was started again.
func (c *supervisionCounts) restarted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarts++
}

// sample is what the metrics tell of the supervision.
func (s *supervision) sample() metrics.Supervision {
	out := metrics.Supervision{Parts: map[string]uint64{}}
	if s == nil {
		return out // nobody watches
	}
	for _, st := range []watchdog.State{watchdog.New, watchdog.OK, watchdog.Suspect, watchdog.Failed} {
		out.Parts[st.String()] = 0
	}
	for _, p := range s.dog.Status() {
		out.Parts[p.State.String()]++
	}
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	out.Failures, out.Actions = maps.Clone(s.counts.failures), maps.Clone(s.counts.actions)
	out.ActionsHeld, out.HeartbeatRestarts = s.counts.held, s.counts.restarts
	return out
}
