package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/pair"
	"colod/coordinator/placement"
	"colod/coordinator/statefile"
)

// peerSet is a set of nodes' names. Safe for use by many goroutines.
type peerSet struct {
	mu    sync.Mutex
	names []string
}

// add adds names; it reports whether one of them is new.
func (s *peerSet) add(names ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := false
	for _, n := range names {
		if !slices.Contains(s.names, n) {
			s.names = append(s.names, n)
			fresh = true
		}
	}
	return fresh
}

func (s *peerSet) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}

// shares reports whether the node has to do with the pair.
func (d *driver) shares(name string) bool { return d.known.has(name) }

// learn adds a node that has to do with the pair; it reports whether that is
// new.
func (d *driver) learn(name string) bool { return d.known.add(name) }

// leavePath breaks the session's connections with a node that go over a dead
// path.
func (d *driver) leavePath(name string, over func(local, remote net.Addr) bool) {
	if s := d.sessNow.Load(); s != nil && s.with == name {
		s.leave(over)
	}
}

// choose is called on the loop.
func (d *driver) choose(a pair.Choose) {
	all := d.net.candidates(a.Ready, a.Only)
	node, reason, refused := placement.Choose(d.needs(a.Last), all)
	ev := pair.Chosen{Op: a.Op, Peer: node, Reason: reason}
	switch {
	case node == "" && len(all) == 0:
		ev.Err = "no node is ready for it"
	case node == "":
		ev.Err = placement.Refusals(refused)
	case d.learn(node):
		d.post(pair.PeerUp{Peer: node})
	}
	d.log.Debug().Str("node", node).Str("reason", reason).Interface("refused", refused).Msg("a node for the secondary")
	d.post(ev)
}

// fenceOutput bounds what is kept of what the fencing command says.
const fenceOutput = 1 << 10

// fence runs the fencing command on a goroutine of its own, as it may take long.
func (d *driver) fence(a pair.Fence) {
	f := d.cfg.Fencing
	d.dog.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, f.Timeout.D())
		defer cancel()
		began := time.Now()
		args := make([]string, len(f.Command))
		for i, arg := range f.Command {
			args[i] = strings.NewReplacer("{node}", a.Node, "{pair}", d.cfg.Name).Replace(arg)
		}
		d.log.Warn().Str("node", a.Node).Strs("command", args).Msg("the lost node is being fenced")
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.WaitDelay = time.Second // whoever keeps its output open does not keep us
		out, err := cmd.CombinedOutput()
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("no end within %s: %w", f.Timeout, err)
		}
		ev, outcome := pair.FencedNode{Op: a.Op}, "done"
		if err != nil {
			ev.Err = fmt.Sprintf("%s: %v", args[0], err)
			if text := strings.TrimSpace(string(out[max(0, len(out)-fenceOutput):])); text != "" {
				ev.Err += "; it said: " + text
			}
			outcome = "failed"
		}
		d.log.WithLevel(map[bool]zerolog.Level{true: zerolog.InfoLevel, false: zerolog.ErrorLevel}[err == nil]).Str("node", a.Node).Dur("took_ms", time.Since(began)).
			Str("error", ev.Err).Msg("fencing " + outcome)
		d.audit.write(AuditEntry{
			Pair: d.cfg.Name, What: "fence", Who: AuditWho{Name: "colod"}, Args: map[string]any{"node": a.Node, "command": args},
			Outcome: outcome, Error: ev.Err, TookMS: time.Since(began).Milliseconds(),
		})
		d.post(ev)
	})
}

// maintained is the file in which the maintenance mode of a pair is kept.
type maintained struct {
	On    bool      `json:"on"`
	Why   string    `json:"why"`
	Rev   uint64    `json:"rev"`
	Since time.Time `json:"since"`
}

const maintainedKind = "colod-maintenance-1"

func (d *driver) maintainedFile() string { return filepath.Join(d.state, "maintenance") }

// maintain keeps the maintenance mode over a restart. It is called on the loop.
func (d *driver) maintain(a pair.Maintained) {
	if m := d.kept; m != nil && m.Rev == a.Rev && m.On == a.On {
		return // what was given back after a restart
	}
	m := &maintained{On: a.On, Why: a.Why, Rev: a.Rev, Since: time.Now()}
	d.kept = m
	d.hold(m)
	d.disk.do(func() {
		if err := statefile.Write(d.maintainedFile(), maintainedKind, m); err != nil {
			d.log.Error().Err(err).Msg("the maintenance mode will not survive a restart of colod")
		}
	})
}

// hold makes the mode visible.
func (d *driver) hold(m *maintained) {
	if m.On {
		d.held.Store(m)
	} else {
		d.held.Store(nil)
	}
}

// restoreMaintenance gives the machine back what was kept. A file that cannot
// be trusted counts as maintenance: what an operator may have held is not
// released by a disk's error.
func (d *driver) restoreMaintenance() {
	m := &maintained{}
	switch err := statefile.Read(d.maintainedFile(), maintainedKind, m); {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		d.log.Error().Err(err).Msg("the pair is taken to be in maintenance; end it with colod maintenance off")
		*m = maintained{On: true, Why: "what was kept of the maintenance mode cannot be read: " + clip(err.Error()), Rev: 1, Since: time.Now()}
	}
	d.kept = m
	d.hold(m)
	d.post(pair.Ask{Op: pair.OpMaintenance, On: m.On, Why: m.Why, Rev: m.Rev})
}

// forget removes what is kept of a guest that was deleted. It is called on the
// loop.
func (d *driver) forget() {
	d.vmLane.do(func() {
		if h := d.vm.Load(); h != nil {
			d.log.Error().Int("pid", h.PID()).Msg("a VM runs, its files are not removed")
			return
		}
		for _, dir := range []string{d.dir, d.state} {
			if err := os.RemoveAll(dir); err != nil {
				d.log.Warn().Err(err).Msg("cannot remove what is left of the guest")
			}
		}
		d.held.Store(nil)
		d.net.forgetPair(d.cfg.Name)
	})
}

// tellVM carries out one command on the VM; it runs on the VM's lane. The
// result is "" or why it did not work.
func (d *driver) tellVM(what string, fn func(VM, context.Context) error) string {
	h := d.vm.Load()
	if h == nil {
		return what + ": there is no VM"
	}
	ctx, cancel := context.WithTimeout(d.ctx, triggerTimeout)
	defer cancel()
	if err := fn(h, ctx); err != nil {
		return fmt.Sprintf("%s: %v", what, err)
	}
	return ""
}
