package coordinator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"colod/compare"
	"colod/coordinator/arbiter"
	"colod/coordinator/config"
	"colod/coordinator/mode"
	"colod/coordinator/pace"
	"colod/coordinator/pair"
	"colod/coordinator/placement"
	"colod/internal/certs"
	"colod/proxy"
	"colod/qmp"
)

// driver carries out what one pair's machine decides. One goroutine, loop,
// owns the machine; long operations run on three lanes, each one after the
// other: on the VM, on the data path and on the arbiter. Everything that
// happens comes to the loop through the mailbox.
type driver struct {
	cfg      *config.Pair
	node     string
	dir      string // of the VM
	plat     Platform
	arb      arbiter.Arbiter
	arbLimit time.Duration // of one question to it
	id       *certs.Identity
	net      network
	log      zerolog.Logger
	publish  func(e Event, routine bool)

	box   *mailbox
	start time.Time
	m     *pair.Machine

	vmLane, pathLane, arbLane *lane
	disks                     *disks // nil for a guest without replicated ones

	path Path
	data DataPath
	way  *way           // both of them
	dog  sync.WaitGroup // watchers of VMs, and handlers of the peer's connections

	vm       atomic.Pointer[vmHandle]
	sess     *session                // present session; loop only
	sessNow  atomic.Pointer[session] // the same, for other goroutines
	freed    chan struct{}           // closed when the last FreeVM is done; loop only
	linkSess atomic.Pointer[session] // whose link the data path has
	asks     map[uint64]chan string
	askID    uint64
	stats    stats
	mode     *mode.Controller // loop only, as are buffered, waits and waited
	waits    uint64           // of the data path at the last checkpoint
	waited   time.Duration
	pace     *pace.Controller // loop only
	buffered bool             // the mode that the data path was told
	epochs   atomic.Bool      // the same, for other goroutines
	reports  reporter
	offers   []*session // asked for by a speaker, not launched for yet; loop only
	known    peerSet    // nodes that have to do with the pair
	domain   string     // of this node
	state    string     // directory of what must survive a reboot
	held     atomic.Pointer[maintained]
	promise  promise     // to the secondary that is being made here
	kept     *maintained // what is on disk of it; loop only, after the start
	audit    *audit
	sup      *supervision // nil: nobody watches
	guest    guestWatch
	unwatch  func()
	ctx      context.Context // ends with the driver
	cancel   context.CancelFunc
	disk     *lane // what is written to disk

	pending   atomic.Pointer[adoption] // taken instead of the next launch
	foreign   atomic.Bool              // somebody else runs the guest, whose adoption has failed
	launches  atomic.Bool              // an operator had the VM launched although it is somebody else's to start
	adopting  atomic.Bool              // an adoption or a release is under way
	releasing atomic.Bool              // the VM is let go instead of being ended

	since  time.Time
	exited chan struct{} // closed when the machine has come to rest after Quit
	stop   chan struct{} // closed to end the loop
	ended  chan struct{} // closed when the loop has ended
}

// Limits of single operations.
const (
	arbiterTimeout = 3 * time.Second
	pathTimeout    = 10 * time.Second
	killTimeout    = 10 * time.Second
	checkTimeout   = time.Second
	triggerTimeout = 2 * time.Second // QEMU answers at once, unless it hangs
	freeTimeout    = 10 * time.Second
	toldTimeout    = 10 * time.Second // for an event that was read already
	launchTimeout  = 90 * time.Second // with the test of KVM, the first time
	dialTimeout    = 5 * time.Second
)

// driverOptions are what a driver is made of.
type driverOptions struct {
	Pair     *config.Pair
	Node     *config.Config
	Platform Platform
	Arbiter  arbiter.Arbiter
	Identity *certs.Identity
	Network  network
	Boot     uint64 // number of this run of colod
	Log      zerolog.Logger
	Publish  func(e Event, routine bool)
	Audit    *audit
	// Supervision watches the pair; nil: nobody does.
	Supervision *supervision
	// Outside says that nodes that are not in the pair's list can be found.
	Outside bool
}

