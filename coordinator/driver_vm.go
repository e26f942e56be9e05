package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"colod/coordinator/pair"
	"colod/coordinator/peer"
	"colod/internal/netconn"
	"colod/qmp"
	"colod/qmp/relay"
)

// The functions here run on the VM's lane unless they say otherwise.

// vmHandle is the VM that the driver has, with the goroutine that watches it.
type vmHandle struct {
	VM
	id   uint64 // the machine's number for it
	quit chan struct{}
	done chan struct{}

	ran     atomic.Int64 // time of the newest RESUME that the machine was told of, ns since 1970
	unwatch func()       // ends the supervision
	colo    atomic.Bool  // the guest is being copied by colod, or was
	leaving bool         // somebody else's migration is under way; for the watcher only
}

// foreign reports whether a MIGRATION event is of a migration that somebody
// else has begun. The first event of each is setup; that of colod's own comes
// while the guest is being copied, and what follows from its end may come later.
func (h *vmHandle) foreign(status string) bool {
	if status == "setup" && !h.colo.Load() {
		h.leaving = true
	}
	was := h.leaving
	switch status {
	case "completed", "failed", "cancelled":
		h.leaving = false
	}
	return was
}

// letGo ends the watching and the connections; the VM runs on.
func (h *vmHandle) letGo() {
	h.unwatch()
	close(h.quit)
	<-h.done
	_ = h.Close() // connections only
}

// take makes a VM the driver's and watches it.
func (d *driver) take(vm VM, id uint64) {
	h := &vmHandle{VM: vm, id: id, quit: make(chan struct{}), done: make(chan struct{})}
	events, stop := vm.Events()
	h.unwatch = d.superviseVM(h)
	d.vm.Store(h)
	d.dog.Go(func() {
		defer close(h.done)
		defer stop()
		d.watch(h, events)
	})
}

// watch passes the VM's events on. It has no delay of its own: the death of
// the primary's VM is the start of a takeover.
func (d *driver) watch(h *vmHandle, events <-chan qmp.Event) {
	ended := false
	for {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			ended = d.onVM(h, e) || ended
		case <-h.Died():
			if !ended {
				d.lastWords(h, events)
			}
			d.post(pair.VMDied{VM: h.id, Reason: h.DeathReport()})
			<-h.quit
			return
		case <-h.quit:
			return
		}
	}
}

// lastWordsTimeout bounds the wait for the end of the monitor's connection of
// a VM that ends by itself. On a loaded host the kernel takes seconds to free
// a guest's memory, and closes the process's connections only after that.
const lastWordsTimeout = 5 * time.Second

// lastWords looks for a SHUTDOWN that QEMU sent before it ended: a planned
// end must never look like a death. A process that a signal killed cannot
// have ended on purpose, and the kernel tells that at once.
func (d *driver) lastWords(h *vmHandle, events <-chan qmp.Event) {
	limit := time.NewTimer(lastWordsTimeout)
	defer limit.Stop()
	killed := killedBySignal(h.PID())
	for events != nil {
		if killed {
			select {
			case e, ok := <-events:
				if !ok || d.onVM(h, e) {
					return
				}
				continue
			default:
				return
			}
		}
		select {
		case e, ok := <-events: // closed at the end of the monitor's connection
			if !ok || d.onVM(h, e) {
				return
			}
		case <-limit.C:
			return
		case <-h.quit:
			return
		}
	}
}

// onVM translates an event; it reports whether it was a SHUTDOWN.
func (d *driver) onVM(h *vmHandle, e qmp.Event) bool {
	switch e.Name {
	case qmp.EventStop:
		d.post(pair.VMStopped{VM: h.id, At: e.Time})
	case qmp.EventResume:
		d.stats.resumed(e.Time)
		d.post(pair.VMResumed{VM: h.id, At: e.Time})
		h.ran.Store(e.Time.UnixNano())
		d.disks.resumed()
	case qmp.EventColoExit:
		_, reason := e.ColoExit()
		d.post(pair.COLOExit{VM: h.id, Reason: reason})
	case qmp.EventReset:
		// Also by QEMU itself, when it loads a checkpoint.
		if reason := e.ResetReason(); strings.HasPrefix(reason, "guest-") || strings.HasPrefix(reason, "host-") {
			d.guest.boots.Add(1)
			d.post(pair.GuestReset{VM: h.id, Reason: reason})
		}
	case qmp.EventMigration:
		if status := e.MigrationStatus(); h.foreign(status) {
			d.post(pair.VMMigration{VM: h.id, Status: status})
		}
	case qmp.EventWatchdog:
		d.log.Warn().Str("action", d.guest.bite(e)).Msg("the guest has not fed its watchdog device")
	case qmp.EventShutdown:
		reason, ok := planned(e)
		d.post(pair.VMShutdown{VM: h.id, Planned: ok, Reason: reason})
		return true
	default:
		d.disks.event(h, e)
	}
	return false
}

