// Package coordinator runs the pairs of one node: it connects the pure state
// machines of package pair with the world, the other nodes, the arbiter, the
// VMs and the data paths, and serves the local API.
//
// It decides nothing by itself: roles follow from the machines, and they from
// the arbiter's record.
package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/arbiter"
	"colod/coordinator/config"
	"colod/coordinator/heartbeat"
	"colod/coordinator/pair"
	"colod/coordinator/peer"
	"colod/internal/certs"
)

// Options of a node.
type Options struct {
	Config   *config.Config
	Version  string
	Log      zerolog.Logger
	Platform Platform        // nil: the host's
	Arbiter  arbiter.Arbiter // nil: the one that the configuration names
	// WithGuests ends the guests too when the node is stopped.
	WithGuests bool
	// Heartbeats is the command of a process that exchanges the heartbeats (see
	// heartbeat.ProcessMain); empty: a thread of this process does.
	Heartbeats []string
	// Notify is told of the service's state in systemd's words; may be nil.
	Notify func(state string)
}

// Node is one colod.
type Node struct {
	opt   Options
	cfg   *config.Config
	log   zerolog.Logger
	start time.Time
	boot  uint64

	id       *certs.Identity
	arb      arbiter.Arbiter
	listener *peer.Listener
	api      *apiServer
	hub      *hub
	surface  *surface // what people and programs look at

	ctx    context.Context // ends with the node
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of the node itself

	sup   *supervision
	hb    *heartbeat.Service // nil: only the ctl connections tell who is there
	facts atomic.Pointer[HostFacts]
	audit *audit

	mu      sync.RWMutex
	others  map[string]*other    // the other nodes, by name
	beating map[string]bool      // those whose heartbeats come
	drivers map[string]*driver   // by pair name
	order   []string             // of the pairs: the configuration's first
	making  map[string]bool      // pairs whose driver is being made
	told    map[string]time.Time // refusals, when they were told
	started bool                 // links are started as they are made
	closed  bool                 // nothing new is taken

	changed  chan struct{} // a pair's state did
	strange  chan struct{} // somebody unknown has knocked
	quit     chan bool     // asks Run to end, with the guests or without
	quitOnce sync.Once

	reachable atomic.Bool // guests are to be reachable without colod, whatever that costs
}

// stopTimeout bounds the orderly end of the pairs. What does not end in it is
// left mute, and is taken up at the next start.
const stopTimeout = 15 * time.Second

// NewNode prepares a node; Run runs it.
func NewNode(opt Options) (*Node, error) {
	n := &Node{
		opt: opt, cfg: opt.Config, log: opt.Log, start: time.Now(), hub: newHub(),
		others: map[string]*other{}, beating: map[string]bool{},
		drivers: map[string]*driver{}, making: map[string]bool{}, changed: make(chan struct{}, 1), strange: make(chan struct{}, 1), quit: make(chan bool, 1),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make boot number: %w", err)
	}
	n.boot = binary.BigEndian.Uint64(b[:])>>16 | 1 // 48 bits: it is part of the sessions' names
	if n.opt.Notify == nil {
		n.opt.Notify = func(string) {}
	}
	if n.opt.Platform == nil {
		n.opt.Platform = NewHost(n.cfg)
	}
	return n, nil
}

// Stop asks Run to end.
func (n *Node) Stop(withGuests bool) {
	n.quitOnce.Do(func() { n.quit <- withGuests })
}

// Run runs the node until ctx ends or Stop is called. A guest that runs
// alone here, or as the speaker, keeps running afterwards.
func (n *Node) Run(ctx context.Context) error {
	if err := n.open(); err != nil {
		return errors.Join(err, n.close())
	}
	n.opt.Notify("READY=1")
	n.log.Info().Str("node", n.cfg.Node).Str("version", n.opt.Version).Str("listen", n.listener.Addr().String()).
		Str("api", n.cfg.API.Socket).Int("pairs", len(n.all())).Msg("colod runs")
	stopWatch := n.feedSystemd()
	withGuests := n.opt.WithGuests
	select {
	case <-ctx.Done():
	case w := <-n.quit:
		withGuests = withGuests || w
		n.reachable.Store(true) // somebody means it: this is not systemd's restart
	}
	n.opt.Notify("STOPPING=1")
	n.log.Info().Bool("with_guests", withGuests).Msg("colod is being stopped")
	began := time.Now()
	n.rest(withGuests)
	stopWatch()
	err := n.close()
	n.log.Info().Dur("took_ms", time.Since(began)).Msg("colod has ended")
	return err
}

