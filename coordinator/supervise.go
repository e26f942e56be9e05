package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"colod/compare"
	"colod/coordinator/heartbeat"
	"colod/coordinator/pair"
	"colod/coordinator/watchdog"
)

// supervision watches the parts of this node: of each pair its loop, its data
// path, its VM and what the guests say, the other nodes and the paths to them,
// the arbiter and the heartbeats.
type supervision struct {
	dog    *watchdog.Watchdog
	log    zerolog.Logger
	counts *supervisionCounts
}

// SupervisedPart is how a part of the node is.
type SupervisedPart struct {
	Part    string    `json:"part"`  // pair/NAME/loop, .../proxy, .../vm, .../guest, .../output, node/NAME, node/NAME/path/N, arbiter, heartbeats
	State   string    `json:"state"` // new, ok, suspect, failed
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason,omitempty"`
	Actions uint64    `json:"actions"`               // taken, since the part is watched
	Last    string    `json:"last_action,omitempty"` // and its outcome
}

func openSupervision(log zerolog.Logger) *supervision {
	s := &supervision{log: log, counts: newSupervisionCounts()}
	s.dog = watchdog.Start(watchdog.Options{Told: s.told})
	return s
}

func (s *supervision) close() { s.dog.Close() }

// told writes what happens into the log. That a part is suspect is often over
// before anybody reads it.
func (s *supervision) told(e watchdog.Effect) {
	s.counts.take(e)
	switch e := e.(type) {
	case watchdog.Changed:
		ev := s.log.Debug()
		switch {
		case e.To == watchdog.Failed:
			ev = s.log.Warn()
		case e.From == watchdog.Failed:
			ev = s.log.Info()
		}
		msg := "supervised part is " + e.To.String()
		if e.Reason != "" {
			msg += ": " + e.Reason
		}
		ev.Str("part", e.Part).Msg(msg)
	case watchdog.Do:
		s.log.Info().Str("part", e.Part).Str("action", e.Action).Int("try", e.Try).Msg("supervision acts: " + e.Reason)
	case watchdog.Held:
		s.log.Warn().Str("part", e.Part).Str("action", e.Action).Msg("supervision holds an action back: there were too many of late")
	}
}

// add begins to watch a part; the returned function ends it.
func (s *supervision) add(spec watchdog.Spec) (end func()) {
	h, err := s.dog.Add(spec)
	if err != nil {
		s.log.Error().Err(err).Msg("a part is not supervised")
		return func() {}
	}
	return h.Remove
}

// check begins to watch a part by a function alone.
func (s *supervision) check(name string, every, limit time.Duration, failAfter int, fn func(context.Context) error) (end func()) {
	return s.add(watchdog.Spec{Part: watchdog.Part{Name: name, Every: every, Limit: limit, FailAfter: failAfter}, Check: fn})
}

func (s *supervision) status() []SupervisedPart {
	now := time.Now()
	all := s.dog.Status()
	out := make([]SupervisedPart, len(all))
	for i, p := range all {
		out[i] = SupervisedPart{Part: p.Part, State: p.State.String(), Since: now.Add(-p.For), Reason: p.Reason, Actions: p.Actions, Last: p.Last}
	}
	return out
}

func pairPart(pair, part string) string { return "pair/" + pair + "/" + part }

// The parts without which colod is of no use: systemd is told that it lives only
// while all of them answer.
const (
	partLoop  = "loop"
	partProxy = "proxy"
)

// vital reports whether every pair's loop and data path answers, and which do not.
func (s *supervision) vital() (dead []string) {
	for _, p := range s.dog.Status() {
		own := strings.HasPrefix(p.Part, "pair/") && (strings.HasSuffix(p.Part, "/"+partLoop) || strings.HasSuffix(p.Part, "/"+partProxy))
		if own && p.State == watchdog.Failed {
			dead = append(dead, p.Part)
		}
	}
	return dead
}

