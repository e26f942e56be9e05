package coordinator

import (
	"sync/atomic"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
)

// promise is the memory (bytes) that a node has promised to a secondary that is being made. The host's free memory shows
// the secondary only as the guest's state arrives; until then it would be promised to every other pair that asks, and
// after the loss of a node many ask at once.
type promise struct{ bytes atomic.Uint64 }

func (p *promise) make(guest uint64) { p.bytes.Store(placement.SecondaryMemory(guest)) }

func (p *promise) drop() { p.bytes.Store(0) }

// moved keeps the promise while the secondary is being made, and not longer.
func (p *promise) moved(a pair.Moved, guest uint64) {
	switch {
	case a.To == pair.Syncing && a.Role == pair.Secondary:
		p.make(guest)
	case a.From == pair.Syncing:
		p.drop()
	}
}

// unpromised is what is left of free memory.
func (n *Node) unpromised(free uint64) uint64 {
	for _, d := range n.all() {
		free -= min(free, d.promise.bytes.Load())
	}
	return free
}
