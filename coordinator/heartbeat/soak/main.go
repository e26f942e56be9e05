// Command soak measures heartbeats on a loaded host: two processes, each one
// node, exchange them over two paths of the loopback device while virtual CPUs
// without hardware support, compilations and their own garbage keep all
// processors busy. At the end it says how long the longest silence was and how
// often a node was suspected although it was there; any suspicion is a failure.
//
//	go run ./coordinator/heartbeat/soak --for 1h --qemu 2 --build
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator/heartbeat"
	"colod/internal/priority"
)

// options are those of the command line.
type options struct {
	length, interval, timeout time.Duration
	paths, qemu, garbage      int
	build, plain              bool
	nice                      int
	peer, thread              bool
}

// inProcess is the only argument of the processes that exchange the heartbeats.
const inProcess = "heartbeat-process"

func main() {
	if len(os.Args) == 2 && os.Args[1] == inProcess {
		if err := heartbeat.ProcessMain(); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.DurationVar(&o.length, "for", time.Minute, "how long to measure")
	flag.DurationVar(&o.interval, "interval", heartbeat.DefaultInterval, "time between two heartbeats")
	flag.DurationVar(&o.timeout, "timeout", heartbeat.DefaultTimeout, "silence that is taken for a loss")
	flag.IntVar(&o.paths, "paths", 2, "number of paths")
	flag.IntVar(&o.qemu, "qemu", 0, "number of QEMU processes whose virtual CPU never rests")
	flag.BoolVar(&o.build, "build", false, "compile the standard library again and again")
	flag.IntVar(&o.garbage, "garbage", 2, "goroutines in each node's process that make garbage")
	flag.IntVar(&o.nice, "load-nice", 0, "niceness of the load's processes")
	flag.BoolVar(&o.plain, "plain", false, "leave the process's priority and number of threads as they are")
	flag.BoolVar(&o.thread, "thread", false, "heartbeats by a thread of each node's process instead of a process of their own")
	flag.BoolVar(&o.peer, "peer", false, "be the second process (used by the first)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := o.first
	if o.peer {
		run = o.second
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// figures are what one node saw.
type figures struct {
	Node        string  `json:"node"`
	Scheduling  string  `json:"scheduling"`
	Threads     int     `json:"gomaxprocs"`
	Seconds     float64 `json:"seconds"`
	Answers     uint64  `json:"answers"`
	Lost        uint64  `json:"lost"`
	WorstGapMS  float64 `json:"worst_gap_ms"` // between two answers on one path
	RTTP50US    float64 `json:"rtt_p50_us"`   // the last of all minutes
	RTTP99US    float64 `json:"rtt_p99_us"`   // the highest of all ten seconds
	WorstLateMS float64 `json:"worst_late_ms"`
	SleptMS     float64 `json:"slept_ms"`
	PathsLost   int     `json:"paths_lost"`
	Suspicions  int     `json:"false_suspicions"`
}

// node is one running node.
type node struct {
	o     *options
	name  string
	began time.Time
	*heartbeat.Service

	mu sync.Mutex
	f  figures
}

// export is the same in both processes: what a TLS connection would give.
func export(label string, _ []byte, n int) ([]byte, error) {
	return []byte(strings.Repeat(label, n/len(label)+1)[:n-1] + "x"), nil
}

func (o *options) node(name string) (*node, error) {
	if !o.plain {
		if err := priority.Raise(); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
	}
	n := &node{o: o, name: name, began: time.Now()}
	listen := make([]string, o.paths)
	for i := range listen {
		listen[i] = "127.0.0.1:0"
	}
	opt := heartbeat.Options{Listen: listen, Interval: o.interval, Timeout: o.timeout, Events: n.event}
	if !o.thread {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		opt.Command = []string{self, inProcess}
	}
	s, err := heartbeat.New(opt)
	if err != nil {
		return nil, err
	}
	n.Service = s
	n.f = figures{Node: name, Scheduling: s.Scheduling(), Threads: runtime.GOMAXPROCS(0)}
	return n, nil
}

func (n *node) event(e heartbeat.Event) {
	fmt.Fprintf(os.Stderr, "%8.1f s  %s: %#v\n", time.Since(n.began).Seconds(), n.name, e)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch e.(type) {
	case heartbeat.PathDown:
		n.f.PathsLost++
	case heartbeat.PeerDown:
		n.f.Suspicions++
	}
}

func (n *node) join(peer string, addrs []string) error {
	k, err := heartbeat.DeriveKeys(export, n.name, peer)
	if err != nil {
		return err
	}
	return errors.Join(n.AddPeer(peer, addrs), n.Expect(peer, k), n.Use(peer, k))
}

// measure looks every ten seconds until ctx ends; say is called each minute.
func (n *node) measure(ctx context.Context, peer string, say func(figures)) figures {
	for range n.o.garbage {
		go litter(ctx)
	}
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return n.look(peer)
		case <-t.C:
		}
		if f := n.look(peer); i%6 == 0 {
			say(f)
		}
	}
}

func (n *node) look(peer string) figures {
	st := n.Stats()
	paths := n.Paths(peer)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.f.Seconds = time.Since(n.began).Seconds()
	n.f.WorstLateMS, n.f.SleptMS = ms(st.Late), ms(st.Slept)
	n.f.Answers, n.f.Lost = 0, 0
	for _, p := range paths {
		n.f.WorstGapMS = max(n.f.WorstGapMS, ms(p.WorstGap))
		n.f.RTTP99US = max(n.f.RTTP99US, 1000*ms(p.RTTP99))
		n.f.RTTP50US = 1000 * ms(p.RTTP50)
		n.f.Answers += p.Sent - p.Lost
		n.f.Lost += p.Lost
	}
	return n.f
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// litter makes garbage of the kind that a coordinator makes, with pauses.
func litter(ctx context.Context) {
	keep := make([][]byte, 2000)
	for i := 0; ctx.Err() == nil; i++ {
		keep[i%len(keep)] = make([]byte, 1+i*31%16384)
		if i%5000 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// first is node a, which also starts the load and says what came of it.
func (o *options) first(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n, err := o.node("a")
	if err != nil {
		return err
	}
	defer n.Close()
	cmd := exec.Command(self, append(os.Args[1:], "--peer")...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for us; it ends with its input
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the second process: %w", err)
	}
	defer func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}()
	lines := json.NewDecoder(out)
	var addrs []string
	if err := lines.Decode(&addrs); err != nil {
		return fmt.Errorf("read addresses of the second process: %w", err)
	}
	if err := json.NewEncoder(in).Encode(n.Local()); err != nil {
		return err
	}
	if err := n.join("b", addrs); err != nil {
		return err
	}
	stopLoad, err := o.load(ctx)
	defer stopLoad()
	if err != nil {
		return err
	}
	show := func(f figures) {
		b, err := json.Marshal(f)
		if err == nil {
			fmt.Printf("%s\n", b)
		}
	}
	mine := n.measure(ctx, "b", show)
	in.Close() // the end for b
	var other figures
	if err := lines.Decode(&other); err != nil {
		return fmt.Errorf("read figures of the second process: %w", err)
	}
	show(mine)
	show(other)
	if mine.Suspicions+other.Suspicions > 0 {
		return fmt.Errorf("%d false suspicions", mine.Suspicions+other.Suspicions)
	}
	return nil
}

// second is node b. It ends with its input.
func (o *options) second(ctx context.Context) error {
	n, err := o.node("b")
	if err != nil {
		return err
	}
	defer n.Close()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(n.Local()); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var addrs []string
	if err := json.Unmarshal(line, &addrs); err != nil {
		return err
	}
	if err := n.join("a", addrs); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // any end of it will do
	}()
	return out.Encode(n.measure(ctx, "a", func(figures) {}))
}

// load keeps the host busy until ctx ends. What it returns waits for the end.
func (o *options) load(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	dir, err := os.MkdirTemp("", "colod-soak-")
	stop = func() { cancel(); wg.Wait(); os.RemoveAll(dir) }
	if err != nil {
		return stop, err
	}
	start := func(again bool, env []string, name string, args ...string) {
		wg.Go(func() {
			for ctx.Err() == nil {
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = append(os.Environ(), env...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
				cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
				text, err := o.run(cmd)
				if ctx.Err() == nil && (err != nil || !again) {
					fmt.Fprintf(os.Stderr, "soak: %s ended: %v\n%s", name, err, text)
					return
				}
			}
		})
	}
	if o.qemu > 0 {
		// A boot sector (x86): jmp to itself.
		sector := make([]byte, 512)
		sector[0], sector[1], sector[510], sector[511] = 0xeb, 0xfe, 0x55, 0xaa
		image := filepath.Join(dir, "spin")
		if err := os.WriteFile(image, sector, 0o600); err != nil {
			return stop, err
		}
		for range o.qemu {
			start(false, nil, "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-monitor", "none",
				"-snapshot", "-drive", "format=raw,file="+image)
		}
	}
	if o.build {
		start(true, []string{"GOCACHE=" + filepath.Join(dir, "cache")}, "go", "build", "-a", "std")
	}
	return stop, nil
}

// run runs a part of the load with its niceness and returns what it wrote.
func (o *options) run(cmd *exec.Cmd) (string, error) {
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		return "", err
	}
	// Threads and children that are made later inherit it.
	if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, o.nice); err != nil {
		return "", errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	err := cmd.Wait()
	return text.String(), err
}