// open starts everything; what was started is ended by close, also after an error.
func (n *Node) open() error {
	var err error
	if n.id, err = certs.Load(n.cfg.TLS.CA, n.cfg.TLS.Cert, n.cfg.TLS.Key, n.cfg.Node); err != nil {
		return err
	}
	if err := os.MkdirAll(n.cfg.RunDir, 0o755); err != nil {
		return fmt.Errorf("make run_dir: %w", err)
	}
	if err := os.MkdirAll(n.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state_dir: %w", err)
	}
	if left := time.Until(n.id.Expires()); left < 30*24*time.Hour {
		n.log.Warn().Time("expires", n.id.Expires()).Msg("this node's certificate expires soon; make a new one with colod cert node")
	}
	if n.arb = n.opt.Arbiter; n.arb == nil {
		if n.arb, err = openArbiter(n.ctx, n.cfg); err != nil {
			return err
		}
	}
	if n.surface, err = openSurface(n); err != nil {
		return err
	}
	n.audit = openAudit(filepath.Join(n.cfg.StateDir, "audit.log"), n.cfg.Node, n.log)
	n.sup = openSupervision(n.log)
	// The API's socket comes first: it is also the lock against a second colod.
	if n.api, err = newAPI(n); err != nil {
		return err
	}
	if err = n.surface.listen(); err != nil {
		return err
	}
	if n.listener, err = peer.Listen(n.listenAddrs(), n.log); err != nil {
		return err
	}
	n.listener.Handle(peer.ClassCtl, n.handleCtl)
	n.listener.Handle(peer.ClassNet, n.handleNet)
	n.listener.Handle(peer.ClassState, n.handleState)
	n.listener.Handle(peer.ClassDisk, n.handleDisk)
	n.openHeartbeats()
	for i := range n.cfg.Pairs {
		for _, p := range n.cfg.Pairs[i].Nodes {
			n.know(p)
		}
	}
	for i := range n.cfg.Pairs {
		if err := n.open1(&n.cfg.Pairs[i]); err != nil {
			return err
		}
	}
	n.takeUpGuests()
	n.superviseNode()
	n.startLinks()
	n.listener.Serve()
	n.api.serve()
	n.surface.serve()
	for _, job := range []func(){
		func() { watchArbiter(n.ctx, n.arb, n.log) }, n.tellFacts, n.keepRegistry, n.watchCertificates, n.retireGuests,
	} {
		n.work.Go(job)
	}
	return nil
}

// open1 makes the driver of a pair.
func (n *Node) open1(p *config.Pair) error {
	d, err := newDriver(driverOptions{
		Pair: p, Node: n.cfg, Platform: n.opt.Platform, Arbiter: n.arb, Identity: n.id, Network: n, Boot: n.boot,
		Log: n.log, Publish: n.publish, Audit: n.audit, Supervision: n.sup, Outside: n.registry() != nil,
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drivers[p.Name] = d
	n.order = append(n.order, p.Name)
	return nil
}

func (n *Node) startLinks() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = true
	for _, o := range n.others {
		o.link.Start()
	}
}

func (n *Node) publish(e Event, routine bool) {
	n.hub.publish(e, routine)
	if routine {
		return
	}
	select {
	case n.changed <- struct{}{}:
	default:
	}
	n.opt.Notify(fmt.Sprintf("STATUS=pair %s is %s: %s", e.Pair, e.State, e.Reason))
}

// errSpeaksElsewhere keeps a guest from being ended that another node of its pair runs.
var errSpeaksElsewhere = errors.New("the guest does not speak here")

// rest brings all pairs to rest, within stopTimeout and the guests' grace. withGuests ends the guests that speak here; one
// that speaks on another node goes on there, and only its secondary here ends, as it does without.
func (n *Node) rest(withGuests bool) {
	var wg sync.WaitGroup
	for _, d := range n.all() {
		wg.Go(func() {
			if withGuests {
				grace := d.cfg.VM.Grace.D()
				ctx, cancel := context.WithTimeout(context.Background(), grace+stopTimeout/3)
				err := d.askIf(ctx, pair.Ask{Op: pair.OpStop, Grace: grace}, func() error {
					if d.m.Role() != pair.Speaker {
						return errSpeaksElsewhere
					}
					return nil
				})
				if err != nil && !errors.Is(err, errSpeaksElsewhere) {
					d.log.Warn().Err(err).Msg("the guest was not ended")
				}
				cancel()
			}
			d.post(pair.Quit{})
			select {
			case <-d.exited:
			case <-time.After(stopTimeout):
				d.log.Warn().Msg("the pair did not come to rest in time; it is left as it is")
			}
		})
	}
	wg.Wait()
}

// close ends everything that open started.
func (n *Node) close() error {
	n.cancel()
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.work.Wait()
	if n.sup != nil {
		n.sup.close()
	}
	var errs []error
	if n.surface != nil {
		n.surface.stop()
	}
	if n.api != nil {
		errs = append(errs, n.api.close())
	}
	n.mu.RLock()
	links := slices.Collect(maps.Values(n.others))
	n.mu.RUnlock()
	for _, o := range links {
		o.link.Close()
	}
	if n.hb != nil {
		errs = append(errs, n.hb.Close())
	}
	if n.listener != nil {
		if err := n.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, d := range n.all() {
		errs = append(errs, d.close(n.reachable.Load()))
	}
	if n.surface != nil {
		errs = append(errs, n.surface.close())
	}
	if n.arb != nil && n.opt.Arbiter == nil {
		errs = append(errs, n.arb.Close())
	}
	return errors.Join(errs...)
}

// Status is the node's status.
func (n *Node) Status() NodeStatus {
	st := NodeStatus{Node: n.cfg.Node, Version: n.opt.Version, Since: n.start, Pairs: []PairStatus{}}
	if n.sup != nil {
		st.Supervision = n.sup.status()
	}
	for _, d := range n.all() {
		if p, ok := n.statusOf(d); ok {
			st.Pairs = append(st.Pairs, p)
		}
	}
	return st
}

func (n *Node) pairStatus(name string) (PairStatus, bool) {
	d := n.driverOf(name)
	if d == nil {
		return PairStatus{}, false
	}
	return n.statusOf(d)
}

func (n *Node) statusOf(d *driver) (PairStatus, bool) {
	st, ok := d.status()
	for i := range st.Peers {
		p := &st.Peers[i]
		if o := n.otherNode(p.Node); o != nil {
			p.RTTUS = us(o.link.RTT())
			p.Version = o.link.PeerVersion()
			p.Paths = n.paths(p.Node)
		}
		if p.Node == st.Peer.Node {
			st.Peer = *p
		}
	}
	return st, ok
}
