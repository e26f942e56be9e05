package watchdog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// State is how a part is.
type State uint8

// The states.
const (
	New     State = iota // nothing is known yet
	OK                   // the last results were good
	Suspect              // bad results came, but not enough of them
	Failed               // it does not work
)

func (s State) String() string {
	switch s {
	case New:
		return "new"
	case OK:
		return "ok"
	case Suspect:
		return "suspect"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Part is something that is supervised. Absent numbers are set to what is said.
type Part struct {
	Name string // unique

	// Every is the time between two checks; 0 for a pushed part.
	Every time.Duration
	// Limit is how long one check may take (absent: Every), or the longest time
	// between two beats of a pushed part (needed). A pushed part that is silent
	// gives a bad result again each time Limit has passed.
	Limit time.Duration
	// SuspectAfter and FailAfter are the bad results in a row that make the part
	// suspect (absent: 1) and failed (absent: 3).
	SuspectAfter, FailAfter int
	// RecoverAfter are the good results in a row that make it ok again (absent: 1).
	RecoverAfter int

	// Steps are taken while the part is failed, in this order, until it is ok.
	Steps []Step
}

// Step is one way to help a failed part.
type Step struct {
	Action string // its name
	// Times is how often it is tried (absent: 1), after which comes the next step;
	// below 0: for ever.
	Times int
	// Wait is the pause before the first try, and after each before the next; it
	// is doubled each time up to MaxWait (absent: Wait). How often the part has
	// failed of late counts too: see Memory.
	Wait, MaxWait time.Duration
	// Free actions do no harm and are neither held back nor counted, such as
	// telling somebody.
	Free bool
}

// Guard bounds the actions of all parts together.
type Guard struct {
	Most   int           // actions (absent: 10)
	Window time.Duration // within this time (absent: a minute)
	// Memory is how long a part's failures are remembered: one that fails again
	// within it goes on with the pauses and tries where it was. Absent: ten
	// minutes.
	Memory time.Duration
}

// Effect is one of Changed, Do, Held.
type Effect interface{ effect() }

// The effects.
type (
	// Changed says that a part has another state.
	Changed struct {
		Part     string
		From, To State
		Reason   string
	}
	// Do asks for an action; its result is told by Core.Done, and until then the
	// part gets no other.
	Do struct {
		Part   string
		Action string
		Try    int // of this step, from 1 on
		Reason string
	}
	// Held says that an action was due, and is held back since there were too
	// many of all parts. It comes once for each storm and part.
	Held struct {
		Part   string
		Action string
		Until  time.Duration
	}
)

func (Changed) effect() {}
func (Do) effect()      {}
func (Held) effect()    {}

// Core decides. It is pure: times come in, measured from an arbitrary start by a
// clock that never goes back. It is for one goroutine at a time.
type Core struct {
	guard  Guard
	parts  map[string]*part
	acted  []time.Duration // times of the actions that count, oldest first
	looked time.Duration
}

// part is a Part with what is known of it.
type part struct {
	Part
	state  State
	since  time.Duration
	reason string
	bad    int // in a row
	good   int // in a row

	beat time.Duration // pushed: the last beat, or bad result

	step    int // the next one
	tries   int // of it
	due     time.Duration
	waiting time.Duration // the present pause
	doing   bool
	held    bool
	failed  time.Duration // when it failed last
	ever    bool          // it did

	actions uint64
	last    string
}

// NewCore makes a core without parts.
func NewCore(g Guard) *Core {
	if g.Most <= 0 {
		g.Most = 10
	}
	if g.Window <= 0 {
		g.Window = time.Minute
	}
	if g.Memory <= 0 {
		g.Memory = 10 * time.Minute
	}
	return &Core{guard: g, parts: map[string]*part{}}
}

// Add begins to supervise a part.
func (c *Core) Add(now time.Duration, p Part) error {
	switch {
	case p.Name == "":
		return errors.New("supervise part: it has no name")
	case c.parts[p.Name] != nil:
		return fmt.Errorf("supervise part %s: it is supervised already", p.Name)
	case p.Every < 0 || p.Limit < 0 || p.Every == 0 && p.Limit == 0:
		return fmt.Errorf("supervise part %s: every %s with limit %s: a part has checks, or a limit between its beats", p.Name, p.Every, p.Limit)
	}
	if p.Limit == 0 {
		p.Limit = p.Every
	}
	if p.SuspectAfter <= 0 {
		p.SuspectAfter = 1
	}
	if p.FailAfter <= 0 {
		p.FailAfter = 3
	}
	if p.RecoverAfter <= 0 {
		p.RecoverAfter = 1
	}
	p.Steps = slices.Clone(p.Steps)
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Times == 0 {
			s.Times = 1
		}
		s.MaxWait = max(s.MaxWait, s.Wait)
		if s.Times < 0 && s.Wait <= 0 {
			return fmt.Errorf("supervise part %s: step %s is tried for ever without a pause", p.Name, s.Action)
		}
	}
	c.parts[p.Name] = &part{Part: p, since: now, beat: now}
	return nil
}

// Remove ends the supervision of a part.
func (c *Core) Remove(name string) { delete(c.parts, name) }

// Good tells a good result, or a beat.
func (c *Core) Good(now time.Duration, name string) []Effect {
	p := c.parts[name]
	if p == nil {
		return nil
	}
	p.beat, p.bad = now, 0
	p.good++
	if p.state == OK || p.good < p.RecoverAfter {
		return nil
	}
	return p.become(now, OK, "")
}

// Bad tells a bad result.
func (c *Core) Bad(now time.Duration, name, reason string) []Effect {
	p := c.parts[name]
	if p == nil {
		return nil
	}
	return c.bad(now, p, reason)
}

// Fail tells a result that leaves no doubt: the part has failed.
func (c *Core) Fail(now time.Duration, name, reason string) []Effect {
	p := c.parts[name]
	if p == nil {
		return nil
	}
	p.bad = max(p.bad, p.FailAfter-1)
	return c.bad(now, p, reason)
}

func (c *Core) bad(now time.Duration, p *part, reason string) []Effect {
	p.beat, p.good = now, 0
	p.bad++
	var out []Effect
	switch {
	case p.state == Failed:
		p.reason = reason
	case p.bad >= p.FailAfter:
		if !p.ever || now-p.failed > c.guard.Memory {
			p.step, p.tries, p.waiting = 0, 0, 0
		}
		p.ever, p.failed = true, now
		out = p.become(now, Failed, reason)
		p.plan(now)
	case p.bad >= p.SuspectAfter && p.state != Suspect:
		out = p.become(now, Suspect, reason)
	case p.state == Suspect:
		p.reason = reason
	}
	return out
}

func (p *part) become(now time.Duration, s State, reason string) []Effect {
	from := p.state
	p.state, p.since, p.reason, p.held = s, now, reason, false
	if from == New && s == OK {
		return nil // nothing to tell
	}
	return []Effect{Changed{Part: p.Name, From: from, To: s, Reason: reason}}
}

// plan sets when the next try is due.
func (p *part) plan(now time.Duration) {
	for p.step < len(p.Steps) && p.Steps[p.step].Times > 0 && p.tries >= p.Steps[p.step].Times {
		p.step, p.tries, p.waiting = p.step+1, 0, 0
	}
	if p.step >= len(p.Steps) {
		return
	}
	s := &p.Steps[p.step]
	if p.waiting == 0 {
		p.waiting = s.Wait
	} else {
		p.waiting = min(2*p.waiting, s.MaxWait)
	}
	p.due = now + p.waiting
}

// Done tells the result of a Do.
func (c *Core) Done(now time.Duration, name, action string, err error) {
	p := c.parts[name]
	if p == nil || !p.doing {
		return
	}
	p.doing = false
	p.last = action + ": done"
	if err != nil {
		p.last = action + ": " + err.Error()
	}
	p.plan(now)
}

// maxGap is the longest time between two looks of a program that runs. What
// is longer, the whole program slept, and its parts with it.
const maxGap = time.Second

// Look tells the time, and returns what is due. It has to be called at Next.
func (c *Core) Look(now time.Duration) []Effect {
	if gap := now - c.looked; gap > maxGap && c.looked > 0 {
		for _, p := range c.parts {
			p.beat = min(p.beat+gap-maxGap, now)
		}
	}
	c.looked = now
	for len(c.acted) > 0 && now-c.acted[0] >= c.guard.Window {
		c.acted = c.acted[1:]
	}
	var out []Effect
	for _, name := range c.names() {
		p := c.parts[name]
		if p.Every == 0 && now-p.beat >= p.Limit {
			out = append(out, c.bad(now, p, fmt.Sprintf("silent for %s", p.Limit))...)
		}
		if p.state == Failed && !p.doing && p.step < len(p.Steps) && now >= p.due {
			out = append(out, c.act(now, p)...)
		}
	}
	return out
}

func (c *Core) act(now time.Duration, p *part) []Effect {
	s := &p.Steps[p.step]
	if !s.Free {
		if len(c.acted) >= c.guard.Most {
			p.due = c.acted[0] + c.guard.Window
			if p.held {
				return nil
			}
			p.held = true
			return []Effect{Held{Part: p.Name, Action: s.Action, Until: p.due}}
		}
		c.acted = append(c.acted, now)
	}
	p.tries++
	p.actions++
	p.doing, p.held = true, false
	return []Effect{Do{Part: p.Name, Action: s.Action, Try: p.tries, Reason: p.reason}}
}

// Next is when Look has to be called at the latest. A look is needed once a
// maxGap too, as a longer pause counts as sleep.
func (c *Core) Next() time.Duration {
	next := c.looked + maxGap/2
	for _, p := range c.parts {
		if p.Every == 0 {
			next = min(next, p.beat+p.Limit)
		}
		if p.state == Failed && !p.doing && p.step < len(p.Steps) {
			next = min(next, p.due)
		}
	}
	return next
}

// Status is how a part is, with times as durations before now.
type Status struct {
	Part    string
	State   State
	For     time.Duration // in this state
	Reason  string        // of suspect and failed
	Bad     int           // results in a row
	Actions uint64        // taken, in all
	Last    string        // action and its result
}

// Status tells of all parts, sorted by name.
func (c *Core) Status(now time.Duration) []Status {
	out := make([]Status, 0, len(c.parts))
	for _, name := range c.names() {
		p := c.parts[name]
		out = append(out, Status{Part: name, State: p.state, For: now - p.since, Reason: p.reason, Bad: p.bad, Actions: p.actions, Last: p.last})
	}
	return out
}

func (c *Core) names() []string {
	names := make([]string, 0, len(c.parts))
	for name := range c.parts {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
