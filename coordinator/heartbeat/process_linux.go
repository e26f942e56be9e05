package heartbeat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/priority"
)

// A process that does much else is a bad place for heartbeats: when its garbage
// is collected, all of its threads wait for those that have no processor, for
// 100 ms and more on a loaded host. So the thread can have a process of its own,
// which makes hardly any garbage and has real-time priority as a whole. The two
// talk over a socket that keeps messages apart (SOCK_SEQPACKET), in JSON.

const (
	processFD = 3
	// feedEvery is how often the process is told that the one it serves runs,
	// feedLimit after what time without it falls silent.
	feedEvery = 100 * time.Millisecond
	feedLimit = 2 * time.Second
	// maxMessage bounds a message; eight paths make about 3 KiB.
	maxMessage   = 64 << 10
	startTimeout = 20 * time.Second
	callTimeout  = 10 * time.Second
	endTimeout   = 2 * time.Second
	memoryLimit  = 32 << 20 // bytes, of the process
	// Pauses before the process is started again: the first, the longest, and how
	// long one has to live for the next to be a first again.
	restartMin  = 20 * time.Millisecond
	restartMax  = 5 * time.Second
	restartCalm = time.Minute
)

// request goes to the process. One without a number is not answered.
type request struct {
	N     uint64           `json:"n,omitempty"`
	Op    string           `json:"op"`
	Set   *settings        `json:"set,omitempty"`
	Peer  string           `json:"peer,omitempty"`
	Addrs []netip.AddrPort `json:"addrs,omitempty"`
	Keys  *wireKeys        `json:"keys,omitempty"`
}

type wireKeys struct {
	ID         uint64
	Send, Recv [keySize]byte
}

// The operations.
const (
	opStart  = "start"
	opAdd    = "add"
	opRemove = "remove"
	opExpect = "expect"
	opUse    = "use"
	opLook   = "look"
)

// answer comes from the process: to a request, or with an event.
type answer struct {
	N    uint64     `json:"n,omitempty"`
	Err  string     `json:"err,omitempty"`
	Info *info      `json:"info,omitempty"`
	View *view      `json:"view,omitempty"`
	Ev   *wireEvent `json:"event,omitempty"`
}

// wireEvent is one event: exactly one part is there.
type wireEvent struct {
	PathUp   *PathUp   `json:",omitempty"`
	PathDown *PathDown `json:",omitempty"`
	PeerUp   *PeerUp   `json:",omitempty"`
	PeerDown *PeerDown `json:",omitempty"`
}

func toWire(e Event) *wireEvent {
	switch e := e.(type) {
	case PathUp:
		return &wireEvent{PathUp: &e}
	case PathDown:
		return &wireEvent{PathDown: &e}
	case PeerUp:
		return &wireEvent{PeerUp: &e}
	case PeerDown:
		return &wireEvent{PeerDown: &e}
	}
	return nil
}

func (w *wireEvent) event() Event {
	switch {
	case w.PathUp != nil:
		return *w.PathUp
	case w.PathDown != nil:
		return *w.PathDown
	case w.PeerUp != nil:
		return *w.PeerUp
	case w.PeerDown != nil:
		return *w.PeerDown
	}
	return nil
}

// process is the service's side that serves this process.
type process struct {
	command []string
	set     settings
	emit    func(Event)
	is      info
	quit    chan struct{}
	done    chan struct{}

	mu    sync.Mutex
	conn  *net.UnixConn // nil while there is no process
	pid   int
	n     uint64
	calls map[uint64]chan answer
	peers map[string][]netip.AddrPort
}

func startProcess(command []string, set settings, emit func(Event)) (*process, error) {
	set.Feed = feedLimit
	p := &process{
		command: command, set: set, emit: emit, quit: make(chan struct{}), done: make(chan struct{}),
		calls: map[uint64]chan answer{}, peers: map[string][]netip.AddrPort{},
	}
	cmd, err := p.launch()
	if err != nil {
		close(p.done)
		return nil, err
	}
	go p.keep(cmd)
	return p, nil
}

// launch starts the process and waits until it is ready.
func (p *process) launch() (*exec.Cmd, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "heartbeat"), os.NewFile(uintptr(fds[1]), "heartbeat")
	defer mine.Close()
	defer theirs.Close()
	c, err := net.FileConn(mine)
	if err != nil {
		return nil, err
	}
	conn := c.(*net.UnixConn)
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start process %q: %w", p.command, err)
	}
	theirs.Close()
	err = p.greet(conn)
	if err != nil {
		conn.Close()
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	p.mu.Lock()
	p.conn, p.pid = conn, cmd.Process.Pid
	p.mu.Unlock()
	return cmd, nil
}

