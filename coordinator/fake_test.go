package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/config"
	"colod/proxy"
	"colod/qmp"
)

// fakeHosts is the world in which nodes of a test live: VMs that are no
// more than their monitor, and data paths that are no more than their role.
// Links, state relays and everything of the coordinator are real.
type fakeHosts struct {
	mu  sync.Mutex
	vms map[string]*fakeVM // by directory
	all []*fakeVM
}

func newFakeHosts() *fakeHosts { return &fakeHosts{vms: map[string]*fakeVM{}} }

// fakePlatform is one node's part of it.
type fakePlatform struct {
	*Host
	hosts *fakeHosts

	mu        sync.Mutex
	launchErr error
	data      *fakeData
	paths     []string // what was done with the path
	facts     HostFacts
}

func newFakePlatform(cfg *config.Config, hosts *fakeHosts) *fakePlatform {
	return &fakePlatform{Host: NewHost(cfg), hosts: hosts, facts: HostFacts{
		QEMU: "7.2.0", Machines: []string{"pc"}, Models: []string{"qemu64"}, Accel: []string{"tcg"},
	}}
}

type fakePath struct{ p *fakePlatform }

func (f fakePath) SetMode(m proxy.Mode) error {
	f.p.note(m.String())
	return nil
}
func (f fakePath) Detach() error { f.p.note("detach"); return nil }
func (f fakePath) Remove() error { f.p.note("remove"); return nil }

func (p *fakePlatform) note(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths = append(p.paths, s)
}

func (p *fakePlatform) OpenPath(*config.Pair) (Path, error) { return fakePath{p}, nil }

func (p *fakePlatform) OpenDataPath(_ *config.Pair, _ Path, _ zerolog.Logger, events func(proxy.Event)) (DataPath, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.data = &fakeData{events: events, role: "idle"}
	return p.data, nil
}

func (p *fakePlatform) dataPath() *fakeData {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.data
}

// fakeData is a data path: it follows the rules of package proxy on which
// call is possible in which role.
type fakeData struct {
	events func(proxy.Event)

	mu      sync.Mutex
	role    string
	link    NetLink
	count   func(*proxy.Stats) // what it has counted; nil: next to nothing
	stopped int
	resumed int
}

func (d *fakeData) become(role string, from ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range from {
		if d.role == f {
			d.role = role
			if d.link != nil && role != "primary" && role != "secondary" {
				d.link.Close()
				d.link = nil
			}
			return nil
		}
	}
	return fmt.Errorf("become %s from %s: %w", role, d.role, proxy.ErrRole)
}

func (d *fakeData) Solo(context.Context) error { return d.become("solo", "idle", "muted", "solo") }
func (d *fakeData) Mute(context.Context) error {
	return d.become("muted", "idle", "muted", "solo", "primary", "secondary")
}
func (d *fakeData) GoSolo(context.Context) error  { return d.become("solo", "primary") }
func (d *fakeData) Promote(context.Context) error { return d.become("solo", "secondary") }

func (d *fakeData) StartPrimary(_ context.Context, l NetLink, _ proxy.Session) error {
	if err := d.become("primary", "solo", "primary"); err != nil {
		l.Close()
		return err
	}
	d.mu.Lock()
	d.link = l
	d.mu.Unlock()
	return nil
}

func (d *fakeData) StartSecondary(_ context.Context, l NetLink, _ proxy.Session) error {
	if err := d.become("secondary", "idle", "muted", "secondary"); err != nil {
		l.Close()
		return err
	}
	d.mu.Lock()
	d.link = l
	d.mu.Unlock()
	return nil
}

func (d *fakeData) BeginCheckpoint(context.Context, uint64) error {
	return d.become("primary", "primary")
}
func (d *fakeData) EndCheckpoint(context.Context, uint64, time.Time) error {
	return d.become("primary", "primary")
}
func (d *fakeData) Stopped(uint64, time.Time)       {}
func (d *fakeData) SetCheckpointCost(time.Duration) {}
func (d *fakeData) SetBuffered(bool)                {}
func (d *fakeData) Announce()                       {}

func (d *fakeData) SecondaryStopped(time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped++
}

func (d *fakeData) SecondaryResumed(time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resumed++
}