// newDriver opens the guest's devices and starts the driver; the machine
// gets its first event.
func newDriver(o driverOptions) (*driver, error) {
	cfg, self, plat := o.Pair, o.Node, o.Platform
	d := &driver{
		cfg: cfg, node: self.Node, dir: vmDir(self.RunDir, cfg.Name), domain: self.Domain,
		state: filepath.Join(self.StateDir, "pairs", cfg.Name),
		plat:  plat, arb: o.Arbiter, arbLimit: arbiterLimit(self), id: o.Identity, net: o.Network, audit: o.Audit, sup: o.Supervision,
		log: o.Log.With().Str("pair", cfg.Name).Logger(), publish: o.Publish,
		box: newMailbox(), start: time.Now(), since: time.Now(), asks: map[uint64]chan string{},
		exited: make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.known.add(cfg.Peers(d.node)...)
	d.stats.init()
	d.disks = newDisks(d, self.StateDir)
	if err := d.openWay(); err != nil {
		return nil, err
	}
	d.openReports(self)
	d.m = pair.New(pair.Config{
		Pair: cfg.Name, Self: d.node, Peers: cfg.Peers(d.node), First: cfg.First(d.node), Outside: o.Outside,
		Guest: fingerprint(cfg), AutoProtect: cfg.AutoProtect,
		Fencing: cfg.Fencing.Used(), FencingRequired: cfg.Fencing.Required,
		IdleInterval: cfg.Checkpoint.IdleInterval.D(), CheckpointTimeout: cfg.Checkpoint.Timeout.D(),
		Retrigger: cfg.Checkpoint.Retrigger.D(), SyncTimeout: cfg.Checkpoint.SyncTimeout.D(),
	})
	d.vmLane, d.pathLane, d.arbLane, d.disk = newLane(), newLane(), newLane(), newLane()
	d.startMode()
	d.post(pair.Start{Boot: o.Boot})
	d.restoreMaintenance()
	go d.loop()
	d.unwatch = func() {}
	if d.sup != nil {
		d.unwatch = d.sup.superviseDriver(d)
	}
	return d, nil
}

// post gives the machine an event.
func (d *driver) post(ev pair.Event) { d.box.post(ev) }

// call runs fn on the loop and waits for it. It reports false when the
// driver has ended.
func (d *driver) call(fn func()) bool {
	done := make(chan struct{})
	d.box.post(func() { fn(); close(done) })
	select {
	case <-done:
		return true
	case <-d.ended:
		return false
	}
}

func (d *driver) loop() {
	defer close(d.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []any
	for {
		wait := time.Hour
		if at := d.m.Deadline(); at != 0 {
			wait = max(at-time.Since(d.start), 0)
		}
		timer.Reset(wait)
		select {
		case <-d.stop:
			return
		case <-d.box.wake:
		case <-timer.C:
		}
		items := d.box.take(spare)
		if len(items) == 0 {
			d.step(pair.Tick{Now: time.Since(d.start)})
		}
		for i, it := range items {
			items[i] = nil
			switch it := it.(type) {
			case func():
				it()
			case pair.Event:
				d.step(pair.Tick{Now: time.Since(d.start)})
				d.step(it)
			}
		}
		spare = items
	}
}

func (d *driver) step(ev pair.Event) {
	if r, ok := ev.(pair.Received); ok {
		if p, ok := r.Msg.(pair.Prepare); ok && !d.offer(r.From, p) {
			return
		}
	}
	for _, a := range d.m.Step(ev) {
		d.act(a)
	}
}

// act carries out one action; nothing here blocks but CutSession, which only
// closes descriptors.
func (d *driver) act(a pair.Action) {
	switch a := a.(type) {
	case pair.Moved:
		d.moved(a)
	case pair.Warn:
		d.log.Warn().Str("state", d.m.State().String()).Msg(a.Text)
	case pair.Fault:
		d.log.Error().Msg("mistake in the pair's state machine: " + a.Text)

	case pair.ReadRecord:
		d.readRecord(a)
	case pair.Swap:
		d.swapRecord(a)

	case pair.FindVM:
		d.vmLane.do(func() { d.findVM(a) })
	case pair.LaunchVM:
		d.launch(a)
	case pair.EndVM:
		d.vmLane.do(func() { d.endVM(a) })
	case pair.PowerDown:
		d.vmLane.do(d.powerDown)
	case pair.PauseVM:
		d.vmLane.do(func() { d.post(pair.VMPaused{Op: a.Op, Err: d.tellVM("stop the guest", VM.Stop)}) })
	case pair.ContVM:
		d.vmLane.do(func() { d.post(pair.VMContinued{Op: a.Op, Err: d.tellVM("continue the guest", VM.Cont)}) })
	case pair.ResetVM:
		d.vmLane.do(func() { d.post(pair.VMReset{Op: a.Op, Err: d.tellVM("reset the guest", VM.SystemReset)}) })
	case pair.Forget:
		d.forget()
	case pair.Choose:
		d.choose(a)
	case pair.Fence:
		d.fence(a)
	case pair.Maintained:
		d.maintain(a)
	case pair.CheckVM:
		d.vmLane.do(func() { d.checkVM(a) })
	case pair.FreeVM:
		d.free(a)
	case pair.CutSession:
		d.cutSession(a)
	case pair.Copy:
		d.copyGuest(a)
	case pair.Trigger:
		d.trigger(a)

	case pair.Mute:
		d.pathLane.do(func() { d.mute(a) })
	case pair.Speak:
		s, freed := d.sess, d.freed
		d.pathLane.do(func() {
			if a.How == pair.TakeOver && s != nil && freed != nil && !s.quiet() {
				<-freed // only then it is known which state the guest goes on from
			}
			d.speak(a)
		})
	case pair.Link:
		d.connect(a)
	case pair.Hold:
		d.holdOutput(a)
	case pair.MarkStopped:
		d.stats.stopped(a.At)
		d.data.Stopped(a.N, a.At)
	case pair.Cover:
		d.cover(a)
	case pair.SecondaryStopped:
		if d.sess != nil {
			d.sess.tellStopped(a.At)
		}
		d.data.SecondaryStopped(a.At)
	case pair.SecondaryResumed:
		if d.sess != nil {
			d.sess.tellResumed()
		}
		d.data.SecondaryResumed(a.At)

	case pair.Send:
		d.send(a)
	case pair.Answer:
		if ch, ok := d.asks[a.ID]; ok {
			delete(d.asks, a.ID)
			ch <- a.Err
		}
	case pair.Exit:
		close(d.exited)
	}
}

func (d *driver) moved(a pair.Moved) {
	d.reports.generation.Store(d.m.Record().Generation)
	now := time.Now()
	routine := a.From == pair.Protected && a.To == pair.Checkpointing || a.From == pair.Checkpointing && a.To == pair.Protected
	if !routine {
		d.since = now
	}
	level := zerolog.InfoLevel
	if routine {
		level = zerolog.DebugLevel
	}
	d.log.WithLevel(level).Stringer("from", a.From).Stringer("state", a.To).Stringer("role", a.Role).
		Uint64("generation", d.m.Record().Generation).Msg(a.Reason)
	d.disks.moved(a.To)
	d.promise.moved(a, d.cfg.VM.Memory.Bytes())
	d.publish(Event{
		Time: now, Pair: d.cfg.Name, From: a.From.String(), State: a.To.String(), Role: a.Role.String(),
		Generation: d.m.Record().Generation, Reason: a.Reason,
	}, routine)
}

// send sends a message; the speaker's session begins with its request for a
// secondary.
func (d *driver) send(a pair.Send) {
	msg := a.Msg
	if p, ok := msg.(pair.Prepare); ok {
		s, err := freshSession(p.Session, a.To)
		if err != nil {
			d.log.Error().Err(err).Msg("cannot make a session's secret")
			return
		}
		d.setSession(s)
		p.Secret = s.encoded()
		msg = p
	}
	if _, no := msg.(pair.Refused); no && d.m.State() != pair.Syncing {
		d.promise.drop()
	}
	d.net.send(a.To, d.cfg.Name, msg.Kind(), msg)
}

// maxOffers is how many requests for a secondary are kept: one a node, and
// some to spare.
const maxOffers = 8

// offer keeps the secret of a session that a speaker asks for. It becomes the
// present one when the machine launches a VM for it. A secondary that this
// node has no room for is refused here, and the machine does not see it.
func (d *driver) offer(from string, p pair.Prepare) bool {
	secret, err := parseSecret(p.Secret)
	if err != nil {
		d.log.Warn().Err(err).Str("peer", from).Msg("request for a secondary without a usable secret")
		return false
	}
	if d.vm.Load() == nil {
		own := d.net.own()
		own.MemFree += d.promise.bytes.Load() // to this pair, by an earlier request
		if no := placement.Check(d.needs(nil), own); len(no) > 0 {
			why := d.node + " has no room for the secondary: " + strings.Join(no, "; ")
			d.log.Warn().Str("peer", from).Msg(why)
			r := pair.Refused{Session: p.Session, Reason: clip(why)}
			d.net.send(from, d.cfg.Name, r.Kind(), r)
			return false
		}
		d.promise.make(d.cfg.VM.Memory.Bytes())
	}
	if len(d.offers) == maxOffers {
		d.offers = d.offers[1:]
	}
	d.offers = append(d.offers, newSession(p.Session, from, secret))
	return true
}

// accept makes the session that was asked for the present one.
func (d *driver) accept(name string) *session {
	for i, s := range d.offers {
		if s.name == name {
			d.offers = slices.Delete(d.offers, i, i+1)
			d.setSession(s)
			return s
		}
	}
	return d.session(name)
}

// clip keeps a sentence within what a message may carry.
func clip(s string) string {
	const limit = 1000
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}

func (d *driver) setSession(s *session) {
	if d.sess != nil {
		d.sess.end()
	}
	d.sess = s
	d.sessNow.Store(s)
}

// session is the present session if it has this name.
func (d *driver) session(name string) *session {
	if d.sess != nil && d.sess.name == name {
		return d.sess
	}
	return nil
}

func (d *driver) cutSession(a pair.CutSession) {
	if s := d.session(a.Session); s != nil {
		s.end()
	}
}

// onMessage takes a message of another node.
func (d *driver) onMessage(from, kind string, body []byte) {
	msg, err := pair.DecodeMessage(kind, body)
	if err != nil {
		d.log.Warn().Err(err).Str("peer", from).Msg("message of the other node refused")
		return
	}
	d.post(pair.Received{From: from, Msg: msg})
}

// onProxy takes an event of the data path, on its thread.
func (d *driver) onProxy(ev proxy.Event) {
	switch ev := ev.(type) {
	case proxy.Diverged:
		d.reports.diverged(ev.Divergence)
		if d.stats.diverged(ev.Divergence) {
			d.reports.tolerances.blamed(ev.Rule)
			d.post(pair.Diverged{Reason: ev.Reason.String()})
		}
		d.log.Debug().Stringer("reason", ev.Reason).Str("flow", flowName(&ev.Key)).Bool("exact", ev.Exact).
			Uint64("position", ev.Position).Str("detail", ev.Detail).Msg("the guests' outputs differ")
	case proxy.Tolerated:
		d.reports.tolerances.used(ev.Tolerated)
	case proxy.LinkLost:
		if s := d.linkSess.Load(); s != nil {
			d.post(pair.LinkLost{Session: s.name, Reason: ev.Err.Error()})
		}
	case proxy.InputLost:
		d.log.Warn().Uint64("frames", ev.Frames).Msg("input could not be mirrored; a checkpoint heals it")
		d.post(pair.Diverged{Reason: compare.ReasonLost.String()})
	case proxy.OutputLost:
		d.log.Warn().Uint64("frames", ev.Frames).Msg("the kernel dropped frames of the guest; a checkpoint heals it")
		d.post(pair.Diverged{Reason: compare.ReasonLost.String()})
	case proxy.Covered:
		d.stats.covered(ev)
	case proxy.FrontGone:
		d.log.Info().Msg("no rewritten connection is left: the kernel carries the guest's traffic again")
	}
}

// Ask passes on an operator's wish and waits for its outcome.
func (d *driver) Ask(ctx context.Context, a pair.Ask) error {
	return d.askIf(ctx, a, func() error { return nil })
}

// askIf is Ask, if may allows it; that is called on the loop, right before.
func (d *driver) askIf(ctx context.Context, a pair.Ask, may func() error) error {
	if a.Op == pair.OpStart || a.Op == pair.OpForce {
		if err := d.disks.mayStart(); err != nil { // before the record is changed in vain
			return err
		}
		if d.pending.Load() == nil {
			if err := d.runsReleased(); err != nil {
				return err
			}
			d.launches.Store(true)
		}
	}
	ch := make(chan string, 1)
	var id uint64
	var refused error
	if !d.call(func() {
		if refused = may(); refused != nil {
			return
		}
		d.askID++
		id = d.askID
		d.asks[id] = ch
		d.step(pair.Tick{Now: time.Since(d.start)})
		a.ID = id
		d.step(a)
	}) {
		return errors.New("colod is being stopped")
	}
	if refused != nil {
		return refused
	}
	select {
	case s := <-ch:
		if s != "" {
			return errors.New(s)
		}
		return nil
	case <-ctx.Done():
		d.call(func() { delete(d.asks, id) })
		return fmt.Errorf("%s goes on: %w", a.Op, ctx.Err())
	case <-d.ended:
		return errors.New("colod is being stopped")
	}
}

// close ends the driver. The VM, if one runs, is left as it is, and so is
// its way to the network. A guest that runs alone stays reachable through the kernel, unless connections are left that lived
// through a takeover: then it is mute until colod runs again, which goes on with them, as after a crash. With open it is
// reachable all the same, and such connections stand still.
func (d *driver) close(open bool) error {
	d.unwatch()
	defer d.reports.close()
	d.call(func() {
		if d.sess != nil {
			d.sess.end()
		}
	})
	d.cancel()
	d.vmLane.close()
	d.arbLane.close()
	d.disk.close()
	h := d.vm.Load()
	if h != nil {
		h.letGo()
	}
	d.dog.Wait()
	d.pathLane.close()
	close(d.stop)
	<-d.ended
	if h == nil {
		return errors.Join(d.data.Close(), d.path.Remove())
	}
	var errs []error
	alone := d.m.State() == pair.Solo
	if alone {
		ctx, cancel := context.WithTimeout(context.Background(), pathTimeout)
		defer cancel()
		errs = append(errs, d.data.Solo(ctx))
		if n := d.data.Stats().Rewritten; n > 0 && !open {
			alone = false
			d.log.Warn().Int("connections", n).Msg("connections that lived through a takeover are kept: the guest is mute until colod runs again; colod stop would keep it reachable")
		}
	}
	errs = append(errs, d.data.Close())
	if alone {
		errs = append(errs, d.path.SetMode(proxy.Pass))
	}
	return errors.Join(append(errs, d.path.Detach())...)
}

// planned tells the end that somebody wished for from every other one.
func planned(e qmp.Event) (reason string, ok bool) {
	reason, _ = e.ShutdownReason()
	return reason, e.PlannedEnd()
}