func (p *process) greet(conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	if err := send(conn, &request{Op: opStart, Set: &p.set}); err != nil {
		return err
	}
	var a answer
	if err := receive(conn, make([]byte, maxMessage), &a); err != nil {
		return fmt.Errorf("wait for process %q: %w", p.command, err)
	}
	if a.Err != "" {
		return errors.New(a.Err)
	}
	if a.Info == nil {
		return fmt.Errorf("process %q says nothing of itself", p.command)
	}
	p.mu.Lock()
	p.is = *a.Info
	p.set.Listen = a.Info.Local // a port that was chosen stays
	p.mu.Unlock()
	return conn.SetDeadline(time.Time{})
}

// keep serves the process, and starts another one when it ends.
func (p *process) keep(cmd *exec.Cmd) {
	defer close(p.done)
	began, tries := time.Now(), 0
	for again := false; ; again = true {
		var wg sync.WaitGroup
		served := make(chan struct{})
		wg.Go(func() { p.feed(served) })
		if again {
			wg.Go(p.tellAgain)
		}
		p.serve()
		close(served)
		wg.Wait()
		end := time.AfterFunc(endTimeout, func() { _ = cmd.Process.Kill() }) // it has ended already, if this fails
		_ = cmd.Wait()                                                       // how it ended does not matter
		end.Stop()
		if time.Since(began) > restartCalm {
			tries = 0
		}
		for cmd = nil; cmd == nil; tries++ {
			select {
			case <-p.quit:
				return
			case <-time.After(min(restartMin<<min(tries, 10), restartMax)):
			}
			began = time.Now()
			cmd, _ = p.launch() // tried again
		}
	}
}

// tellAgain gives a new process the peers that the last one knew. Their keys are
// not told again, as the numbers of the packets begin anew.
func (p *process) tellAgain() {
	p.mu.Lock()
	peers := maps.Clone(p.peers)
	p.mu.Unlock()
	for name, addrs := range peers {
		if _, err := p.call(&request{Op: opAdd, Peer: name, Addrs: addrs}); err != nil {
			return // it has ended too
		}
	}
	p.emit(Restarted{})
}

// feed tells the process that this one runs.
func (p *process) feed(end <-chan struct{}) {
	t := time.NewTicker(feedEvery)
	defer t.Stop()
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
	if conn == nil {
		return // ended while it began
	}
	for {
		select {
		case <-end:
			return
		case <-t.C:
		}
		if _, err := conn.Write(meal); err != nil {
			return // the reading side ends too
		}
	}
}

// meal is the message that feeds.
var meal = []byte{'.'}

