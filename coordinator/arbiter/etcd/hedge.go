package etcd

import (
	"context"
	"slices"
	"time"
)

// hedgeMax is the longest time between two attempts of one operation: how long a majority that has just come together
// again, such as after an election, may wait to be asked.
const hedgeMax = 250 * time.Millisecond

// outcome of one attempt at one endpoint.
type outcome[T any] struct {
	e    *endpoint
	v    T
	left bool // the request may have reached the endpoint
	err  error
}

// ask puts one question to the endpoints until one answers or ctx ends: first to the one that answered last, then,
// after each silence or failure, to the next one, without giving up those before. The question must therefore be one
// that may be answered, and carried out, several times.
//
// An answer that says the question is wrong, and would be so elsewhere, ends it (final). left reports whether a request
// without a good answer may have been carried out.
func ask[T any](ctx context.Context, a *Arbiter, question func(context.Context, *endpoint) (T, error)) (v T, left bool, err error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	results := make(chan outcome[T])
	failures := make([]error, len(a.endpoints))
	next := int(a.preferred.Load())
	running, failed := 0, 0 // failed since the last silence
	attempt := func() bool {
		e := a.endpoints[next%len(a.endpoints)]
		next++
		if !a.begin() {
			return false
		}
		running++
		go func() {
			defer a.work.Done()
			o := outcome[T]{e: e}
			actx, acancel := context.WithTimeout(ctx, a.cfg.Attempt)
			defer acancel()
			actx, gone := withDeparture(actx)
			e.wake()
			o.v, o.err = question(actx, e)
			o.left = gone.Load()
			select {
			case results <- o:
			case <-ctx.Done():
			}
		}()
		return true
	}
	pause := a.cfg.Hedge
	timer := time.NewTimer(pause)
	defer timer.Stop()
	if !attempt() {
		return v, false, errClosed
	}
	for {
		select {
		case o := <-results:
			running--
			if o.err == nil {
				a.preferred.Store(uint32(o.e.index))
				return o.v, left, nil
			}
			// An error that etcd gives before it does anything, or with the refusal to do it.
			refused := harmless(o.err)
			left = left || (o.left && !refused)
			failures[o.e.index] = o.err
			if final(o.err) {
				return v, left, &Error{Endpoints: a.explain(failures)}
			}
			if failed++; failed < len(a.endpoints) && !attempt() {
				return v, left, errClosed
			}
		case <-timer.C:
			failed = 0
			if !attempt() {
				return v, left, errClosed
			}
			pause = min(2*pause, max(hedgeMax, a.cfg.Hedge))
			timer.Reset(pause)
		case <-ctx.Done():
			// What is under way may still be carried out.
			left = left || running > 0
			for i := range failures {
				if failures[i] == nil && slices.Contains(a.asked(next), i) {
					failures[i] = errSilence
				}
			}
			return v, left, &Error{Endpoints: a.explain(failures), ended: context.Cause(ctx)}
		}
	}
}

// asked are the endpoints that were asked before next.
func (a *Arbiter) asked(next int) []int {
	var is []int
	for n := max(int(a.preferred.Load()), next-len(a.endpoints)); n < next; n++ {
		is = append(is, n%len(a.endpoints))
	}
	return is
}
