package datapath

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"colod/bench/rig"
	"colod/internal/conntest"
	"colod/internal/frame"
	"colod/internal/netnstest"
	"colod/internal/osthread"
	"colod/internal/priority"
	"colod/netfilter"
	"colod/proxy"
)

// A data path runs in a process of its own, as in service: in one process two of them, and what stands in for QEMU, would
// wake each other without a thread ever going to sleep. The process is told what to do over its standard input, in JSON.

// Settings are those of a node's process.
type Settings struct {
	Side string // a or b
	Dir  string // of the path's file
	Peer string // file of the network namespace in which a link is listened for
	Keys conntest.Keys
}

// Session begins a protection.
type Session struct{ Key [16]byte }

// Moment is one step of a checkpoint.
type Moment struct {
	N  uint64
	At time.Time
}

// Node is the process's service. Its methods are those of net/rpc.
type Node struct {
	side string
	peer string
	px   *proxy.Proxy
	path *netfilter.Path
	conf *tls.Config
	ln   net.Listener
	link *proxy.Link

	mu     sync.Mutex
	faults []string
	n      int           // how many there were
	more   chan struct{} // closed at the next one
	ended  chan struct{} // closed at the end of the process's standard input
}

// NodeMain is a node's process; it ends with its standard input.
func NodeMain(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("datapath-node", flag.ContinueOnError)
	fs.SetOutput(stderr)
	profile := fs.String("cpuprofile", "", "write a CPU profile to this file")
	if fs.Parse(args) != nil {
		return 2
	}
	err := priority.Raise() // as colod run does
	if err == nil && *profile != "" {
		var f *os.File
		if f, err = os.Create(*profile); err == nil {
			defer f.Close()
			if err = pprof.StartCPUProfile(f); err == nil {
				defer pprof.StopCPUProfile()
			}
		}
	}
	n := &Node{more: make(chan struct{}), ended: make(chan struct{})}
	s := rpc.NewServer()
	if err == nil {
		err = s.RegisterName("Node", n)
	}
	if err != nil {
		fmt.Fprintf(stderr, "datapath-node: %v\n", err)
		return 1
	}
	s.ServeCodec(jsonrpc.NewServerCodec(pipes{ReadCloser: os.Stdin, out: os.Stdout, end: sync.OnceFunc(func() { close(n.ended) })}))
	if err := n.end(); err != nil {
		fmt.Fprintf(stderr, "datapath-node: %v\n", err)
		return 1
	}
	return 0
}

// pipes is a connection of two pipes.
type pipes struct {
	io.ReadCloser
	out io.WriteCloser
	end func() // called at the end of what can be read
}

func (p pipes) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if err != nil {
		p.end()
	}
	return n, err
}

func (p pipes) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.ReadCloser.Close(), p.out.Close()) }

// None is the argument, or the answer, where there is none.
type None struct{}

// Open makes the data path.
func (n *Node) Open(s Settings, _ *None) (err error) {
	n.side, n.peer = s.Side, s.Peer
	if n.conf, err = s.Keys.Config(); err != nil {
		return err
	}
	tap, up := "tap"+s.Side, "up"+s.Side
	if n.path, err = netfilter.Open(netfilter.Config{Bridge: "br0", Tap: tap, Uplink: up, Owner: "bench-" + s.Side, Dir: s.Dir}); err != nil {
		return err
	}
	mac, err := net.ParseMAC(guestMAC)
	if err != nil {
		return err
	}
	n.px, err = proxy.Open(proxy.Options{
		Pair: "bench", Tap: tap, Uplink: up, MAC: mac, Path: pathAdapter{n.path}, HoldMin: hold, HoldMax: hold, Log: zerolog.Nop(), Events: n.event,
	})
	return err
}

// end removes what Open made.
func (n *Node) end() error {
	if n.px != nil {
		n.px.Close()
	}
	if n.path != nil {
		return n.path.Remove()
	}
	return nil
}

// Listen answers at which address Accept will wait.
func (n *Node) Listen(_ None, addr *string) error {
	err := osthread.InNetns(n.peer, func() (err error) {
		n.ln, err = net.Listen("tcp", linkAddr)
		return err
	})
	if err == nil {
		*addr = n.ln.Addr().String()
	}
	return err
}

// Accept makes the link's listening end.
func (n *Node) Accept(None, *None) error {
	defer n.ln.Close()
	raw, err := n.ln.Accept()
	if err != nil {
		return err
	}
	n.link, err = shake(context.Background(), raw, n.conf, true)
	return err
}

// Dial makes the link's other end.
func (n *Node) Dial(addr string, _ *None) error {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	n.link, err = shake(context.Background(), raw, n.conf, false)
	return err
}

func (n *Node) Solo(None, *None) error   { return n.px.Solo(context.Background()) }
func (n *Node) GoSolo(None, *None) error { return n.px.GoSolo(context.Background()) }