func (d *fakeData) Stats() proxy.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := proxy.Stats{Role: d.role, Mode: "pass", ReleasedFrames: 1}
	if d.count != nil {
		d.count(&s)
	}
	return s
}

func (d *fakeData) Waits() (uint64, time.Duration) { return 0, 0 }
func (d *fakeData) WarmUp() time.Duration          { return 0 }

func (d *fakeData) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link != nil {
		d.link.Close()
		d.link = nil
	}
	return nil
}

// fakeVM is a QEMU without a guest.
type fakeVM struct {
	hosts *fakeHosts
	dir   string
	id    int

	mu       sync.Mutex
	alive    bool
	hung     bool
	paused   bool
	incoming bool
	subs     map[chan qmp.Event]bool
	died     chan struct{}
	report   string
	peer     *fakeVM
	primary  bool
	stream   net.Conn
	listener net.Listener
	left     bool // out of COLO by LostHeartbeat
}

func (p *fakePlatform) LaunchVM(_ context.Context, _ *config.Pair, dir string, incoming bool) (VM, error) {
	p.mu.Lock()
	err := p.launchErr
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h := p.hosts
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.vms[dir]; old != nil && old.lives() {
		return nil, qmp.ErrVMRunning
	}
	v := &fakeVM{hosts: h, dir: dir, id: len(h.all), alive: true, incoming: incoming, subs: map[chan qmp.Event]bool{}, died: make(chan struct{})}
	h.all = append(h.all, v)
	h.vms[dir] = v
	return v, nil
}

func (p *fakePlatform) AdoptVM(_ context.Context, dir string) (VM, error) {
	h := p.hosts
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.vms[dir]; v != nil && v.lives() {
		return v, nil
	}
	return nil, qmp.ErrNoVM
}

func (p *fakePlatform) Facts(context.Context, string) HostFacts { return p.facts }

func (p *fakePlatform) EndStale(context.Context, string) error { return nil }

func (h *fakeHosts) vm(dir string) *fakeVM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vms[dir]
}

func (v *fakeVM) lives() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.alive
}

func (v *fakeVM) PID() int             { return os.Getpid() }
func (v *fakeVM) Version() qmp.Version { return qmp.Version{Major: 7, Minor: 2} }

func (v *fakeVM) Events() (<-chan qmp.Event, func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ch := make(chan qmp.Event, 1024)
	if !v.alive {
		close(ch)
		return ch, func() {}
	}
	v.subs[ch] = true
	return ch, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.subs[ch] {
			delete(v.subs, ch)
			close(ch)
		}
	}
}

// emit sends an event and returns its time.
func (v *fakeVM) emit(name string, data any) time.Time {
	b, _ := json.Marshal(data)
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	for ch := range v.subs {
		ch <- qmp.Event{Name: name, Time: now, Data: b}
	}
	return now
}

func (v *fakeVM) Died() <-chan struct{} { return v.died }
func (v *fakeVM) DeathReport() string   { return "fake VM ended: " + v.report }

// die ends the VM; its peer in COLO sees the stream end.
func (v *fakeVM) die(report string) {
	v.mu.Lock()
	if !v.alive {
		v.mu.Unlock()
		return
	}
	v.alive, v.report = false, report
	subs := v.subs
	v.subs = nil
	for ch := range subs {
		close(ch)
	}
	close(v.died)
	v.mu.Unlock()
	v.breakStream()
}

func (v *fakeVM) breakStream() {
	v.mu.Lock()
	s, l, peer := v.stream, v.listener, v.peer
	v.stream, v.listener, v.peer = nil, nil, nil
	v.mu.Unlock()
	if s != nil {
		s.Close()
	}
	if l != nil {
		l.Close()
	}
	if peer != nil {
		peer.mu.Lock()
		tell := peer.alive && peer.peer == v && !peer.primary
		peer.mu.Unlock()
		if tell {
			peer.emit(qmp.EventColoExit, map[string]string{"mode": "secondary", "reason": "error"})
		}
	}
}

