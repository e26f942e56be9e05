package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// limits of simulated time.
const (
	startLimit = 20 * time.Minute
	faultLimit = 30 * time.Minute
	// starting is how many pairs are being started at most, and the share of all if that is more: the next one begins when
	// one is protected.
	starting, startingShare = 64, 20
	// wallLimit is how long one step may take in all.
	wallLimit = 5 * time.Minute
)

// Fleet is one that runs.
type Fleet struct {
	w    *world
	sums []Summary
}

// Start starts a fleet and waits until every pair is protected. Close it, unless there was an error.
func Start(ctx context.Context, cfg Config) (*Fleet, Summary, error) {
	w := newWorld(ctx, cfg)
	f := &Fleet{w: w}
	w.m.reset()
	for range min(max(starting, len(w.all)/startingShare), len(w.all)) {
		w.after(0, w.startNext)
	}
	began := time.Now()
	w.run(startLimit, func() bool { return w.m.unprotected == 0 })
	s := w.summary(0)
	s.TakenWall = time.Since(began).Seconds()
	if err := f.verdict(ctx); err != nil {
		f.Close()
		return nil, s, err
	}
	return f, s, nil
}

// startNext starts the next pair.
func (w *world) startNext() {
	if w.started == len(w.all) {
		return
	}
	g := w.all[w.started]
	w.started++
	g.join(g.listed[0])
	g.join(g.listed[1])
}

// Close waits for what is still asked of the arbiters.
func (f *Fleet) Close() { f.w.drain() }

// why says where the first pairs that are not protected stand.
func (f *Fleet) why() string {
	var out []string
	for _, g := range f.w.all {
		if g.protected || g.gone || len(out) == 5 {
			continue
		}
		line := g.name + ":"
		for _, m := range g.members {
			line += fmt.Sprintf(" %s %s %s (up %v, VM %v, arbiter busy %v): %s;", m.on.name, m.m.State(), m.m.Role(), m.on.up, m.alive(), m.arbBusy, m.m.Reason())
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// verdict is what must not have happened.
func (f *Fleet) verdict(ctx context.Context) error {
	switch {
	case f.w.late && f.sums == nil:
		return fmt.Errorf("not all pairs are protected after %s of the wall's clock, at %.0f s of simulated time:\n%s", wallLimit, f.w.now.Seconds(), f.why())
	case f.w.fault != "":
		return errors.New(f.w.fault)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return nil
}

// Lose takes the power from n nodes, the first ones that are up: whole racks where n is as many. It waits until all pairs
// that have a node left are protected again, or for half an hour.
func (f *Fleet) Lose(n int) (Summary, error) {
	w := f.w
	var hosts []*host
	for _, h := range w.host {
		h.moved, h.most = 0, h.used
		if h.up && len(hosts) < n {
			hosts = append(hosts, h)
		}
	}
	// No answer of before counts.
	w.run(w.now+2*time.Second, func() bool { return false })
	w.m.reset()
	gone := w.m.gone
	began, wall := w.now, time.Now()
	w.lose(hosts)
	w.run(began+faultLimit, func() bool { return w.m.unprotected == 0 && w.now > began+second })
	s := w.summary(began)
	s.Hosts, s.Gone = len(hosts), w.m.gone-gone
	s.TakenWall = time.Since(wall).Seconds()
	// What comes to rest after that must not disturb anything.
	if w.late {
		return s, f.verdict(w.ctx)
	}
	w.run(w.now+5*time.Second, func() bool { return false })
	return s, f.verdict(w.ctx)
}

// Check reads the records of all pairs and compares them with the nodes that hold them.
func (f *Fleet) Check(ctx context.Context) error {
	const side = 64
	w := f.w
	var bad []error
	for from := 0; from < len(w.all); from += side {
		part := w.all[from:min(from+side, len(w.all))]
		errs := make(chan error, len(part))
		for _, g := range part {
			go func() { errs <- g.check(ctx, w.host[0].arb) }()
		}
		for range part {
			if err := <-errs; err != nil && len(bad) < 10 {
				bad = append(bad, err)
			}
		}
	}
	return errors.Join(bad...)
}

// check compares the record with the nodes.
func (g *guest) check(ctx context.Context, arb Arbiter) error {
	if g.gone {
		return nil
	}
	r, err := arb.Get(ctx, g.name)
	if err != nil {
		return err
	}
	speakers := 0
	for _, m := range g.members {
		if !m.on.up {
			continue
		}
		hears := m.alive() && (m.path == pathSolo || m.path == pathPrimary || m.path == pathArmed)
		if hears {
			speakers++
			if r.Speaker != m.on.name {
				return fmt.Errorf("%s speaks on %s, and its record says: %v", g.name, m.on.name, r)
			}
		}
		if g.protected && m.path == pathSecondary && m.alive() && r.Standby != m.on.name {
			return fmt.Errorf("the secondary of %s is on %s, and its record says: %v", g.name, m.on.name, r)
		}
	}
	if speakers != 1 {
		return fmt.Errorf("%s has %d speakers", g.name, speakers)
	}
	return nil
}
