package qmp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// idleDelay is QEMU's own checkpoint period in ms, so long that only we decide.
	idleDelay = 10_000_000
	// maxBandwidth of the first copy in bytes/s: QEMU's default of 128 MiB/s does limit it.
	maxBandwidth = 10 << 30
	// downtimeFirst in ms: when QEMU thinks that the rest of the memory can be copied in that time, it stops the
	// guest. A guest that dirties memory faster gets twice as much every downtimeStep, up to downtimeMost.
	downtimeFirst = 20
	downtimeMost  = 2000
	downtimeStep  = 2 * time.Second

	pollInterval = 5 * time.Millisecond
	// hangAfter is how long the main loop may be silent before LostHeartbeat takes it for stuck on a
	// frozen peer. Replies take less than 1 ms.
	hangAfter = 250 * time.Millisecond
)

// PrepareSecondary makes a VM launched with incoming listen for the primary's state on the unix
// socket at sock, which must not exist. Each generation needs a new path.
func (v *VM) PrepareSecondary(ctx context.Context, sock string) error {
	return v.prepareSecondary(ctx, "unix:"+sock)
}

func (v *VM) prepareSecondary(ctx context.Context, uri string) error {
	v.coloMu.Lock()
	defer v.coloMu.Unlock()
	if err := v.setColoCapabilities(ctx); err != nil {
		return fmt.Errorf("prepare secondary: %w", err)
	}
	// A takeover must not make QEMU send announcements (RARP) of its own: what the guest's NIC sends is
	// compared, and the address is announced by the node.
	if err := v.mon.Run(ctx, "migrate-set-parameters", map[string]int{"announce-rounds": 0}, nil); err != nil {
		return fmt.Errorf("prepare secondary: %w", err)
	}
	if err := v.mon.Run(ctx, "migrate-incoming", map[string]string{"uri": uri}, nil); err != nil {
		return fmt.Errorf("prepare secondary: %w", err)
	}
	return nil
}

// setColoCapabilities turns x-colo on. QEMU 10.2 and later refuse it without return-path; 7.2 and
// 10.0 fail with it (their source reads COLO's messages as return path messages).
func (v *VM) setColoCapabilities(ctx context.Context) error {
	both := v.Version().wantsReturnPath()
	err := v.setCapabilities(ctx, true, both)
	if !both && refused(err, "return-path") {
		return v.setCapabilities(ctx, true, true)
	}
	if refused(err, "x-colo") && !refused(err, "return-path") {
		return &ColoBrokenError{Version: v.Version(), Seen: "it has no capability x-colo: " + err.Error()}
	}
	return err
}

func (v *VM) setCapabilities(ctx context.Context, on, returnPath bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	caps := []capability{{"x-colo", on}}
	if returnPath {
		caps = append(caps, capability{"return-path", on})
	}
	return v.mon.Run(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil)
}

// ForgetColo turns off what a VM that has left COLO would do at its next migration: QEMU keeps its capabilities, and whoever
// migrates the guest then, by hand or with libvirt, would begin COLO again. [VM.StartColo] and [VM.PrepareSecondary] turn it on.
func (v *VM) ForgetColo(ctx context.Context) error {
	v.coloMu.Lock()
	defer v.coloMu.Unlock()
	if err := v.setCapabilities(ctx, false, true); err != nil {
		return fmt.Errorf("forget COLO: %w", err)
	}
	return nil
}

// StartColo copies the state to the secondary behind the unix socket at sock (the state relay's) and
// returns when the pair runs in COLO: resumed is the stamp of the primary's RESUME event, from which
// on both guests have the same state. The guest runs during the copy.
//
// After an error the guest runs on outside COLO, as far as QEMU answers. [ErrColoBroken] means that
// this QEMU will never do it; a *[MigrationError] that it may be tried again.
func (v *VM) StartColo(ctx context.Context, sock string) (resumed time.Time, err error) {
	return v.startColo(ctx, "unix:"+sock)
}

