package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

// Config describes the path of one guest. All devices are those of the network namespace of the thread that calls Open.
type Config struct {
	// Bridge is the bridge which clients are reached by. It must exist; nothing of it is changed but for one port more.
	Bridge string
	// Tap is the guest's tap. If it does not exist, a persistent one is made: virtio-net header, one queue, for QEMU's
	// `-netdev tap,ifname=NAME,script=no,downscript=no,vhost=off`.
	Tap string
	// Uplink is the name of the device by which frames come from and go to the bridge. The bridge's port is named
	// Uplink + "br", so that Uplink has at most 13 characters.
	Uplink string
	// MTU in bytes of tap, uplink and port; 0 means the bridge's. A port with a smaller one would lower the bridge's.
	MTU int
	// Owner is the name under which devices are marked (by their alias) and found again, such as the pair's name: 1 to 200
	// printable characters.
	Owner string
	// Dir holds lock and journal; empty means DefaultDir.
	Dir string
	// Running allows a tap which is not ours and has a reader: the guest is running already. It must not be the port of
	// a bridge.
	Running bool
}

// PortName is the name of the bridge's port.
func (c Config) PortName() string { return c.Uplink + "br" }

// maxName is the longest name of a device (IFNAMSIZ without the end).
const maxName = unix.IFNAMSIZ - 1

// Check says what is wrong with a configuration by itself.
func (c Config) Check() error {
	var errs []error
	names := []struct{ key, name string }{{"bridge", c.Bridge}, {"tap", c.Tap}, {"uplink", c.Uplink}}
	for i, n := range names {
		limit := maxName
		if n.key == "uplink" {
			limit = maxName - len("br")
		}
		switch {
		case n.name == "":
			errs = append(errs, fmt.Errorf("no name of the %s is given", n.key))
		case len(n.name) > limit:
			errs = append(errs, fmt.Errorf("%s %q: the name has %d characters, at most %d are possible", n.key, n.name, len(n.name), limit))
		case strings.ContainsAny(n.name, "/:% \t\n") || n.name == "." || n.name == "..":
			errs = append(errs, fmt.Errorf("%s %q: no name of a network device", n.key, n.name))
		}
		for _, o := range names[:i] {
			if n.name != "" && (o.name == n.name || o.name == c.PortName()) {
				errs = append(errs, fmt.Errorf("%s and %s have the same name %q", o.key, n.key, n.name))
			}
		}
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65521) {
		errs = append(errs, fmt.Errorf("MTU %d is not between 576 and 65521", c.MTU))
	}
	if c.Owner == "" || len(c.Owner) > 200 || strings.ContainsFunc(c.Owner, func(r rune) bool { return r <= ' ' || r == ':' || r == 0x7f }) {
		errs = append(errs, fmt.Errorf("owner %q: 1 to 200 characters without spaces and colons are possible", c.Owner))
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Op: "check", Device: "path " + c.Tap, Err: err}
	}
	return nil
}

// Path is the way between a guest's tap and the bridge. Its methods may be called by many goroutines, on any thread.
type Path struct {
	cfg Config
	ns  *os.File // the network namespace of the devices

	mu     sync.Mutex
	rules  *rules
	links  *links
	record *journal
	guest  hook // ingress of the tap: frames from the guest
	client hook // ingress of the uplink: frames to the guest
	mode   Mode // 0 after a change that failed half way
	closed bool
}

var errClosed = errors.New("the path was detached or removed")

// Open makes the path, or takes over what an earlier process of the same owner left: devices and filters stay as they
// are where they are whole, so that traffic goes on, and Mode tells what they do. A new path, and one that was not
// whole, starts as Mute. A failed Open takes back what it did.
//
// It refuses with ErrForeign, ErrBusy or ErrMissing, before it changes anything, what it must not touch.
func Open(c Config) (*Path, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p, err := newPath(c)
	if err != nil {
		return nil, err
	}
	fresh := len(p.record.steps) == 0
	if err := p.build(); err != nil {
		if fresh {
			err = errors.Join(err, p.undo())
		} else {
			p.release()
		}
		return nil, err
	}
	return p, nil
}

