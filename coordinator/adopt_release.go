package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/statefile"
	"colod/qmp"
)

// ReleaseRequest asks colod to let a guest go.
type ReleaseRequest struct {
	// Force lets it go although connections end with that: those that lived
	// through a takeover and that colod has to rewrite.
	Force bool `json:"force"`
}

// releaseWait is how long the guest's connections may take to need colod no
// more: the kernel carries them 2 s after the guest goes on alone, unless some
// have to be rewritten.
const releaseWait = 20 * time.Second

// release stops protecting the guest and lets its VM go, which runs on: the
// secondary is given up, the guest's tap becomes a port of the bridge, and the
// record says that colod runs the guest no more.
func (d *driver) release(ctx context.Context, req ReleaseRequest) error {
	if !d.adopting.CompareAndSwap(false, true) {
		return errors.New("another adoption or release is under way")
	}
	defer d.adopting.Store(false)
	if _, ok := d.plat.(foreignPlatform); !ok {
		return errNotHere
	}
	state, role, why := d.where()
	switch {
	case role != pair.Speaker:
		return fmt.Errorf("the guest does not speak here; release it on %s", orNobody(d.speaker()))
	case state != pair.Solo && state != pair.Protected && state != pair.Checkpointing:
		return fmt.Errorf("not possible now; the pair is %s: %s", state, why)
	}
	if n := d.data.Stats().Rewritten; n > 0 && !req.Force {
		return errRewritten(n)
	}
	// Nothing is to be protected again, nor started, in the middle of it.
	if d.held.Load() == nil {
		if err := d.Ask(ctx, pair.Ask{Op: pair.OpMaintenance, On: true, Why: "the guest is being released"}); err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
			defer cancel()
			if err := d.Ask(ctx, pair.Ask{Op: pair.OpMaintenance}); err != nil {
				d.log.Warn().Err(err).Msg("the pair stays in maintenance; end it with colod maintenance off")
			}
		}()
	}
	if err := d.goAlone(ctx); err != nil {
		return err
	}
	if err := d.awaitKernel(ctx, req.Force); err != nil {
		return err
	}
	// From here on it goes on to its end, also without the one who asked: half of it would be a guest without a network.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
	defer cancel()
	err := d.askIf(ctx, pair.Ask{Op: pair.OpStop, Why: pair.ReleasedOn(d.node) + " by an operator: the guest runs on, unprotected, and no longer colod's"}, func() error {
		if d.m.State() != pair.Solo {
			return fmt.Errorf("the pair is no longer ready for it; it is %s: %s", d.m.State(), d.m.Reason())
		}
		d.releasing.Store(true)
		return nil
	})
	if ctx.Err() == nil { // else it goes on; the next VM that starts here ends it
		d.releasing.Store(false)
	}
	return err
}

// wayIsReleased reports whether the way to the network still leads to a VM
// that was let go: then muting it means to hand it over, as often as it takes.
func (d *driver) wayIsReleased() bool {
	l := d.released()
	return l != nil && l.Foreign.Tap == d.way.device()
}

func errRewritten(n int) error {
	return fmt.Errorf("%d connections lived through a takeover and are rewritten by colod: they end when it lets go; wait until they are closed, or use --force", n)
}

func orNobody(node string) string {
	if node == "" {
		return "the node that speaks"
	}
	return node
}

// where is the pair's present state here.
func (d *driver) where() (s pair.State, r pair.Role, why string) {
	d.call(func() { s, r, why = d.m.State(), d.m.Role(), d.m.Reason() })
	return s, r, why
}

func (d *driver) speaker() (node string) {
	d.call(func() { node = d.m.Record().Speaker })
	return node
}

// goAlone gives the secondary up, in the way in which one is given up that no
// longer follows, and waits until the guest runs alone.
func (d *driver) goAlone(ctx context.Context) error {
	asked := false
	return d.poll(ctx, 2*d.cfg.Checkpoint.Timeout.D()+releaseWait, func() (bool, error) {
		switch state, role, why := d.where(); state {
		case pair.Solo:
			return true, nil
		case pair.Protected, pair.Checkpointing:
			if h := d.vm.Load(); !asked && h != nil && role == pair.Speaker {
				asked = true
				d.post(pair.COLOExit{VM: h.id, Reason: "an operator releases the guest"})
			}
			return false, nil
		case pair.Claiming, pair.Promoting, pair.Syncing:
			return false, nil
		default:
			return false, fmt.Errorf("the guest no longer speaks here; the pair is %s: %s", state, why)
		}
	})
}

// awaitKernel waits until the guest's connections need no colod.
func (d *driver) awaitKernel(ctx context.Context, force bool) error {
	left := 0
	err := d.poll(ctx, releaseWait, func() (bool, error) {
		st := d.data.Stats()
		left = st.Rewritten
		return force || left == 0 && st.Mode == "pass", nil
	})
	if left > 0 && err != nil {
		return errRewritten(left)
	}
	return err
}

// poll calls done until it says so.
func (d *driver) poll(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-d.ended:
			return errors.New("colod is being stopped")
		case <-ctx.Done():
			state, _, why := d.where()
			return fmt.Errorf("not within %s; the pair is %s: %s", limit, state, why)
		}
	}
}

// letVMGo forgets the VM, which runs on; on the VM's lane. What names it is
// kept first: no second one is launched beside it.
func (d *driver) letVMGo() error {
	h := d.vm.Load()
	if h == nil {
		return nil
	}
	v, ok := h.VM.(interface {
		Process() qmp.Process
		Sockets() qmp.Foreign
		ForgetTap(tap string) error
		Disown() error
	})
	if !ok {
		return errNotHere
	}
	l := letGo{Process: v.Process(), Foreign: v.Sockets(), Since: time.Now()}
	if err := statefile.Write(d.letGoFile(), letGoKind, &l); err != nil {
		return fmt.Errorf("note which VM is let go: %w", err)
	}
	if l.Foreign.Tap == d.cfg.Network.Tap {
		if err := v.ForgetTap(l.Foreign.Tap); err != nil {
			d.log.Warn().Err(err).Msg("the guest's tap stays when its VM has ended")
		}
	}
	if err := v.Disown(); err != nil {
		return err
	}
	d.vm.Store(nil)
	h.letGo()
	d.log.Info().Int("pid", l.Process.PID).Str("tap", l.Foreign.Tap).Msg("VM let go; its guest runs on without colod")
	return nil
}