func (v *fakeVM) PrepareSecondary(_ context.Context, sock string) error {
	l, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.listener = l
	v.mu.Unlock()
	go func() {
		c, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		var id int
		if _, serr := fmt.Sscanf(line, "state of %d", &id); err != nil || serr != nil {
			c.Close()
			return
		}
		v.hosts.mu.Lock()
		p := v.hosts.all[id]
		v.hosts.mu.Unlock()
		v.mu.Lock()
		v.peer, v.primary, v.stream = p, false, c
		v.mu.Unlock()
		v.emit(qmp.EventResume, nil)
		_, _ = c.Write([]byte{0, 0, 0, 0}) // COLO's "ready"
	}()
	return nil
}

func (v *fakeVM) StartColo(ctx context.Context, sock string) (time.Time, error) {
	c, err := net.Dial("unix", sock)
	if err != nil {
		return time.Time{}, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	fmt.Fprintf(c, "state of %d\n", v.id)
	if _, err := c.Read(make([]byte, 4)); err != nil {
		c.Close()
		return time.Time{}, fmt.Errorf("migration failed: %w", err)
	}
	v.hosts.mu.Lock()
	var s *fakeVM
	for _, x := range v.hosts.all {
		x.mu.Lock()
		if x.peer == v && x.alive {
			s = x
		}
		x.mu.Unlock()
	}
	v.hosts.mu.Unlock()
	if s == nil {
		c.Close()
		return time.Time{}, errors.New("no secondary")
	}
	v.mu.Lock()
	v.peer, v.primary, v.stream = s, true, c
	v.mu.Unlock()
	v.emit(qmp.EventStop, nil)
	return v.emit(qmp.EventResume, nil), nil
}

func (v *fakeVM) TriggerCheckpoint(context.Context) error {
	v.mu.Lock()
	s, hung := v.peer, v.hung
	v.mu.Unlock()
	if hung {
		return qmp.ErrNoReply
	}
	if s == nil || !s.lives() {
		v.emit(qmp.EventColoExit, map[string]string{"mode": "primary", "reason": "error"})
		return nil
	}
	go func() {
		s.emit(qmp.EventStop, nil)
		v.emit(qmp.EventStop, nil)
		time.Sleep(time.Millisecond)
		s.emit(qmp.EventResume, nil)
		v.emit(qmp.EventResume, nil)
	}()
	return nil
}

func (v *fakeVM) LostHeartbeat(context.Context) (time.Time, error) {
	v.mu.Lock()
	alive, hung := v.alive, v.hung
	v.left = true
	v.mu.Unlock()
	if !alive || hung {
		return time.Time{}, qmp.ErrNoReply
	}
	v.breakStream()
	return time.Now(), nil
}

func (v *fakeVM) ForgetColo(context.Context) error { return nil }

func (v *fakeVM) QueryStatus(context.Context) (qmp.Status, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.hung || !v.alive {
		return qmp.Status{}, qmp.ErrNoReply
	}
	if v.paused {
		return qmp.Status{Status: "paused"}, nil
	}
	return qmp.Status{Status: "running", Running: true}, nil
}

func (v *fakeVM) SystemPowerdown(context.Context) error {
	v.powerOff()
	return nil
}

// powerOff is the guest's own wish.
func (v *fakeVM) powerOff() {
	v.emit(qmp.EventShutdown, map[string]any{"guest": true, "reason": "guest-shutdown"})
	v.die("exit status 0")
}

func (v *fakeVM) SystemReset(context.Context) error {
	v.emit(qmp.EventReset, map[string]any{"guest": false, "reason": "host-qmp-system-reset"})
	return nil
}

// Stop and Cont are an operator's, through colod or behind its back.
func (v *fakeVM) Stop(context.Context) error {
	v.mu.Lock()
	v.paused = true
	v.mu.Unlock()
	v.emit(qmp.EventStop, nil)
	return nil
}

func (v *fakeVM) Cont(context.Context) error {
	v.mu.Lock()
	v.paused = false
	v.mu.Unlock()
	v.emit(qmp.EventResume, nil)
	return nil
}

func (v *fakeVM) TapFD(string) (*os.File, error) { return os.Open(os.DevNull) }
func (v *fakeVM) Kill(context.Context) error     { v.die("signal: killed"); return nil }
func (v *fakeVM) Remove() error                  { return nil }
func (v *fakeVM) Close() error                   { return nil }

var (
	_ VM       = (*fakeVM)(nil)
	_ DataPath = (*fakeData)(nil)
	_ Platform = (*fakePlatform)(nil)
)