func (d *driver) findVM(a pair.FindVM) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	vm, err := d.plat.AdoptVM(ctx, d.dir)
	switch {
	case err == nil:
		d.log.Info().Int("pid", vm.PID()).Stringer("qemu", vm.Version()).Msg("a running VM was found and is adopted")
		ev := pair.VMFound{Op: a.Op, Found: true}
		st, err := vm.QueryStatus(ctx)
		switch {
		case err != nil:
			d.log.Warn().Err(err).Msg("the VM that was found does not say how it is")
		case st.Status == "paused":
			ev.Paused = true
		case st.Status == "postmigrate":
			ev.Left = true
		}
		d.take(vm, a.Op)
		d.post(ev)
		d.disks.found(d.vm.Load(), st.Status)
		return
	case !errors.Is(err, qmp.ErrNoVM):
		d.log.Warn().Err(err).Msg("what is left of a VM cannot be adopted and is ended")
		if err := d.plat.EndStale(ctx, d.dir); err != nil {
			d.log.Error().Err(err).Msg("cannot end it")
		}
	}
	d.post(pair.VMFound{Op: a.Op})
}

// launch is called on the loop.
func (d *driver) launch(a pair.LaunchVM) {
	s := d.accept(a.Session)
	d.vmLane.do(func() {
		ev := pair.VMLaunched{Op: a.Op}
		if err := d.launchVM(a, s); err != nil {
			ev.Err = err.Error()
		}
		d.post(ev)
	})
}

func (d *driver) launchVM(a pair.LaunchVM, s *session) error {
	parent := context.Background()
	if a.Incoming {
		if s == nil {
			return errors.New("the session is over")
		}
		parent = s.ctx
	}
	ctx, cancel := context.WithTimeout(parent, launchTimeout)
	defer cancel()
	if err := d.clear(ctx); err != nil {
		return err
	}
	began := time.Now()
	vm, err := d.startVM(ctx, a.Incoming)
	if err != nil {
		return err
	}
	d.take(vm, a.Op)
	d.log.Info().Int("pid", vm.PID()).Stringer("qemu", vm.Version()).Bool("incoming", a.Incoming).
		Dur("took_ms", time.Since(began)).Msg("VM launched")
	if !a.Incoming {
		d.guest.boots.Add(1)
	} else {
		d.vm.Load().colo.Store(true)
		err := d.disks.offer(ctx, s)
		if err == nil {
			err = vm.PrepareSecondary(ctx, s.sock(d.dir))
		}
		if err != nil {
			kctx, kcancel := context.WithTimeout(context.Background(), killTimeout)
			defer kcancel()
			return errors.Join(err, d.clear(kctx))
		}
	}
	return nil
}

// clear ends the VM that the driver has, if any, and forgets it.
func (d *driver) clear(ctx context.Context) error {
	h := d.vm.Load()
	if h == nil {
		return nil
	}
	if err := h.Kill(ctx); err != nil {
		return fmt.Errorf("end VM (process %d): %w", h.PID(), err)
	}
	d.vm.Store(nil)
	err := h.Remove()
	h.letGo()
	if err != nil {
		d.log.Warn().Err(err).Msg("cannot remove what the VM left")
	}
	return nil
}

func (d *driver) endVM(a pair.EndVM) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	had := d.vm.Load()
	ev := pair.VMGone{Op: a.Op}
	if d.releasing.Load() {
		if err := d.letVMGo(); err != nil {
			ev.Err = err.Error()
		}
		d.post(ev)
		return
	}
	if err := d.clear(ctx); err != nil {
		ev.Err = err.Error()
	} else if had != nil {
		d.log.Info().Int("pid", had.PID()).Msg("VM ended")
	}
	d.post(ev)
}

