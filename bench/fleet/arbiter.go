package fleet

import (
	"context"
	"sync"

	"colod/coordinator/arbiter"
	"colod/coordinator/registry"
)

// Arbiter is what the nodes ask: coordinator/arbiter/etcd, or memory where etcd itself is not what is looked at.
type Arbiter interface {
	Get(ctx context.Context, pair string) (arbiter.Record, error)
	Swap(ctx context.Context, prev, next arbiter.Record) (arbiter.Record, error)
	PutSpec(ctx context.Context, s registry.Spec) error
	Spec(ctx context.Context, pair string) (registry.Spec, error)
}

// Memory is an arbiter that answers at once.
type Memory struct {
	mu      sync.Mutex
	records map[string]arbiter.Record
	specs   map[string]registry.Spec
}

// NewMemory makes an empty one.
func NewMemory() *Memory {
	return &Memory{records: map[string]arbiter.Record{}, specs: map[string]registry.Spec{}}
}

// Get reads a record.
func (a *Memory) Get(_ context.Context, pair string) (arbiter.Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.records[pair], nil
}

// Swap replaces a record.
func (a *Memory) Swap(_ context.Context, prev, next arbiter.Record) (arbiter.Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.records[next.Pair]; now != prev {
		return now, arbiter.ErrLost
	}
	a.records[next.Pair] = next
	return next, nil
}

// PutSpec writes a pair's description.
func (a *Memory) PutSpec(_ context.Context, s registry.Spec) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.specs[s.Pair] = s
	return nil
}

// Spec reads it.
func (a *Memory) Spec(_ context.Context, pair string) (registry.Spec, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.specs[pair], nil
}
