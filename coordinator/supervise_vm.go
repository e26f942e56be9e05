package coordinator

import (
	"context"
	"errors"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/watchdog"
	"colod/qmp"
	"colod/qmp/relay"
)

// monitored is a VM whose monitor can be looked at, and whose threads can be tended; the host's VMs are.
type monitored interface {
	Monitor() *qmp.Monitor
	Tend(ctx context.Context)
}

// askTimeout is how long an answer of the monitor is waited for before others
// may ask it; it may still come later, and counts.
const askTimeout = 200 * time.Millisecond

// vmWatch watches one VM.
type vmWatch struct {
	d   *driver
	h   *vmHandle
	vm  monitored
	mon *qmp.Monitor

	start time.Time
	judge hangJudge
	due   bool // a reply that was given up is still to come
}

// superviseVM has the VM watched until the returned function is called.
func (d *driver) superviseVM(h *vmHandle) (end func()) {
	m, ok := h.VM.(monitored)
	if !ok || d.sup == nil {
		return func() {}
	}
	w := &vmWatch{d: d, h: h, vm: m, mon: m.Monitor(), start: time.Now()}
	tell := func(_ context.Context, do watchdog.Do) error {
		d.post(pair.VMHung{VM: h.id, Reason: "the VM hangs: " + do.Reason})
		return nil
	}
	return d.sup.add(watchdog.Spec{
		Part: watchdog.Part{
			Name: pairPart(d.cfg.Name, "vm"), Every: hangLook, Limit: 2 * time.Second,
			FailAfter: 1 << 30, // the judge decides
			// What follows is up to the pair's machine. It is told again, since what
			// stood against it, such as an absent peer, may end.
			Steps: []watchdog.Step{{Action: actTell, Free: true}, {Action: actTell, Times: -1, Wait: 2 * time.Second, Free: true}},
		},
		Check:   w.look,
		Actions: map[string]func(context.Context, watchdog.Do) error{actTell: tell},
	})
}

// actTell is the action that leaves the rest to the pair's state machine.
const actTell = "tell the pair"

// look looks once at the VM.
func (w *vmWatch) look(ctx context.Context) error {
	answered := w.ask(ctx)
	if answered {
		w.tend(ctx)
	}
	v, ok := readProcess(w.h.PID())
	if !ok {
		return nil // it is dead, which others tell
	}
	v.Answered, v.Waits = answered, w.waits()
	reason, hung := w.judge.look(time.Since(w.start), v)
	switch {
	case hung:
		return watchdog.Certain(errors.New(reason))
	case reason != "":
		return errors.New(reason)
	}
	return nil
}

// ask asks the monitor for a sign of life, unless it owes an answer already: a
// monitor that does not answer must not be given a queue. A late answer is as
// good as another.
func (w *vmWatch) ask(ctx context.Context) bool {
	if w.mon.Unanswered() > 0 {
		w.due = true
		return false
	}
	if w.due {
		w.due = false
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := w.h.QueryStatus(ctx)
	return err == nil
}

// tend sees to the threads of a VM whose monitor answers.
func (w *vmWatch) tend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	w.vm.Tend(ctx)
}

// waits reports whether the VM here may be waiting for what the other node's owes it
// on the state stream. Only a secondary can hang by that: QEMU's incoming side
// holds its main lock while it reads a checkpoint (migration/colo.c), so that its
// monitor is silent when the primary's stops in the middle. A primary's monitor
// answers meanwhile.
func (w *vmWatch) waits() bool {
	s := w.d.sessNow.Load()
	if s == nil || s.ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	r := s.relay
	s.mu.Unlock()
	if r == nil {
		return false
	}
	st := r.Stats()
	return !st.Primary && (st.Phase == relay.Copying || st.Phase == relay.Transferring) && !st.Unread
}