func (d *driver) powerDown() {
	h := d.vm.Load()
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	if err := h.SystemPowerdown(ctx); err != nil {
		d.log.Warn().Err(err).Msg("cannot press the guest's power button")
	}
}

func (d *driver) checkVM(a pair.CheckVM) {
	ev := pair.VMChecked{Op: a.Op}
	h := d.vm.Load()
	if h == nil {
		ev.Err = "there is none"
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		if _, err := h.QueryStatus(ctx); err != nil {
			ev.Err = err.Error()
		}
	}
	d.post(ev)
}

// free is called on the loop.
func (d *driver) free(a pair.FreeVM) {
	s := d.sess
	secondary := d.m.Role() == pair.Secondary
	done := make(chan struct{})
	d.freed = done
	d.vmLane.do(func() {
		defer close(done)
		ev := pair.VMFreed{Op: a.Op}
		if err := d.freeVM(s, secondary); err != nil {
			ev.Err = err.Error()
		}
		d.post(ev)
	})
	d.vmLane.do(func() { // behind it: nobody waits for that
		d.forgetCOLO()
		if d.disks.replicates() {
			d.disks.after(d.vm.Load())
		}
	})
}

// forgetCOLO lets a VM that goes on alone be migrated by others as any VM is.
func (d *driver) forgetCOLO() {
	h := d.vm.Load()
	if h == nil || h.colo.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	if err := h.ForgetColo(ctx); err != nil {
		d.log.Debug().Err(err).Msg("the VM's next migration begins COLO, whoever asks for it")
	}
}

func (d *driver) freeVM(s *session, secondary bool) error {
	h := d.vm.Load()
	if h == nil {
		return errors.New("there is none")
	}
	ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
	defer cancel()
	if err := d.disks.before(ctx, h); err != nil {
		return err
	}
	ran := d.stats.lastResume()
	began := time.Now()
	resumed, err := h.LostHeartbeat(ctx)
	if err != nil {
		return err
	}
	h.colo.Store(false)
	d.log.Debug().Dur("took_ms", time.Since(began)).Msg("VM freed from its peer")
	if s == nil || !secondary {
		return nil
	}
	stopAt, yes := s.untold()
	if !yes {
		return nil
	}
	// The last checkpoint arrived as a whole: this guest is what the primary
	// was then. Its data path has to know before it speaks.
	at := resumed
	if ran.After(stopAt) {
		at = ran // it ran already when it was freed
	}
	d.log.Info().Msg("the last checkpoint arrived as a whole: the guest goes on from it")
	d.data.SecondaryStopped(at)
	d.data.SecondaryResumed(at)
	return nil
}

// trigger is called on the loop.
func (d *driver) trigger(a pair.Trigger) {
	s := d.sess
	d.vmLane.do(func() {
		ev := pair.Triggered{N: a.N}
		h := d.vm.Load()
		if h == nil || s == nil {
			ev.Err = "there is no VM"
		} else {
			ctx, cancel := context.WithTimeout(s.ctx, min(triggerTimeout, d.cfg.Checkpoint.Timeout.D()))
			defer cancel()
			if err := h.TriggerCheckpoint(ctx); err != nil {
				ev.Err = err.Error()
			}
		}
		d.post(ev)
	})
}

// copyGuest is called on the loop.
func (d *driver) copyGuest(a pair.Copy) {
	s := d.session(a.Session)
	d.vmLane.do(func() {
		ev := pair.Copied{Session: a.Session}
		if err := d.startColo(s); err != nil {
			ev.Err = err.Error()
			ev.Permanent = errors.Is(err, qmp.ErrColoBroken)
		}
		d.post(ev)
	})
}