func (v *VM) startColo(ctx context.Context, uri string) (time.Time, error) {
	v.coloMu.Lock()
	defer v.coloMu.Unlock()
	ev := v.Subscribe(0)
	defer ev.Close()
	fail := func(err error) (time.Time, error) {
		var typed *ColoBrokenError
		var mig *MigrationError
		if !errors.As(err, &typed) && !errors.As(err, &mig) {
			err = fmt.Errorf("start COLO: %w", err)
		}
		return time.Time{}, errors.Join(err, v.leaveColo())
	}
	was, err := v.QueryStatus(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("start COLO: %w", err)
	}
	if !was.Running {
		return time.Time{}, fmt.Errorf("start COLO: guest is not running (%s): continue it first, as COLO would start it anyway", was.Status)
	}
	if c, err := v.QueryColo(ctx); err == nil && c.Mode != "none" {
		return time.Time{}, fmt.Errorf("start COLO: the VM is in COLO already, as %s", c.Mode) // another migrate would destroy it
	}
	if err := v.setColoCapabilities(ctx); err != nil {
		return time.Time{}, fmt.Errorf("start COLO: %w", err)
	}
	params := map[string]any{"x-checkpoint-delay": idleDelay, "max-bandwidth": maxBandwidth, "downtime-limit": downtimeFirst, "announce-rounds": 0}
	if err := v.mon.Run(ctx, "migrate-set-parameters", params, nil); err != nil {
		return time.Time{}, fmt.Errorf("start COLO: %w", err)
	}
	if err := v.mon.Run(ctx, "migrate", map[string]string{"uri": uri}, nil); err != nil {
		return fail(err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var run runState
	downtime, raise := downtimeFirst, time.Now().Add(downtimeStep)
	for {
		m, err := v.QueryMigrate(ctx)
		if err != nil {
			return fail(err)
		}
		run.drain(ev)
		if m.Status == "active" && downtime < downtimeMost && time.Now().After(raise) {
			downtime, raise = min(2*downtime, downtimeMost), time.Now().Add(downtimeStep)
			if err := v.mon.Run(ctx, "migrate-set-parameters", map[string]int{"downtime-limit": downtime}, nil); err != nil {
				return fail(err)
			}
		}
		switch m.Status {
		case "colo":
			// The STOP that ends the copy was sent before this status, so a RESUME that is the last
			// of them is the one that starts both guests.
			if run.resumed() {
				return run.at, nil
			}
		case "completed":
			return fail(&ColoBrokenError{Version: v.Version(), Seen: "its COLO migration ended as an ordinary one"})
		case "failed", "cancelled":
			if strings.Contains(m.ErrorDesc, "invalid message 0x0000") {
				return fail(&ColoBrokenError{Version: v.Version(), Seen: m.ErrorDesc})
			}
			return fail(&MigrationError{Status: m.Status, Desc: m.ErrorDesc})
		}
		if run.coloExit {
			return fail(fmt.Errorf("%w while it started", ErrColoExit))
		}
		select {
		case e, ok := <-ev.C:
			if !ok {
				return fail(ev.Err())
			}
			run.take(e)
		case <-tick.C:
		case <-v.Died():
			return time.Time{}, fmt.Errorf("start COLO: %w: %s", ErrVMDied, v.DeathReport())
		case <-ctx.Done():
			return fail(fmt.Errorf("migration is %q: %w", m.Status, ctx.Err()))
		}
	}
}

// leaveColo brings the guest back to an unprotected life after a start that failed.
func (v *VM) leaveColo() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	asked := false
	for {
		m, err := v.QueryMigrate(ctx)
		if err != nil {
			return fmt.Errorf("end migration: %w", err)
		}
		switch m.Status {
		case "colo":
			if _, err := v.lostHeartbeat(ctx); err != nil {
				return err
			}
		case "", "none", "completed", "failed", "cancelled":
			s, err := v.QueryStatus(ctx)
			if err != nil {
				return err
			}
			if s.Running {
				return nil
			}
			if err := v.Cont(ctx); err != nil {
				return fmt.Errorf("continue the guest (%s): %w", s.Status, err)
			}
			return nil
		default:
			if !asked {
				asked = true
				if err := v.mon.Run(ctx, "migrate_cancel", nil, nil); err != nil {
					return fmt.Errorf("end migration: %w", err)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("end migration (%s): %w", m.Status, ctx.Err())
		}
	}
}

// TriggerCheckpoint asks a primary in COLO for a checkpoint and returns at once. The events STOP and
// RESUME of both sides tell of its progress; done is RESUME here. QEMU swallows a trigger sent while
// a checkpoint is under way: send one at a time, and again after RESUME if anything came up since.
func (v *VM) TriggerCheckpoint(ctx context.Context) error {
	// Any accepted write to this parameter requests a checkpoint, whatever the value.
	args := map[string]any{"x-checkpoint-delay": idleDelay}
	if err := v.mon.Run(ctx, "migrate-set-parameters", args, nil); err != nil {
		return fmt.Errorf("trigger checkpoint: %w", err)
	}
	return nil
}

// Checkpoint is one checkpoint as the primary saw it.
type Checkpoint struct {
	Triggered time.Time // just before the trigger was sent, our clock
	Stopped   time.Time // stamp of STOP, QEMU's clock
	Resumed   time.Time // stamp of RESUME, QEMU's clock
}

// Pause is how long the guest stood still.
func (c Checkpoint) Pause() time.Duration { return c.Resumed.Sub(c.Stopped) }

// Checkpoint takes one checkpoint and waits for its end. [ErrColoExit] means that it failed because
// the secondary or the stream is lost: the guest may be stopped; [VM.LostHeartbeat] brings it back.
func (v *VM) Checkpoint(ctx context.Context) (Checkpoint, error) {
	v.coloMu.Lock()
	defer v.coloMu.Unlock()
	ev := v.Subscribe(0)
	defer ev.Close()
	c := Checkpoint{Triggered: time.Now()}
	if err := v.TriggerCheckpoint(ctx); err != nil {
		return c, err
	}
	for {
		select {
		case e, ok := <-ev.C:
			switch {
			case !ok:
				return c, fmt.Errorf("checkpoint: %w", ev.Err())
			case e.Name == EventStop:
				c.Stopped = e.Time
			case e.Name == EventResume && !c.Stopped.IsZero():
				c.Resumed = e.Time
				return c, nil
			case e.Name == EventColoExit:
				return c, fmt.Errorf("checkpoint: %w", ErrColoExit)
			}
		case <-v.Died():
			return c, fmt.Errorf("checkpoint: %w: %s", ErrVMDied, v.DeathReport())
		case <-ctx.Done():
			return c, fmt.Errorf("checkpoint: not done: %w", ctx.Err())
		}
	}
}

// LostHeartbeat ends COLO on this side because the other one is lost, and returns when the guest
// runs: a secondary takes over from its own present state, a primary goes on. resumed is the stamp
// of the RESUME event; zero if the VM was not in COLO and nothing had to be done.
//
// It fences nobody: the caller must own the record and have cut the state relay before. As a second
// line, a main loop that does not answer is freed by an out-of-band yank of the stream.
func (v *VM) LostHeartbeat(ctx context.Context) (resumed time.Time, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	// Not under coloMu: a checkpoint that waits for a lost peer must not delay this.
	return v.lostHeartbeat(ctx)
}

func (v *VM) lostHeartbeat(ctx context.Context) (time.Time, error) {
	ev := v.Subscribe(0)
	defer ev.Close()
	fail := func(err error) (time.Time, error) {
		return time.Time{}, fmt.Errorf("leave COLO: %w", err)
	}
	under := false // an earlier request is being carried out
	if err := v.sendLostHeartbeat(ctx); err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Cause != nil {
			return fail(err)
		}
		// QEMU refuses it outside COLO, and while it is carrying out an earlier one (in words that
		// differ between versions). In both cases what counts is that the guest runs in the end.
		c, err := v.QueryColo(ctx)
		if err != nil {
			return fail(err)
		}
		s, err := v.QueryStatus(ctx)
		if err != nil {
			return fail(err)
		}
		if c.Mode == "none" && s.Status != "colo" {
			return time.Time{}, nil // running, or stopped by somebody else
		}
		under = true
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var run runState
	for {
		// QEMU first stops the guest if it runs, then leaves COLO, then starts it. So: out of COLO and
		// running means done, and the RESUME of it, sent before that status, is in our queue.
		c, err := v.QueryColo(ctx)
		if err != nil {
			return fail(err)
		}
		if c.Mode == "none" {
			s, err := v.QueryStatus(ctx)
			if err != nil {
				return fail(err)
			}
			run.drain(ev)
			switch {
			case s.Running && (run.resumed() || under):
				return run.at, nil
			case s.Running:
				return fail(fmt.Errorf("guest runs without a RESUME event: %w", ev.Err()))
			case s.Status == "shutdown" || s.Status == "guest-panicked" || s.Status == "internal-error":
				return fail(fmt.Errorf("guest cannot run: %s", s.Status))
			}
		}
		select {
		case e, ok := <-ev.C:
			if !ok {
				return fail(ev.Err())
			}
			run.take(e)
		case <-tick.C:
		case <-v.Died():
			return fail(fmt.Errorf("%w: %s", ErrVMDied, v.DeathReport()))
		case <-ctx.Done():
			return fail(fmt.Errorf("guest does not run yet (COLO mode %s): %w", c.Mode, ctx.Err()))
		}
	}
}

// sendLostHeartbeat sends the command; if QEMU does not answer soon, it yanks the stream meanwhile.
func (v *VM) sendLostHeartbeat(ctx context.Context) error {
	res := make(chan error, 1)
	go func() { res <- v.mon.Run(ctx, "x-colo-lost-heartbeat", nil, nil) }()
	t := time.NewTimer(hangAfter)
	defer t.Stop()
	select {
	case err := <-res:
		return err
	case <-t.C:
	}
	yerr := v.Yank(ctx)
	if err := <-res; err != nil {
		return errors.Join(err, yerr)
	}
	return nil
}

// runState follows STOP and RESUME.
type runState struct {
	last     string
	at       time.Time
	coloExit bool
}

func (r *runState) take(e Event) {
	switch e.Name {
	case EventStop, EventResume:
		r.last, r.at = e.Name, e.Time
	case EventColoExit:
		r.coloExit = true
	}
}

func (r *runState) drain(s *Subscription) {
	for {
		select {
		case e, ok := <-s.C:
			if !ok {
				return
			}
			r.take(e)
		default:
			return
		}
	}
}

func (r *runState) resumed() bool { return r.last == EventResume }
