package coordinator

import (
	"sync"

	"colod/compare"
	"colod/coordinator/config"
)

// toleranceCounts count the uses of a pair's tolerances since colod started; an
// engine counts only those of its protection. The zero value counts nothing
// until init.
type toleranceCounts struct {
	mu     sync.Mutex
	all    []ToleranceUses
	byName map[string]int
}

func (c *toleranceCounts) init(rules []config.Tolerance) {
	c.all, c.byName = make([]ToleranceUses, len(rules)), make(map[string]int, len(rules))
	for i := range rules {
		c.all[i].Name = rules[i].Name
		c.byName[rules[i].Name] = i
	}
}

// used takes one use, on the data path's thread.
func (c *toleranceCounts) used(t compare.Tolerated) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Rule < 0 || t.Rule >= len(c.all) {
		return
	}
	c.all[t.Rule].Uses++
	c.all[t.Rule].Bytes += uint64(t.Bytes)
}

// blamed counts a divergence that followed what a rule had hidden.
func (c *toleranceCounts) blamed(rule string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.byName[rule]; ok {
		c.all[i].Followed++
	}
}

// uses are the counters, in the order of the rules.
func (c *toleranceCounts) uses() []ToleranceUses {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]ToleranceUses{}, c.all...)
}
