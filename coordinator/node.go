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
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/arbiter"
	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/peer"
	"colod/internal/certs"
	"colod/proxy"
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

	links   map[string]*peer.Link // by node name
	drivers map[string]*driver    // by pair name
	order   []string              // of the pairs in the configuration

	quit     chan bool // asks Run to end, with the guests or without
	quitOnce sync.Once
}

// stopTimeout bounds the orderly end of the pairs. What does not end in it is
// left mute, and is taken up at the next start.
const stopTimeout = 15 * time.Second

// NewNode prepares a node; Run runs it.
func NewNode(opt Options) (*Node, error) {
	n := &Node{
		opt: opt, cfg: opt.Config, log: opt.Log, start: time.Now(), hub: newHub(),
		links: map[string]*peer.Link{}, drivers: map[string]*driver{}, quit: make(chan bool, 1),
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
		Str("api", n.cfg.API.Socket).Int("pairs", len(n.drivers)).Msg("colod runs")
	stopWatch := n.watchdog()
	withGuests := n.opt.WithGuests
	select {
	case <-ctx.Done():
	case w := <-n.quit:
		withGuests = withGuests || w
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
	// The API's socket comes first: it is also the lock against a second colod.
	if n.api, err = newAPI(n); err != nil {
		return err
	}
	if err = n.surface.listen(); err != nil {
		return err
	}
	if n.listener, err = peer.Listen([]string{n.cfg.Listen}, n.log); err != nil {
		return err
	}
	n.listener.Handle(peer.ClassCtl, n.handleCtl)
	n.listener.Handle(peer.ClassNet, n.handleNet)
	n.listener.Handle(peer.ClassState, n.handleState)
	for i := range n.cfg.Pairs {
		if other := n.cfg.Pairs[i].Peer(n.cfg.Node); n.links[other.Name] == nil {
			n.links[other.Name] = n.newLink(other)
		}
	}
	for i := range n.cfg.Pairs {
		p := &n.cfg.Pairs[i]
		d, err := newDriver(p, n.cfg, n.opt.Platform, n.arb, n.id, n.links[p.Peer(n.cfg.Node).Name], n.boot, n.log, n.publish)
		if err != nil {
			return err
		}
		n.drivers[p.Name] = d
		n.order = append(n.order, p.Name)
	}
	for _, l := range n.links {
		l.Start()
	}
	n.listener.Serve()
	n.api.serve()
	n.surface.serve()
	n.work.Go(func() { watchArbiter(n.ctx, n.arb, n.log) })
	return nil
}

func (n *Node) publish(e Event, routine bool) {
	n.hub.publish(e, routine)
	if routine {
		return
	}
	n.opt.Notify(fmt.Sprintf("STATUS=pair %s is %s: %s", e.Pair, e.State, e.Reason))
}

// each calls fn for every pair with this peer.
func (n *Node) each(peerName string, fn func(*driver)) {
	for _, name := range n.order {
		if d := n.drivers[name]; d.peer.Name == peerName {
			fn(d)
		}
	}
}

func (n *Node) newLink(p config.PairNode) *peer.Link {
	return peer.NewLink(peer.LinkOptions{
		Self: n.cfg.Node, Peer: p.Name, Addrs: p.Addresses, Boot: n.boot, Version: n.opt.Version, Identity: n.id,
		Interval: n.cfg.Heartbeat.Interval.D(), Timeout: n.cfg.Heartbeat.Timeout.D(), Log: n.log,
		Up: func() {
			n.log.Info().Str("peer", p.Name).Msg("connected with the other node")
			n.each(p.Name, func(d *driver) { d.post(pair.PeerUp{Peer: p.Name}) })
		},
		Down: func(reason string) {
			n.log.Warn().Str("peer", p.Name).Msg("the other node is considered lost: " + reason)
			n.each(p.Name, func(d *driver) { d.post(pair.PeerDown{Peer: p.Name, Reason: reason}) })
		},
		Message: func(name, kind string, body []byte) {
			d := n.drivers[name]
			if d == nil || d.peer.Name != p.Name {
				n.log.Warn().Str("peer", p.Name).Str("pair", name).Msg("message about a pair that the two nodes do not share; compare the configurations")
				return
			}
			d.onMessage(kind, body)
		},
	})
}

// handshakeTimeout bounds TLS and greeting of an incoming connection.
const handshakeTimeout = 10 * time.Second

func (n *Node) peers() []string {
	var names []string
	for name := range n.links {
		names = append(names, name)
	}
	return names
}

// secure makes TLS of an accepted connection and returns the peer's name.
func (n *Node) secure(ctx context.Context, raw net.Conn) (*tls.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, n.id.Server(n.peers()))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, "", fmt.Errorf("secure the connection: %w", err)
	}
	name, err := certs.PeerName(conn.ConnectionState())
	if err != nil {
		raw.Close()
		return nil, "", err
	}
	return conn, name, nil
}

