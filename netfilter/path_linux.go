package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

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