// newPath takes the lock and opens the sockets.
func newPath(c Config) (*Path, error) {
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	ns, err := namespaceID()
	if err != nil {
		return nil, &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	p := &Path{cfg: c}
	if p.ns, err = os.Open(threadNS); err != nil {
		return nil, &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	if p.record, err = openJournal(c.Dir, journalBase(ns, c.Tap)); err != nil {
		p.ns.Close()
		return nil, &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	if p.rules, err = openRules(); err == nil {
		p.links, err = openLinks()
	}
	if err != nil {
		p.release()
		return nil, &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	return p, nil
}

// release gives up lock and sockets.
func (p *Path) release() {
	p.closed = true
	if p.rules != nil {
		p.rules.close()
	}
	if p.links != nil {
		p.links.close()
	}
	p.record.close()
	p.ns.Close()
}

// inside runs f on a thread that is in the path's network namespace: /proc/sys/net shows that of the thread.
func (p *Path) inside(f func() error) error {
	here, err := os.Stat(threadNS)
	if err != nil {
		return err
	}
	if there, err := p.ns.Stat(); err == nil && os.SameFile(here, there) {
		return f()
	}
	return osthread.Throwaway(func() error {
		if err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace of %s: %w", p.cfg.Tap, err)
		}
		return f()
	})
}

// build looks at what is there, refuses what must not be touched, and makes the rest.
func (p *Path) build() error {
	c := &p.cfg
	br, err := p.links.bridge(c.Bridge)
	if err != nil {
		return err
	}
	if c.MTU == 0 {
		c.MTU = br.Attrs().MTU
	}
	h := header{Owner: c.Owner, Tap: c.Tap, Uplink: c.Uplink}
	if p.record.head != (header{}) && p.record.head != h {
		return &Error{Op: "open path of", Device: c.Tap,
			Err:  fmt.Errorf("it %w: %s has it with uplink %s", ErrForeign, p.record.head.Owner, p.record.head.Uplink),
			Cure: "end that pair, or have its remains removed first"}
	}
	tap, err := p.links.find(c.Tap)
	if err != nil {
		return err
	}
	mine := tap != nil && (tap.Attrs().Alias == madeAlias(c.Owner) || tap.Attrs().Alias == adoptedAlias(c.Owner))
	if tap != nil && !mine && !p.halfMade(tap) {
		if err := p.links.checkTap(tap, c.Running); err != nil {
			return err
		}
	}
	uplink, err := p.ownVeth(c.Uplink)
	if err != nil {
		return err
	}
	port, err := p.ownVeth(c.PortName())
	if err != nil {
		return err
	}
	if tap != nil {
		if err := p.rules.foreign(hook{device: c.Tap, index: uint32(tap.Attrs().Index)}); err != nil {
			return err
		}
	}
	if err := p.record.begin(h); err != nil {
		return &Error{Op: "open path of", Device: c.Tap, Err: err}
	}
	marked := func(l netlink.Link) bool { return l != nil && l.Attrs().Alias != "" }
	if !marked(uplink) || !marked(port) || port.Attrs().MasterIndex != br.Attrs().Index {
		if uplink, port, err = p.makeUplink(br); err != nil {
			return err
		}
	}
	if tap, err = p.takeTap(tap); err != nil {
		return err
	}
	p.guest = hook{c.Tap, uint32(tap.Attrs().Index), uint32(uplink.Attrs().Index)}
	p.client = hook{c.Uplink, uint32(uplink.Attrs().Index), uint32(tap.Attrs().Index)}
	if err := p.adoptRules(tap); err != nil {
		return err
	}
	for _, l := range []netlink.Link{port, uplink, tap} {
		if err := set("set up", l.Attrs().Name, p.links.nl.LinkSetUp(l)); err != nil {
			return err
		}
	}
	p.links.awaitUp(port, uplink)
	return nil
}

// halfMade says whether an unmarked device is one that an earlier process made for this path and died before it could
// mark it: the journal announces it (a port by its uplink), and it is down.
func (p *Path) halfMade(link netlink.Link) bool {
	a := link.Attrs()
	name := a.Name
	if name == p.cfg.PortName() {
		name = p.cfg.Uplink
	}
	kind := "veth"
	if name == p.cfg.Tap {
		kind = "tuntap"
	}
	announced := slices.ContainsFunc(p.record.steps, func(s step) bool { return s.Undo == undoDelete && s.Link == name })
	return announced && link.Type() == kind && a.Alias == "" && a.RawFlags&unix.IFF_UP == 0
}

// ownVeth returns a device of the path's veth pair, or nil if there is none of that name. One of somebody else is
// refused.
func (p *Path) ownVeth(name string) (netlink.Link, error) {
	link, err := p.links.find(name)
	if link == nil || err != nil {
		return nil, err
	}
	if link.Type() == "veth" && link.Attrs().Alias == madeAlias(p.cfg.Owner) {
		return link, nil
	}
	if p.halfMade(link) {
		return link, nil
	}
	e := &Error{Op: "create", Device: name, Err: fmt.Errorf("the name is taken by a %s that %w", link.Type(), ErrForeign),
		Cure: "choose another name in network.uplink, or delete the device"}
	if a := link.Attrs().Alias; a != "" {
		e.Err = fmt.Errorf("the name is taken by a %s that %w: its alias is %q", link.Type(), ErrForeign, a)
	}
	return nil, e
}

// makeUplink makes the veth pair and the bridge's port, both down and without a host that speaks on them.
func (p *Path) makeUplink(br netlink.Link) (uplink, port netlink.Link, err error) {
	c := &p.cfg
	if _, err := p.links.delete(c.Uplink, c.Owner); err != nil {
		return nil, nil, err
	}
	if err := p.record.record(step{Undo: undoDelete, Link: c.Uplink}); err != nil {
		return nil, nil, &Error{Op: "create veth", Device: c.Uplink, Err: err}
	}
	if err := p.links.makeUplink(c.Uplink, c.PortName(), c.MTU); err != nil {
		return nil, nil, err
	}
	if uplink, err = p.links.find(c.Uplink); err == nil {
		port, err = p.links.find(c.PortName())
	}
	if err == nil && (uplink == nil || port == nil) {
		err = &Error{Op: "create veth", Device: c.Uplink, Err: ErrGone}
	}
	if err != nil {
		return nil, nil, err
	}
	for _, l := range []netlink.Link{uplink, port} {
		if err := set("mark", l.Attrs().Name, p.links.nl.LinkSetAlias(l, madeAlias(c.Owner))); err != nil {
			return nil, nil, err
		}
		if err := p.links.quiet(l); err != nil {
			return nil, nil, err
		}
	}
	if err := p.links.nl.LinkSetMasterByIndex(port, br.Attrs().Index); err != nil {
		return nil, nil, &Error{Op: "make " + c.PortName() + " a port of", Device: c.Bridge, Err: err}
	}
	return uplink, port, p.links.floodMulticast(port)
}

// takeTap makes the tap, or adopts the one that is there, and gives it our settings.
func (p *Path) takeTap(tap netlink.Link) (netlink.Link, error) {
	c := &p.cfg
	nl := p.links.nl
	alias := madeAlias(c.Owner)
	switch {
	case tap == nil:
		if err := p.record.record(step{Undo: undoDelete, Link: c.Tap}); err != nil {
			return nil, &Error{Op: "create tap", Device: c.Tap, Err: err}
		}
		if err := p.links.makeTap(c.Tap); err != nil {
			return nil, err
		}
		var err error
		if tap, err = p.links.find(c.Tap); err != nil {
			return nil, err
		}
		if tap == nil {
			return nil, &Error{Op: "create tap", Device: c.Tap, Err: ErrGone}
		}
	case tap.Attrs().Alias == alias || tap.Attrs().Alias == "" && p.halfMade(tap):
	default:
		alias = adoptedAlias(c.Owner)
		if tap.Attrs().Alias != alias {
			s := step{Undo: undoRestore, Link: c.Tap, Index: tap.Attrs().Index, Was: p.links.settings(tap)}
			if err := p.record.record(s); err != nil {
				return nil, &Error{Op: "adopt tap", Device: c.Tap, Err: err}
			}
		}
	}
	if err := p.links.quiet(tap); err != nil {
		return nil, err
	}
	a := tap.Attrs()
	if a.Alias != alias {
		if err := set("mark", c.Tap, nl.LinkSetAlias(tap, alias)); err != nil {
			return nil, err
		}
	}
	if a.MTU != c.MTU {
		if err := set(fmt.Sprintf("set MTU %d of", c.MTU), c.Tap, nl.LinkSetMTU(tap, c.MTU)); err != nil {
			return nil, err
		}
	}
	if a.TxQLen != TxQueueLen {
		if err := set(fmt.Sprintf("set queue length %d of", TxQueueLen), c.Tap, nl.LinkSetTxQLen(tap, TxQueueLen)); err != nil {
			return nil, err
		}
	}
	return tap, nil
}

// adoptRules takes over the filters that are there; where they are not those of a mode, it closes both hooks.
func (p *Path) adoptRules(tap netlink.Link) error {
	if tap.Attrs().Alias == adoptedAlias(p.cfg.Owner) || p.wasAdopted() {
		if err := p.record.record(step{Undo: undoClsact, Link: p.cfg.Tap, Index: tap.Attrs().Index}); err != nil {
			return &Error{Op: "add clsact to", Device: p.cfg.Tap, Err: err}
		}
	}
	for _, h := range []hook{p.guest, p.client} {
		if _, err := p.rules.clsact(h); err != nil {
			return err
		}
		if err := p.rules.foreign(h); err != nil {
			return err
		}
	}
	g, err := p.rules.look(p.guest)
	if err != nil {
		return err
	}
	k, err := p.rules.look(p.client)
	if err != nil {
		return err
	}
	for _, m := range []Mode{Pass, Steal, Mute} {
		fromGuest, toGuest := m.open()
		if g.settled(fromGuest) && k.settled(toGuest) {
			p.mode = m
			return nil
		}
	}
	return p.setMode(Mute)
}

// wasAdopted says whether the tap existed before us.
func (p *Path) wasAdopted() bool {
	for _, s := range p.record.steps {
		if s.Undo == undoRestore {
			return true
		}
	}
	return false
}

// settled says whether a hook is exactly open, or exactly closed.
func (s state) settled(open bool) bool {
	if open {
		return s.rule[redirect] && !s.rule[drop] && !s.stale
	}
	return s.rule[drop] && !s.rule[redirect]
}

// SetMode changes who carries the frames. See the package comment for what can happen to a frame meanwhile. When it
// fails, every hook that was to be closed is closed or as it was, no hook was opened that was to be closed, Mode is 0,
// and SetMode can be called again. ErrGone says that a device was deleted.
func (p *Path) SetMode(m Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return &Error{Op: "set mode " + m.String() + " of", Device: p.cfg.Tap, Err: errClosed}
	}
	if m < Pass || m > Mute {
		return &Error{Op: "set mode of", Device: p.cfg.Tap, Err: fmt.Errorf("%v does not exist", m)}
	}
	return p.setMode(m)
}

func (p *Path) setMode(m Mode) error {
	if p.mode == m {
		return nil
	}
	haveFrom, haveTo := p.mode.open()
	unknown := p.mode == 0
	p.mode = 0
	from, to := m.open()
	// What closes goes first, the guest's output before its input; what opens goes last, its output at the very end.
	type change struct {
		h    hook
		open bool
		need bool
	}
	for _, c := range []change{
		{p.guest, false, !from && (unknown || haveFrom)},
		{p.client, false, !to && (unknown || haveTo)},
		{p.client, true, to && (unknown || !haveTo)},
		{p.guest, true, from && (unknown || !haveFrom)},
	} {
		if !c.need {
			continue
		}
		f := p.rules.setClosed
		if c.open {
			f = p.rules.setOpen
		}
		if err := f(c.h); err != nil {
			return err
		}
	}
	p.mode = m
	return nil
}

// Mode is the mode that was set last, or found by Open (Mute for StealBoth: the kernel does not tell them apart); 0 after
// a SetMode that failed.
func (p *Path) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// Tap is the guest's tap, Uplink the device to send its released frames out of.
func (p *Path) Tap() string    { return p.cfg.Tap }
func (p *Path) Uplink() string { return p.cfg.Uplink }

// Verify compares the kernel with what this path believes: devices, bridge port, filters. Its error says what differs.
func (p *Path) Verify() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return &Error{Op: "verify path of", Device: p.cfg.Tap, Err: errClosed}
	}
	br, err := p.links.bridge(p.cfg.Bridge)
	if err != nil {
		return err
	}
	port, err := p.links.find(p.cfg.PortName())
	if err != nil {
		return err
	}
	if port == nil || port.Attrs().MasterIndex != br.Attrs().Index {
		return &Error{Op: "verify bridge port", Device: p.cfg.PortName(), Err: fmt.Errorf("it is no port of %s", p.cfg.Bridge),
			Cure: "remove the path and open it again"}
	}
	from, to := p.mode.open()
	for _, c := range []struct {
		h    hook
		open bool
	}{{p.guest, from}, {p.client, to}} {
		link, err := p.links.find(c.h.device)
		if err != nil {
			return err
		}
		if link == nil || link.Attrs().Index != int(c.h.index) {
			return &Error{Op: "verify", Device: c.h.device, Err: fmt.Errorf("%w (index %d)", ErrGone, c.h.index),
				Cure: "remove the path and open it again"}
		}
		if link.Attrs().RawFlags&unix.IFF_UP == 0 {
			return &Error{Op: "verify", Device: c.h.device, Err: errors.New("it is down"), Cure: "ip link set " + c.h.device + " up"}
		}
		if err := p.rules.foreign(c.h); err != nil {
			return err
		}
		s, err := p.rules.look(c.h)
		if err != nil {
			return err
		}
		if p.mode != 0 && !s.settled(c.open) {
			return &Error{Op: "verify filters of", Device: c.h.device, Err: fmt.Errorf("they are not those of mode %v: %v", p.mode, s)}
		}
	}
	return nil
}