func (n *Node) refused(class peer.Class, raw net.Conn, err error) {
	n.log.Warn().Err(err).Stringer("class", class).Stringer("from", raw.RemoteAddr()).Msg("connection refused")
}

func (n *Node) handleCtl(ctx context.Context, raw net.Conn, _ bool) {
	conn, name, err := n.secure(ctx, raw)
	if err != nil {
		n.refused(peer.ClassCtl, raw, err)
		return
	}
	n.links[name].Accept(conn)
}

func (n *Node) handleNet(ctx context.Context, raw net.Conn, _ bool) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d *driver
	var number uint64
	link, err := n.opt.Platform.Link(ctx, raw, n.id.Server(n.peers()), true, proxy.Hello{}, func(h proxy.Hello) error {
		d, number = n.drivers[h.Pair], h.Session
		if d == nil {
			return fmt.Errorf("pair %q is not known here", h.Pair)
		}
		return d.expectsLink(h)
	})
	if err != nil {
		n.refused(peer.ClassNet, raw, err)
		return
	}
	if link.PeerName() != d.peer.Name {
		link.Close()
		n.refused(peer.ClassNet, raw, fmt.Errorf("node %q is not the other node of pair %s", link.PeerName(), d.cfg.Name))
		return
	}
	d.acceptLink(link, number)
}

func (n *Node) handleState(ctx context.Context, raw net.Conn, plain bool) {
	if err := n.takeState(ctx, raw, plain); err != nil {
		n.refused(peer.ClassState, raw, err)
		raw.Close()
	}
}

func (n *Node) takeState(ctx context.Context, raw net.Conn, plain bool) error {
	conn, name := raw, ""
	if !plain {
		t, peerName, err := n.secure(ctx, raw)
		if err != nil {
			return err
		}
		conn, name = t, peerName
	}
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	g, err := readStateGreeting(conn)
	if err != nil {
		return err
	}
	d := n.drivers[g.pair]
	switch {
	case d == nil:
		err = fmt.Errorf("pair %q is not known here", g.pair)
	case !plain && name != d.peer.Name:
		err = fmt.Errorf("node %q is not the other node of pair %s", name, g.pair)
	default:
		err = d.acceptState(ctx, conn, g, plain)
	}
	if err != nil {
		_ = writeStateAnswer(conn, err) // the connection ends anyway
	}
	return err
}

// rest brings all pairs to rest, within stopTimeout and the guests' grace.
func (n *Node) rest(withGuests bool) {
	var wg sync.WaitGroup
	for _, d := range n.drivers {
		wg.Go(func() {
			if withGuests {
				grace := d.cfg.VM.Grace.D()
				ctx, cancel := context.WithTimeout(context.Background(), grace+stopTimeout)
				if err := d.Ask(ctx, pair.OpStop, grace); err != nil {
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
	n.work.Wait()
	var errs []error
	if n.surface != nil {
		n.surface.stop()
	}
	if n.api != nil {
		errs = append(errs, n.api.close())
	}
	for _, l := range n.links {
		l.Close()
	}
	if n.listener != nil {
		if err := n.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, d := range n.drivers {
		errs = append(errs, d.close())
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
	for _, name := range n.order {
		if p, ok := n.pairStatus(name); ok {
			st.Pairs = append(st.Pairs, p)
		}
	}
	return st
}

func (n *Node) pairStatus(name string) (PairStatus, bool) {
	d := n.drivers[name]
	if d == nil {
		return PairStatus{}, false
	}
	st, ok := d.status()
	if link := n.links[d.peer.Name]; link != nil {
		st.Peer.RTTUS = us(link.RTT())
		st.Peer.Version = link.PeerVersion()
	}
	return st, ok
}

// watchdog tells systemd that the drivers' loops turn. The returned function
// ends it.
func (n *Node) watchdog() func() {
	every := watchdogInterval()
	if every == 0 {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			alive := true
			for _, d := range n.drivers {
				alive = alive && d.call(func() {})
			}
			if alive {
				n.opt.Notify("WATCHDOG=1")
			}
		}
	})
	return func() { close(done); wg.Wait() }
}