func (d *driver) startColo(s *session) error {
	h := d.vm.Load()
	if s == nil || h == nil {
		return errors.New("the session is over")
	}
	ctx, cancel := context.WithTimeout(s.ctx, d.cfg.Checkpoint.SyncTimeout.D())
	defer cancel()
	if err := d.disks.copy(ctx, h, s); err != nil {
		return err
	}
	sock := s.sock(d.dir)
	r, err := d.plat.PrimaryRelay(sock, func(ctx context.Context) (net.Conn, error) { return d.dialState(ctx, s) },
		d.relayOptions(d.stats.relayed))
	if err != nil {
		return err
	}
	s.setRelay(r)
	began := time.Now()
	h.colo.Store(true)
	resumed, err := h.StartColo(ctx, sock)
	if err == nil {
		// The machine takes the next RESUME for that of the arming checkpoint, so this one has to be there before.
		err = h.told(ctx, resumed)
	}
	if err != nil {
		h.colo.Store(false)
		r.Cut()
		if cause := r.Err(); cause != nil && !errors.Is(cause, relay.ErrCut) {
			err = fmt.Errorf("%w (state relay: %w)", err, cause)
		}
		return err
	}
	st := r.Stats()
	d.log.Info().Dur("took_ms", time.Since(began)).Uint64("bytes", st.Forward).Bool("spliced", st.Spliced).Msg("guest copied; both VMs run")
	return nil
}

// told waits until the machine was told of the RESUME of that time.
func (h *vmHandle) told(ctx context.Context, resumed time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, toldTimeout)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for h.ran.Load() != resumed.UnixNano() {
		select {
		case <-tick.C:
		case <-h.done:
			return errors.New("the VM is not watched any more")
		case <-ctx.Done():
			return fmt.Errorf("QEMU's RESUME of %s was not seen: %w", resumed.Format(time.RFC3339Nano), ctx.Err())
		}
	}
	return nil
}

func (d *driver) relayOptions(onCheckpoint func(relay.Checkpoint)) relay.Options {
	return relay.Options{OnCheckpoint: onCheckpoint, OnEnd: d.relayEnded, Copy: d.cfg.State.Transport == "copy"}
}

func (d *driver) relayEnded(err error) {
	if err != nil && !errors.Is(err, relay.ErrCut) {
		d.log.Info().Err(err).Msg("state relay ended")
	}
}

// dialState makes the connection that carries the guest's state.
func (d *driver) dialState(ctx context.Context, s *session) (net.Conn, error) {
	return d.dialStream(ctx, s, peer.ClassState, s.token())
}

// dialStream makes a connection of a class to the session's other node, secured unless state.encryption is plain, and
// greets it with the session's token for that class.
func (d *driver) dialStream(ctx context.Context, s *session, class peer.Class, token [32]byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain := d.cfg.State.Encryption == "plain"
	raw, err := d.net.dial(ctx, s.with, class, plain)
	if err != nil {
		return nil, err
	}
	s.carries(raw)
	conn := raw
	if !plain {
		t := tls.Client(netconn.Gather(raw), d.id.Client(s.with))
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("secure the %s connection: %w", class, err)
		}
		conn = t
	}
	if err := greetState(conn, &stateGreeting{pair: d.cfg.Name, session: s.name, token: token}, dialTimeout); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s connection: %w", class, err)
	}
	return conn, nil
}

// acceptState joins a state connection with the VM here. It is called on the
// connection's goroutine, with conn already secured where that is wanted; raw
// is the connection beneath it, and from the node at its other end.
func (d *driver) acceptState(ctx context.Context, conn, raw net.Conn, from string, g *stateGreeting, plain bool) error {
	s := d.sessNow.Load()
	if s == nil {
		return errors.New("no session is expected")
	}
	if err := s.admits(g, d.cfg.Name); err != nil {
		return err
	}
	if !plain && from != s.with {
		return fmt.Errorf("node %q is not the other node of this session of pair %s, which is %q", from, d.cfg.Name, s.with)
	}
	s.carries(raw)
	if plain != (d.cfg.State.Encryption == "plain") {
		return fmt.Errorf("the state of pair %s is to be sent with encryption %q, and came differently; set state.encryption alike on both nodes", d.cfg.Name, d.cfg.State.Encryption)
	}
	if err := writeStateAnswer(conn, nil); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	r, err := d.plat.SecondaryRelay(ctx, conn, s.sock(d.dir), d.relayOptions(nil))
	if err != nil {
		return err
	}
	s.setRelay(r)
	return nil
}