func (s state) String() string {
	var words []string
	for v, there := range s.rule {
		if there {
			words = append(words, fmt.Sprintf("%v (%s)", verdict(v), s.kind[v]))
		}
	}
	if s.stale {
		words = append(words, "redirect to a device that is gone")
	}
	if len(words) == 0 {
		return "no filter"
	}
	return strings.Join(words, ", ")
}

// TapDrops is the number of frames which the tap has lost since it was made because the guest did not read them in time
// and its queue of TxQueueLen was full. Packet sockets have seen them as if the guest had got them.
func (p *Path) TapDrops() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, &Error{Op: "read drops of", Device: p.cfg.Tap, Err: errClosed}
	}
	link, err := p.links.nl.LinkByIndex(int(p.guest.index))
	if err == nil && link.Attrs().Statistics == nil {
		err = errors.New("the kernel gave no statistics")
	}
	if err != nil {
		return 0, &Error{Op: "read drops of", Device: p.cfg.Tap, Err: err}
	}
	return link.Attrs().Statistics.TxDropped, nil
}

// Detach gives the path up as it is: devices and filters go on as in the present mode, and the next Open of the same
// owner finds them.
func (p *Path) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.release()
	}
	return nil
}

// Remove takes everything out again that Open and SetMode brought: the guest has no network afterwards, and nothing is
// left of the path. It goes on past errors and returns them all; what could not be undone stays in the journal for Clean.
func (p *Path) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	return p.undo()
}

// undo undoes the journal's steps and ends the path. The uplink goes first, then the rest, newest first: there is no
// moment at which the guest's frames could reach the bridge past the filters.
func (p *Path) undo() error {
	steps := slices.Clone(p.record.steps)
	slices.Reverse(steps)
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Compare(btoi(a.Link != p.record.head.Uplink), btoi(b.Link != p.record.head.Uplink))
	})
	var errs []error
	for _, s := range steps {
		errs = append(errs, p.undoStep(s))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = p.record.remove()
	}
	p.release()
	return err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (p *Path) undoStep(s step) error {
	switch s.Undo {
	case undoDelete:
		_, err := p.links.delete(s.Link, p.record.head.Owner)
		return err
	case undoRestore:
		return p.inside(func() error { return p.links.restore(s.Link, s.Index, s.Was) })
	case undoClsact:
		link, err := p.links.find(s.Link)
		if link == nil || err != nil || link.Attrs().Index != s.Index {
			return err
		}
		return p.rules.dropClsact(hook{device: s.Link, index: uint32(s.Index)})
	}
	return fmt.Errorf("undo %s of %s: no such step", s.Undo, s.Link)
}