func (n *Node) StartSecondary(s Session, _ *None) error {
	return n.px.StartSecondary(context.Background(), n.link, proxy.Session{Key: s.Key, TapFD: -1})
}

func (n *Node) StartPrimary(s Session, _ *None) error {
	return n.px.StartPrimary(context.Background(), n.link, proxy.Session{Key: s.Key, TapFD: -1})
}

func (n *Node) BeginCheckpoint(m Moment, _ *None) error {
	return n.px.BeginCheckpoint(context.Background(), m.N)
}

func (n *Node) SecondaryStopped(m Moment, _ *None) error { n.px.SecondaryStopped(m.At); return nil }
func (n *Node) SecondaryResumed(m Moment, _ *None) error { n.px.SecondaryResumed(m.At); return nil }
func (n *Node) Stopped(m Moment, _ *None) error          { n.px.Stopped(m.N, m.At); return nil }

func (n *Node) EndCheckpoint(m Moment, _ *None) error {
	return n.px.EndCheckpoint(context.Background(), m.N, m.At)
}

func (n *Node) Stats(_ None, s *proxy.Stats) error {
	*s = n.px.Stats()
	s.Delay, s.Hold = nil, nil // not for JSON
	return nil
}

// event notes what spoils a measurement. It runs on the data path's goroutine.
func (n *Node) event(e proxy.Event) {
	var text string
	switch e := e.(type) {
	case proxy.Diverged:
		if e.Key.Kind == frame.KindND || e.Key.Kind == frame.KindGroup || e.Key.Kind == frame.KindARP {
			return // the stand-ins' kernels do not start in the same instant
		}
		text = fmt.Sprintf("the guests differ: %s in %s: %s", e.Reason, e.Key, e.Detail)
	case proxy.OutputLost:
		text = fmt.Sprintf("%d frames of guest %s were lost", e.Frames, n.side)
	case proxy.InputLost:
		text = fmt.Sprintf("%d frames of input were not mirrored", e.Frames)
	case proxy.LinkLost:
		if errors.Is(e.Err, net.ErrClosed) || errors.Is(e.Err, io.EOF) {
			return // a change of mode
		}
		text = fmt.Sprintf("link of %s lost: %v", n.side, e.Err)
	default:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, text)
	n.n++
	close(n.more)
	n.more = make(chan struct{})
}

// Wait answers how many faults there were, once they are more than those.
func (n *Node) Wait(than int, now *int) error {
	for {
		n.mu.Lock()
		*now = n.n
		more := n.more
		n.mu.Unlock()
		if *now > than {
			return nil
		}
		select {
		case <-more:
		case <-n.ended:
			return io.EOF
		}
	}
}

// Faults answers what spoilt a measurement since the last call.
func (n *Node) Faults(_ None, texts *[]string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	*texts, n.faults = append([]string{}, n.faults...), nil // null would be no answer
	return nil
}

// remote is a node's process.
type remote struct {
	t   *rig.TB
	rpc *rpc.Client
	cmd *exec.Cmd
}

// start starts a node's process in the namespace.
func start(t *rig.TB, host *netnstest.NS, args ...string) *remote {
	self, err := os.Executable()
	t.Must(err)
	c := host.Command(context.WithoutCancel(t.Context()), self, append([]string{"datapath-node"}, args...)...)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	t.Must(err)
	out, err := c.StdoutPipe()
	t.Must(err)
	t.Must(host.Start(c))
	r := &remote{t: t, cmd: c, rpc: jsonrpc.NewClient(pipes{ReadCloser: out, out: in, end: func() {}})}
	t.Cleanup(func() {
		in.Close() // its end
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("process of a data path: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("the process of a data path does not end")
			_ = c.Cancel()
			<-ended
		}
		r.rpc.Close()
	})
	return r
}

// call calls a method.
func (r *remote) call(ctx context.Context, method string, arg, answer any) error {
	if answer == nil {
		answer = &None{}
	}
	c := r.rpc.Go("Node."+method, arg, answer, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		if c.Error != nil {
			return fmt.Errorf("data path: %s: %w", method, c.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("data path: %s: %w", method, ctx.Err())
	}
}

// must is call for what ends the benchmark.
func (r *remote) must(ctx context.Context, method string, arg, answer any) {
	r.t.Helper()
	r.t.Must(r.call(ctx, method, arg, answer))
}

// stats are those of the data path.
func (r *remote) stats(ctx context.Context) (s proxy.Stats) {
	r.must(ctx, "Stats", None{}, &s)
	return s
}

// used is the processor time of the process.
func (r *remote) used() time.Duration {
	c, err := rig.ProcessCPU(r.cmd.Process.Pid)
	r.t.Must(err)
	return c.Total
}
