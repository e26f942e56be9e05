package report

import (
	"cmp"
	"slices"
	"time"
)

// Summary says what divergences cost a guest.
type Summary struct {
	Version int       `json:"version"`
	Pair    string    `json:"pair,omitempty"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Hours   float64   `json:"hours"`
	Reports int       `json:"reports"`
	// LeftOut counts the divergences without a report, by the reason for that.
	LeftOut map[string]uint64 `json:"left_out"`
	Total   Cost              `json:"total"`
	Causes  []CauseCost       `json:"causes"` // the dearest first
	Rules   []RuleDoubt       `json:"rules"`  // tolerances after whose use the guests diverged
}

// Cost is a sum over divergences; the cost of a checkpoint is shared by those that it healed.
type Cost struct {
	Count       int     `json:"count"`
	Checkpoints float64 `json:"checkpoints"`
	StopMS      float64 `json:"stop_ms"`
	CostMS      float64 `json:"cost_ms"`
	Bytes       float64 `json:"bytes"`
	PerHour     Rate    `json:"per_hour"`
}

// Rate is a cost in an hour.
type Rate struct {
	Count  float64 `json:"count"`
	StopMS float64 `json:"stop_ms"`
	Bytes  float64 `json:"bytes"`
}

// CauseCost is the cost of one cause.
type CauseCost struct {
	Cause  Cause    `json:"cause"`
	Cost   Cost     `json:"cost"`
	Flows  []string `json:"flows"` // services or ports in which it occurs, the commonest first, at most five
	Sample uint64   `json:"sample"`
}

// RuleDoubt is a tolerance that may hide more than it should.
type RuleDoubt struct {
	Rule     string `json:"rule"`
	Followed int    `json:"followed"` // divergences in connections in which it had hidden something
	Sample   uint64 `json:"sample"`
}

// leastHours is the shortest time that costs are divided by: a burst of a second says nothing about an hour.
const leastHours = 1.0 / 60

// Summarize adds up reports, which are in order of time. from and to bound the time that they cover; zero values mean
// the first and the last report.
func Summarize(all []*Report, from, to time.Time) *Summary {
	s := &Summary{Version: Version, From: from, To: to, Reports: len(all), LeftOut: map[string]uint64{}, Causes: []CauseCost{}, Rules: []RuleDoubt{}}
	type group struct {
		CauseCost
		flows map[string]int
	}
	groups := map[[2]string]*group{}
	rules := map[string]*RuleDoubt{}
	for _, r := range all {
		s.Pair = r.Pair
		if s.From.IsZero() {
			s.From = r.Time
		}
		if to.IsZero() && r.Time.After(s.To) {
			s.To = r.Time
		}
		for k, n := range r.LeftOut {
			s.LeftOut[k] += n
		}
		key := [2]string{r.Cause.Kind, r.Cause.Field}
		g := groups[key]
		if g == nil {
			g = &group{CauseCost{Cause: r.Cause}, map[string]int{}}
			groups[key] = g
		}
		g.Cost.add(r)
		s.Total.add(r)
		g.Sample = r.Number
		g.flows[r.Flow.where()]++
		if r.Rule != "" {
			d := rules[r.Rule]
			if d == nil {
				d = &RuleDoubt{Rule: r.Rule}
				rules[r.Rule] = d
			}
			d.Followed++
			d.Sample = r.Number
		}
	}
	s.Hours = max(s.To.Sub(s.From).Hours(), leastHours)
	s.Total.rate(s.Hours)
	for _, g := range groups {
		g.Cost.rate(s.Hours)
		g.Flows = []string{}
		for f := range g.flows {
			g.Flows = append(g.Flows, f)
		}
		slices.SortFunc(g.Flows, func(a, b string) int { return cmp.Or(g.flows[b]-g.flows[a], cmp.Compare(a, b)) })
		g.Flows = g.Flows[:min(len(g.Flows), 5)]
		s.Causes = append(s.Causes, g.CauseCost)
	}
	slices.SortFunc(s.Causes, func(a, b CauseCost) int {
		return cmp.Or(cmp.Compare(b.Cost.StopMS, a.Cost.StopMS), b.Cost.Count-a.Cost.Count, cmp.Compare(a.Cause.Kind, b.Cause.Kind),
			cmp.Compare(a.Cause.Field, b.Cause.Field))
	})
	for _, d := range rules {
		s.Rules = append(s.Rules, *d)
	}
	slices.SortFunc(s.Rules, func(a, b RuleDoubt) int { return cmp.Or(b.Followed-a.Followed, cmp.Compare(a.Rule, b.Rule)) })
	return s
}

func (c *Cost) add(r *Report) {
	c.Count++
	if p := r.Checkpoint; p != nil && p.SharedBy > 0 {
		part := 1 / float64(p.SharedBy)
		c.Checkpoints += part
		c.StopMS += p.StopMS * part
		c.CostMS += p.CostMS * part
		c.Bytes += float64(p.Bytes) * part
	}
}

func (c *Cost) rate(hours float64) {
	c.PerHour = Rate{Count: float64(c.Count) / hours, StopMS: c.StopMS / hours, Bytes: c.Bytes / hours}
}

// where is the guest's service in a word or two.
func (f *Flow) where() string {
	port := f.GuestPort
	dir := ""
	if f.Outgoing {
		port, dir = f.PeerPort, "to "
	}
	switch {
	case f.Kind == "":
		return "-"
	case f.Kind != "tcp" && f.Kind != "udp":
		return f.Kind
	case f.Service != "":
		return dir + f.Service + " (" + f.Kind + " " + itoa(port) + ")"
	}
	return dir + f.Kind + " " + itoa(port)
}
