package systems

import (
	"context"
	"sync"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
)

// epochs listens to the ends of checkpoints of a pair in epoch mode.
//
// A frame that the guest sends just after one checkpoint's release waits until the release of the next: the time between
// two releases is the longest wait that an epoch can make. It holds the running of the guest, its stop, the transfer and the
// release.
type epochs struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	last   time.Time
	waits  []time.Duration
	broken int // that did not follow another end: the pair was not protected between
}

func watchEpochs(ctx context.Context, l *lab.Lab) *epochs {
	ctx, cancel := context.WithCancel(ctx)
	e := &epochs{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		for ctx.Err() == nil {
			// The stream ends when this reader is too slow for it: gone on with, and the gap is not taken for an epoch.
			_ = l.Events(ctx, lab.NodeA, func(ev coordinator.Event) bool { e.take(ev); return true })
			e.gap()
		}
	}()
	return e
}

// take takes one event, in the order in which they happened.
func (e *epochs) take(ev coordinator.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case ev.From == "checkpointing" && ev.State == "protected":
		if !e.last.IsZero() {
			e.waits = append(e.waits, ev.Time.Sub(e.last))
		}
		e.last = ev.Time
	case ev.State != "checkpointing":
		if !e.last.IsZero() {
			e.broken++
		}
		e.last = time.Time{}
	}
}

func (e *epochs) gap() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = time.Time{}
}

// fetch returns the waits since the last fetch.
func (e *epochs) fetch() []time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.waits
	e.waits = nil
	return w
}

func (e *epochs) stop() {
	e.cancel()
	<-e.done
}