// serve reads what the process says until it ends.
func (p *process) serve() {
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
	if conn != nil {
		buf := make([]byte, maxMessage)
		for {
			var a answer
			if err := receive(conn, buf, &a); err != nil {
				break
			}
			p.take(&a)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
	for n, ch := range p.calls {
		delete(p.calls, n)
		ch <- answer{Err: errEnded.Error()}
	}
}

var errEnded = errors.New("the process of the heartbeats has ended")

func (p *process) take(a *answer) {
	if a.Ev != nil {
		if e := a.Ev.event(); e != nil {
			p.emit(e)
		}
		return
	}
	p.mu.Lock()
	ch := p.calls[a.N]
	delete(p.calls, a.N)
	p.mu.Unlock()
	if ch != nil {
		ch <- *a
	}
}

func (p *process) call(r *request) (answer, error) {
	ch := make(chan answer, 1)
	p.mu.Lock()
	conn := p.conn
	if conn == nil {
		p.mu.Unlock()
		select {
		case <-p.quit:
			return answer{}, ErrClosed
		default:
			return answer{}, errEnded
		}
	}
	p.n++
	r.N = p.n
	p.calls[r.N] = ch
	p.mu.Unlock()
	err := send(conn, r)
	if err == nil {
		t := time.NewTimer(callTimeout)
		defer t.Stop()
		select {
		case a := <-ch:
			if a.Err != "" {
				return a, errors.New(a.Err)
			}
			return a, nil
		case <-t.C:
			err = fmt.Errorf("the process of the heartbeats has not answered for %s", callTimeout)
		}
	}
	p.mu.Lock()
	delete(p.calls, r.N)
	p.mu.Unlock()
	return answer{}, err
}

func (p *process) info() info {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.is
}

func (p *process) addPeer(name string, addrs []netip.AddrPort) error {
	if _, err := p.call(&request{Op: opAdd, Peer: name, Addrs: addrs}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers[name] = addrs
	return nil
}

func (p *process) removePeer(name string) error {
	p.mu.Lock()
	delete(p.peers, name)
	p.mu.Unlock()
	_, err := p.call(&request{Op: opRemove, Peer: name})
	return err
}

func (p *process) expect(peer string, k Keys) error {
	_, err := p.call(&request{Op: opExpect, Peer: peer, Keys: &wireKeys{ID: k.ID, Send: k.send, Recv: k.recv}})
	return err
}

func (p *process) use(peer string, k Keys) error {
	_, err := p.call(&request{Op: opUse, Peer: peer, Keys: &wireKeys{ID: k.ID, Send: k.send, Recv: k.recv}})
	return err
}

func (p *process) look(peer string) (view, error) {
	a, err := p.call(&request{Op: opLook, Peer: peer})
	if err != nil || a.View == nil {
		return view{}, err
	}
	return *a.View, nil
}

func (p *process) close() {
	close(p.quit)
	for {
		p.mu.Lock()
		if p.conn != nil {
			_ = p.conn.Close() // the process ends with it; keep forgets it
		}
		p.mu.Unlock()
		select {
		case <-p.done:
			return
		case <-time.After(restartMax): // another one was just being launched
		}
	}
}

// ProcessMain is the whole of a process that was started by Options.Command. It
// returns when the process that it serves ends. Signals that ask for an end are
// ignored: that end follows from the other process's.
func ProcessMain() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// Next to nothing is allocated: what there is of garbage is collected every
	// hour or so.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	runtime.GOMAXPROCS(runtime.NumCPU() + priority.Spare)
	priority.Calm()
	file := os.NewFile(processFD, "heartbeat")
	c, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("serve heartbeats: %w; this is a part of colod run, not to be run by hand", err)
	}
	file.Close()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("serve heartbeats: descriptor %d is no unix socket; this is a part of colod run, not to be run by hand", processFD)
	}
	defer conn.Close()
	buf := make([]byte, maxMessage)
	var first request
	if err := receive(conn, buf, &first); err != nil {
		return fmt.Errorf("serve heartbeats: %w", err)
	}
	if first.Op != opStart || first.Set == nil {
		return fmt.Errorf("serve heartbeats: the first message is %q", first.Op)
	}
	events := newEventQueue(func(e Event) { _ = send(conn, &answer{Ev: toWire(e)}) }) // its reader sees the end too
	defer events.close()
	t, err := startThread(*first.Set, true, nil, events.put)
	if err != nil {
		return send(conn, &answer{Err: err.Error()})
	}
	defer t.close()
	is := t.info()
	is.Scheduling = raiseProcess(is.Scheduling)
	if err := send(conn, &answer{Info: &is}); err != nil {
		return nil // nobody to serve
	}
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return nil // the end
		}
		if n == len(meal) {
			t.feed()
			continue
		}
		a := t.answer(buf[:n])
		if err := send(conn, &a); err != nil {
			return nil
		}
	}
}

func (t *thread) answer(message []byte) answer {
	var r request
	if err := json.Unmarshal(message, &r); err != nil {
		return answer{Err: fmt.Sprintf("read request: %v", err)}
	}
	a := answer{N: r.N}
	var k Keys
	if r.Keys != nil {
		k = Keys{ID: r.Keys.ID, send: r.Keys.Send, recv: r.Keys.Recv}
	}
	var err error
	switch r.Op {
	case opAdd:
		err = t.addPeer(r.Peer, r.Addrs)
	case opRemove:
		err = t.removePeer(r.Peer)
	case opExpect:
		err = t.expect(r.Peer, k)
	case opUse:
		err = t.use(r.Peer, k)
	case opLook:
		var v view
		if v, err = t.look(r.Peer); err == nil {
			a.View = &v
		}
	default:
		err = fmt.Errorf("operation %q is not known", r.Op)
	}
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

func send(conn *net.UnixConn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d are possible", len(b), maxMessage)
	}
	_, err = conn.Write(b)
	return err
}

func receive(conn *net.UnixConn, buf []byte, v any) error {
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	return json.Unmarshal(buf[:n], v)
}
