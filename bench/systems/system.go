package systems

import (
	"context"
	"fmt"
	"sync"
	"time"

	"colod/bench/load"
	"colod/bench/qemucolo"
	"colod/bench/rig"
	"colod/bench/vmlab"
	"colod/internal/lab"
)

// The systems under test. The first is the reference of all ratios.
const (
	native   = "native"
	twin     = "two natives"
	lockstep = "colod lock-step"
	epoch    = "colod epoch 25 ms"
	bound5   = "colod epoch, bound 5 ms"
	bound30  = "colod epoch, bound 30 ms"
	adaptive = "colod adaptive"
	peer     = "QEMU COLO"
)

// memory of each guest, in bytes and as the lab takes it.
const (
	memory     = 256 << 20
	memoryText = "256M"
)

// running is one system that is up.
type running struct {
	labs  []*lab.Lab
	chain *qemucolo.Chain
	since time.Time // the loads began
}

// options of a system's lab.
func options(name string) (lab.Options, error) {
	o := lab.Options{Memory: memoryText}
	switch name {
	case native, twin:
		o.Native = true
	case lockstep:
	case epoch:
		o.Mode, o.Interval = "epoch", 25*time.Millisecond
	case bound5:
		o.Mode, o.Interval, o.LatencyBound = "epoch", 25*time.Millisecond, 5*time.Millisecond
	case bound30:
		o.Mode, o.Interval, o.LatencyBound = "epoch", 30*time.Millisecond, 30*time.Millisecond
	case adaptive:
		o.Mode, o.Interval = "adaptive", 25*time.Millisecond
	case peer:
		o.Bare = true
	default:
		return o, fmt.Errorf("no system %q", name)
	}
	return o, nil
}

// up starts a system; its guests have booted and, if they are to be, are protected.
func up(t *rig.TB, name, program string) (_ *running, err error) {
	o, err := options(name)
	if err != nil {
		return nil, err
	}
	o.Program = program
	s := &running{}
	defer func() {
		if err != nil {
			s.down()
		}
	}()
	n := 1
	if name == twin {
		n = 2
	}
	for range n {
		l, err := vmlab.Up(t, o)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		s.labs = append(s.labs, l)
	}
	if name == peer {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if s.chain, err = qemucolo.Start(ctx, s.labs[0], qemucolo.Options{Memory: memory}); err != nil {
			return nil, err
		}
	}
	s.since = time.Now()
	return s, nil
}

func (s *running) down() error {
	var first error
	if s.chain != nil {
		first = s.chain.Close()
	}
	for _, l := range s.labs {
		if err := vmlab.Down(l); first == nil {
			first = err
		}
	}
	return first
}

// load runs a load; on two labs at once where there are two, and gives the mean of both.
func (s *running) load(ctx context.Context, kind string, each time.Duration, rate int) (load.Outcome, error) {
	outs, errs := make([]load.Outcome, len(s.labs)), make([]error, len(s.labs))
	var wg sync.WaitGroup
	for i, l := range s.labs {
		wg.Go(func() { outs[i], errs[i] = vmlab.Load(ctx, l, kind, each, rate) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return load.Outcome{}, err
		}
	}
	return mean(outs), nil
}

func mean(outs []load.Outcome) load.Outcome {
	if len(outs) == 1 {
		return outs[0]
	}
	n := float64(len(outs))
	m := load.Outcome{Parts: map[string]float64{}}
	for _, o := range outs {
		m.Ops += o.Ops / len(outs)
		m.Bytes += o.Bytes / int64(len(outs))
		m.Seconds += o.Seconds / n
		m.P50, m.P99, m.Max = m.P50+o.P50/n, m.P99+o.P99/n, max(m.Max, o.Max)
		m.Unserved += o.Unserved
		for k, v := range o.Parts {
			m.Parts[k] += v / n
		}
	}
	return m
}
