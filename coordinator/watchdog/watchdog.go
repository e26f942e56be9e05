package watchdog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Certain makes an error of a check one that leaves no doubt: the part has failed
// with the first.
func Certain(err error) error { return certain{err} }

type certain struct{ error }

func (c certain) Unwrap() error { return c.error }

// Options of a Watchdog.
type Options struct {
	Guard Guard
	// Told is called with every effect, in order and never twice at a time; it
	// must not block, and must not call the Watchdog. May be nil.
	Told func(Effect)
}

// Spec is a part with its functions.
type Spec struct {
	Part
	// Check is the check of a checked part. Its context ends after Limit; one that
	// does not heed that is not called again before it has returned.
	Check func(ctx context.Context) error
	// Actions are what the steps name. They are called on goroutines of their own,
	// for each part one at a time. A step without a function here is only told of.
	Actions map[string]func(ctx context.Context, do Do) error
}

// Watchdog supervises parts. Its methods are safe for use by many goroutines.
type Watchdog struct {
	start  time.Time
	told   func(Effect)
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}

	mu    sync.Mutex
	core  *Core
	specs map[string]*Handle
}

// Handle is a supervised part.
type Handle struct {
	w    *Watchdog
	spec Spec
	done chan struct{}
	once sync.Once
}

// ErrClosed is returned when a closed Watchdog is given a part.
var ErrClosed = errors.New("watchdog is closed")

// Start makes a Watchdog, which runs until Close.
func Start(o Options) *Watchdog {
	w := &Watchdog{start: time.Now(), told: o.Told, wake: make(chan struct{}, 1), core: NewCore(o.Guard), specs: map[string]*Handle{}}
	if w.told == nil {
		w.told = func(Effect) {}
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.wg.Go(w.run)
	return w
}

// Close ends the supervision; it waits for checks and actions, whose contexts end.
func (w *Watchdog) Close() {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *Watchdog) now() time.Duration { return time.Since(w.start) }

// Add begins to supervise a part.
func (w *Watchdog) Add(s Spec) (*Handle, error) {
	if (s.Check != nil) != (s.Every > 0) {
		return nil, fmt.Errorf("supervise part %s: a check and the time between two come together", s.Name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return nil, fmt.Errorf("supervise part %s: %w", s.Name, ErrClosed)
	}
	if err := w.core.Add(w.now(), s.Part); err != nil {
		return nil, err
	}
	h := &Handle{w: w, spec: s, done: make(chan struct{})}
	w.specs[s.Name] = h
	if s.Check != nil {
		w.wg.Go(h.check)
	}
	w.poke()
	return h, nil
}

// Remove ends the supervision of the part. A check or action of it may still be
// under way when it returns.
func (h *Handle) Remove() {
	h.once.Do(func() {
		close(h.done)
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		h.w.core.Remove(h.spec.Name)
		delete(h.w.specs, h.spec.Name)
	})
}

// Beat says that a pushed part is well.
func (h *Handle) Beat() { h.result(nil) }

// Bad says that the part is not well, besides its checks or beats.
func (h *Handle) Bad(reason string) { h.result(errors.New(reason)) }

func (h *Handle) result(err error) {
	w := h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.specs[h.spec.Name] != h || w.ctx.Err() != nil {
		return
	}
	if err == nil {
		w.tell(w.core.Good(w.now(), h.spec.Name))
		return
	}
	bad := w.core.Bad
	if errors.As(err, new(certain)) {
		bad = w.core.Fail
	}
	w.tell(bad(w.now(), h.spec.Name, err.Error()))
	w.poke()
}

// check checks the part again and again.
func (h *Handle) check() {
	w := h.w
	every := time.NewTimer(0)
	defer every.Stop()
	limit := h.spec.Limit
	if limit == 0 {
		limit = h.spec.Every
	}
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-h.done:
			return
		case <-every.C:
		}
		ctx, cancel := context.WithTimeout(w.ctx, limit)
		result := make(chan error, 1)
		w.wg.Go(func() { result <- h.spec.Check(ctx) })
		late := time.NewTimer(limit)
		var err error
		for waiting := true; waiting; {
			select {
			case err = <-result:
				waiting = false
			case <-late.C:
				// One that heeds its context returns just now.
				select {
				case err = <-result:
					waiting = false
				case <-time.After(limit / 10):
					h.Bad(fmt.Sprintf("its check has not returned for %s", limit))
					late.Reset(h.spec.Every)
				}
			case <-h.done:
				waiting = false
			}
		}
		late.Stop()
		cancel()
		if w.ctx.Err() != nil {
			return
		}
		h.result(err)
		every.Reset(h.spec.Every)
	}
}

func (w *Watchdog) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run looks at the core when it wants to be looked at.
func (w *Watchdog) run() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.wake:
		case <-t.C:
		}
		w.mu.Lock()
		w.tell(w.core.Look(w.now()))
		wait := w.core.Next() - w.now()
		w.mu.Unlock()
		t.Reset(max(wait, time.Millisecond))
	}
}

// tell needs w.mu.
func (w *Watchdog) tell(effects []Effect) {
	for _, e := range effects {
		w.told(e)
		if do, ok := e.(Do); ok {
			w.act(do)
		}
	}
}

// act needs w.mu.
func (w *Watchdog) act(do Do) {
	fn := func(context.Context, Do) error { return nil }
	if h := w.specs[do.Part]; h != nil && h.spec.Actions[do.Action] != nil {
		fn = h.spec.Actions[do.Action]
	}
	w.wg.Go(func() {
		err := fn(w.ctx, do)
		w.mu.Lock()
		w.core.Done(w.now(), do.Part, do.Action, err)
		w.mu.Unlock()
		w.poke()
	})
}

// Status tells of all parts, sorted by name.
func (w *Watchdog) Status() []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.core.Status(w.now())
}