// superviseDriver watches a pair until the returned function is called.
func (s *supervision) superviseDriver(d *driver) (end func()) {
	var deaf deafWatch
	ends := []func(){
		s.check(pairPart(d.cfg.Name, partLoop), time.Second, 3*time.Second, 2, d.answers),
		s.check(pairPart(d.cfg.Name, partProxy), time.Second, 3*time.Second, 2, d.dataAnswers),
		s.check(pairPart(d.cfg.Name, "guest"), 10*time.Second, 5*time.Second, 3, d.guestLooks),
		s.add(watchdog.Spec{
			Part: watchdog.Part{
				Name: pairPart(d.cfg.Name, "output"), Every: 500 * time.Millisecond, Limit: 5 * time.Second, FailAfter: 1 << 30, // the judge decides
				Steps: []watchdog.Step{{Action: actTell, Free: true}, {Action: actTell, Times: -1, Wait: 5 * time.Second, Free: true}},
			},
			Check: func(ctx context.Context) error { return deaf.look(ctx, d) },
			Actions: map[string]func(context.Context, watchdog.Do) error{actTell: func(_ context.Context, do watchdog.Do) error {
				d.post(pair.SecondaryDeaf{Reason: strings.TrimPrefix(do.Reason, ofSecondary)})
				return nil
			}},
		}),
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// answers goes once through the driver's loop.
func (d *driver) answers(ctx context.Context) error {
	done := make(chan struct{})
	d.box.post(func() { close(done) })
	select {
	case <-done:
		return nil
	case <-d.ended:
		return nil // on purpose
	case <-ctx.Done():
		return errors.New("the pair's loop does not answer")
	}
}

// dataAnswers goes once through the data path's thread.
func (d *driver) dataAnswers(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		d.data.Stats()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("the data path's thread does not answer")
	}
}

// ofSecondary begins what the log says of the secondary's guest; the pair's state
// machine names that guest itself.
const ofSecondary = "the secondary's guest: "

// deafWatch looks at what the two guests of a pair say.
type deafWatch struct {
	judge deafJudge
	start time.Time
}

func (w *deafWatch) look(_ context.Context, d *driver) error {
	if w.start.IsZero() {
		w.start = time.Now()
	}
	o := outputs{Boots: d.guest.boots.Load()}
	if s := d.sessNow.Load(); s != nil && s.ctx.Err() == nil {
		p := d.data.Stats()
		if p.Role == "primary" {
			o.Session, o.Silences, o.Heard, o.Said = s.name, d.stats.silences(), p.Described, p.Agreed+p.Covered
		}
	}
	reason, deaf := w.judge.look(time.Since(w.start), o)
	switch {
	case deaf:
		return watchdog.Certain(errors.New(ofSecondary + reason))
	case reason != "":
		return errors.New(ofSecondary + reason)
	}
	return nil
}

// silences is how many checkpoints were taken since the secondary's guest did not
// say what the primary's said.
func (s *stats) silences() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reasons[compare.ReasonSilenceSecondary.String()]
}

// superviseNode watches what all pairs share.
func (n *Node) superviseNode() {
	if n.hb != nil {
		n.sup.check("heartbeats", time.Second, 5*time.Second, 3, func(context.Context) error { return n.hb.Check(4 * time.Second) })
	}
	if names := n.pairNames(); len(names) > 0 {
		limit := arbiterLimit(n.cfg)
		n.sup.check("arbiter", 10*time.Second, limit+time.Second, 2, func(ctx context.Context) error {
			_, err := n.arb.Get(ctx, names[0])
			return err
		})
	}
	n.work.Go(n.superviseNodes)
}

// superviseNodes watches the other nodes and the paths to them, which come and go.
func (n *Node) superviseNodes() {
	type watched struct {
		paths int
		ends  []func()
	}
	all := map[string]*watched{}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		names := n.peers()
		for name, w := range all {
			if !slices.Contains(names, name) {
				for _, end := range w.ends {
					end()
				}
				delete(all, name)
			}
		}
		for _, name := range names {
			w := all[name]
			if w == nil {
				w = &watched{}
				w.ends = append(w.ends, n.sup.check("node/"+name, time.Second, 5*time.Second, 3, func(context.Context) error {
					if !n.connected(name) {
						return errors.New("it does not answer")
					}
					return nil
				}))
				all[name] = w
			}
			if n.hb == nil {
				continue
			}
			// Paths are there once keys have been exchanged with the node.
			for paths := len(n.hb.Paths(name)); w.paths < paths; w.paths++ {
				path := w.paths
				w.ends = append(w.ends, n.sup.check(fmt.Sprintf("node/%s/path/%d", name, path), time.Second, 5*time.Second, 3, func(context.Context) error {
					return pathTrouble(n.hb.Paths(name), path)
				}))
			}
		}
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
	}
}

// pathTrouble says why a path is of no use, nil if it is.
func pathTrouble(paths []heartbeat.PathStatus, path int) error {
	if path >= len(paths) || paths[path].Up {
		return nil
	}
	p := paths[path]
	switch {
	case p.Err != "":
		return fmt.Errorf("from %s to %s: %s", p.Local, p.Addr, p.Err)
	case p.LastHeard < 0:
		return fmt.Errorf("from %s to %s: nothing was ever heard; does a firewall keep UDP out?", p.Local, p.Addr)
	}
	return fmt.Errorf("from %s to %s: nothing was heard for %s", p.Local, p.Addr, p.LastHeard.Round(100*time.Millisecond))
}

// feedSystemd tells systemd that colod lives while every pair's loop and data path
// answers. The returned function ends it.
func (n *Node) feedSystemd() func() {
	every := watchdogInterval()
	if every == 0 {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			if dead := n.sup.vital(); len(dead) > 0 {
				n.log.Error().Strs("parts", dead).Msg("systemd's watchdog is not fed: parts of colod do not answer")
				continue
			}
			n.opt.Notify("WATCHDOG=1")
		}
	}()
	return func() { close(done); <-ended }
}
