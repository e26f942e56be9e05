package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"colod/coordinator/arbiter"
	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/internal/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logBuffer is a log that tests can look into while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testPair is two nodes on the loopback device with fake VMs and data paths.
type testPair struct {
	t     *testing.T
	dir   string
	hosts *fakeHosts
	ca    *certs.Authority
	addr  map[string]string
	nodes map[string]*testNode
	extra string // further lines of the pair's configuration
	// arbiterText is the arbiter in the configuration, a file if it is empty.
	arbiterText string
	list        []string // the pair's nodes; a and b if it is empty
	top         string   // further lines of the configuration, before the pairs
	bare        bool     // nodes can crash

	arbiter arbiter.Arbiter // nil: the configured one
}

type testNode struct {
	name   string
	cfg    *config.Config
	plat   *fakePlatform
	log    *logBuffer
	notes  *logBuffer // for the service manager
	client *Client
	cancel context.CancelFunc
	done   chan error

	node    *Node
	crashed atomic.Bool
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newTestPair(t *testing.T) *testPair {
	t.Helper()
	dir, err := os.MkdirTemp("", "colod") // short: unix sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := certs.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p := &testPair{t: t, dir: dir, hosts: newFakeHosts(), ca: ca, nodes: map[string]*testNode{}, addr: map[string]string{}}
	for _, n := range []string{"a", "b", "c"} {
		p.addr[n] = freeAddr(t)
		p.writeCerts(n, n, ca)
	}
	t.Cleanup(func() {
		for _, n := range p.nodes {
			n.stop(t)
		}
		for _, v := range p.hosts.all {
			v.die("end of test")
		}
	})
	return p
}

// writeCerts makes the files of a node, with the certificate of name.
func (p *testPair) writeCerts(node, name string, ca *certs.Authority) {
	p.t.Helper()
	dir := filepath.Join(p.dir, node)
	os.RemoveAll(filepath.Join(dir, "tls"))
	id, err := ca.Issue(name, time.Hour)
	if err == nil {
		err = id.Save(filepath.Join(dir, "tls", "node.pem"), filepath.Join(dir, "tls", "node.key"))
	}
	if err == nil {
		err = ca.Save(filepath.Join(dir, "tls", "ca.pem"), filepath.Join(dir, "tls", "ca.key"))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *testPair) config(node string) *config.Config {
	p.t.Helper()
	dir := filepath.Join(p.dir, node)
	arb := p.arbiterText
	if arb == "" {
		arb = fmt.Sprintf("{file: {path: %s/arbiter}}", p.dir)
	}
	list := p.list
	if len(list) == 0 {
		list = []string{"a", "b"}
	}
	var nodes []string
	for _, n := range list {
		nodes = append(nodes, fmt.Sprintf("{name: %s, address: %q}", n, p.addr[n]))
	}
	pairs := fmt.Sprintf(`
  - name: g
    nodes: [%s]
    network: {bridge: br0, tap: vm0, mac: "52:54:00:12:34:56"}
    vm: {memory: 64M, grace: 1s}
%s`, strings.Join(nodes, ", "), p.extra)
	if !slices.Contains(list, node) {
		pairs = " []\nspare: {bridge: br0}\n"
	}
	text := fmt.Sprintf(`
node: %s
listen: %s
tls: {ca: tls/ca.pem, cert: tls/node.pem, key: tls/node.key}
state_dir: %s/state
run_dir: %s/run
heartbeat: {interval: 20ms, timeout: 1s}
arbiter: %s
%spairs:%s`, node, p.addr[node], dir, dir, arb, p.top, pairs)
	cfg, err := config.Parse(filepath.Join(dir, "colod.yaml"), []byte(text))
	if err != nil {
		p.t.Fatal(err)
	}
	return cfg
}

// start runs a node; the platform of an earlier run of it is kept.
func (p *testPair) start(name string) *testNode {
	p.t.Helper()
	n := p.prepare(name)
	p.launch(n)
	return n
}

// prepare makes what a node needs; launch runs it.
func (p *testPair) prepare(name string) *testNode {
	p.t.Helper()
	cfg := p.config(name)
	n := &testNode{name: name, cfg: cfg, log: &logBuffer{}, notes: &logBuffer{}, client: NewClient(cfg.API.Socket), done: make(chan error, 1)}
	n.plat = newFakePlatform(cfg, p.hosts)
	return n
}

func (p *testPair) launch(n *testNode) {
	p.t.Helper()
	node, err := NewNode(Options{
		Config: n.cfg, Version: "test", Platform: n.plat, Log: zerolog.New(n.log).With().Timestamp().Logger(), Arbiter: p.arbiter,
		Notify: func(s string) { n.notes.Write([]byte(s + "\n")) },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.node = cancel, node
	if !p.bare {
		go func() { n.done <- node.Run(ctx) }()
	} else {
		go func() {
			err := node.open()
			<-ctx.Done()
			if !n.crashed.Load() {
				node.rest(false)
			}
			n.done <- errors.Join(err, node.close())
		}()
	}
	p.nodes[n.name] = n
}

func (n *testNode) stop(t *testing.T) {
	t.Helper()
	n.cancel()
	if err := <-n.done; err != nil {
		t.Errorf("node %s: %v", n.name, err)
	}
	n.done <- nil
}

// crash ends a node as its host's loss would: without a word, its VM with it.
func (p *testPair) crash(name string) {
	p.t.Helper()
	n := p.nodes[name]
	n.crashed.Store(true)
	vm := p.vm(name)
	n.stop(p.t)
	if vm != nil {
		vm.die("host lost")
	}
}

// patience bounds every wait for a condition.
const patience = 30 * time.Second

// await waits until the node's pair fulfils the condition.
func (p *testPair) await(name, what string, cond func(PairStatus) bool) PairStatus {
	p.t.Helper()
	n := p.nodes[name]
	deadline := time.Now().Add(patience)
	var last string
	for time.Now().Before(deadline) {
		st, err := n.client.Status(context.Background())
		if err == nil && len(st.Pairs) == 1 {
			if cond(st.Pairs[0]) {
				return st.Pairs[0]
			}
			last = fmt.Sprintf("%+v", st.Pairs[0])
		} else if err != nil {
			last = err.Error()
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Fatalf("node %s: %s did not come; last: %s\nlog:\n%s", name, what, last, n.log)
	return PairStatus{}
}

func (p *testPair) awaitState(name, state, role string) PairStatus {
	p.t.Helper()
	return p.await(name, state+" as "+role, func(s PairStatus) bool { return s.State == state && s.Role == role })
}

func (p *testPair) protected(speaker, secondary string) {
	p.t.Helper()
	p.awaitState(speaker, "protected", "speaker")
	p.awaitState(secondary, "protected", "secondary")
}

// awaitEnd waits until the node's VM has ended: a state in which none is to run comes first.
func (p *testPair) awaitEnd(node string) {
	p.t.Helper()
	for v, start := p.vm(node), time.Now(); v.lives(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > patience {
			p.t.Fatalf("the VM of node %s lives on", node)
		}
	}
}

func (p *testPair) vm(node string) *fakeVM {
	return p.hosts.vm(vmDir(filepath.Join(p.dir, node, "run"), "g"))
}

func (n *testNode) role() string { return n.plat.dataPath().Stats().Role }

func TestProtectAndTakeOver(t *testing.T) {
	for _, encryption := range []string{"tls", "plain"} {
		t.Run(encryption, func(t *testing.T) {
			p := newTestPair(t)
			p.extra = "    state: {encryption: " + encryption + "}\n"
			p.start("a")
			p.start("b")
			p.protected("a", "b")
			if got := p.nodes["a"].role() + " " + p.nodes["b"].role(); got != "primary secondary" {
				t.Fatalf("data paths are %s", got)
			}
			first := p.vm("b")
			p.vm("a").die("signal: killed")
			p.protected("b", "a")
			if p.vm("b") != first {
				t.Error("the guest was started anew")
			}
			st := p.await("b", "speaker b", func(s PairStatus) bool { return s.Speaker == "b" && s.Standby == "a" })
			if st.Generation != 4 || st.Checkpoints.Reasons["arming"] != 1 {
				t.Errorf("status %+v", st)
			}
			// And back, then the loss of the secondary.
			p.vm("b").die("signal: killed")
			p.protected("a", "b")
			keep := p.vm("a")
			p.vm("b").die("signal: killed")
			p.await("a", "generation 8", func(s PairStatus) bool { return s.Generation == 8 && s.State == "protected" })
			if p.vm("a") != keep {
				t.Error("the speaker's guest was started anew")
			}
		})
	}
}

func TestOperations(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ask := func(node string, op pair.Op) (*PairStatus, error) { return p.nodes[node].client.Ask(ctx, "g", op, -1) }
	must := func(node string, op pair.Op) *PairStatus {
		t.Helper()
		st, err := ask(node, op)
		if err != nil {
			t.Fatalf("%s at %s: %v", op, node, err)
		}
		return st
	}
	if st := must("a", pair.OpCheckpoint); st.Checkpoints.Reasons["manual"] != 1 || st.Checkpoints.PauseMS.Max <= 0 {
		t.Errorf("after a checkpoint: %+v", st.Checkpoints)
	}
	if st := must("a", pair.OpProtect); st.State != "protected" {
		t.Errorf("protect of a protected pair: %+v", st)
	}
	p.await("b", "the end of the checkpoint", func(s PairStatus) bool { return s.State == "protected" })
	must("b", pair.OpFailover)
	p.protected("b", "a")
	must("a", pair.OpStop) // asked at the secondary
	p.awaitState("a", "stopped", "none")
	p.awaitState("b", "stopped", "none")
	p.awaitEnd("a")
	p.awaitEnd("b")
	if _, err := ask("a", pair.OpCheckpoint); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("checkpoint of a stopped pair: %v", err)
	}
	must("a", pair.OpStart)
	p.protected("a", "b")
	if _, err := p.nodes["a"].client.Ask(ctx, "h", pair.OpStop, 0); err == nil || !strings.Contains(err.Error(), `no pair "h"`) {
		t.Errorf("unknown pair: %v", err)
	}

	// The events tell the whole story, with reasons.
	var states []string
	enough := errors.New("enough")
	err := p.nodes["a"].client.Events(ctx, func(e Event) error {
		if e.Reason == "" {
			t.Errorf("no reason: %+v", e)
		}
		states = append(states, e.State)
		if len(states) > 12 && e.State == "protected" && e.Role == "speaker" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("events: %v, %v", states, err)
	}
}

func TestPlannedEndIsNoFailover(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	p.vm("a").powerOff()
	st := p.awaitState("b", "stopped", "none")
	p.awaitState("a", "stopped", "none")
	if !strings.Contains(st.Reason, "guest-shutdown") {
		t.Errorf("b: %+v", st)
	}
	p.awaitEnd("b")
}

// TestRestart: colod ends and begins again, the VM goes on.
func TestRestart(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	vm := p.vm("a")
	p.nodes["a"].stop(t)
	if !vm.lives() {
		t.Fatal("the guest ended with colod")
	}
	if notes := p.nodes["a"].notes.String(); !strings.Contains(notes, "READY=1\n") || !strings.Contains(notes, "STATUS=pair g is protected: protected by b\n") ||
		strings.Index(notes, "STOPPING=1") < strings.Index(notes, "READY=1") {
		t.Errorf("the service manager was told:\n%s", notes)
	}
	if got := p.nodes["a"].plat.paths; fmt.Sprint(got) != "[pass detach]" {
		t.Errorf("path: %v", got)
	}
	p.start("a")
	p.protected("a", "b")
	if p.vm("a") != vm {
		t.Error("the guest was started anew")
	}
	// The secondary's.
	p.nodes["b"].stop(t)
	if got := p.nodes["b"].plat.paths; fmt.Sprint(got) != "[remove]" {
		t.Errorf("path: %v", got)
	}
	p.awaitState("a", "solo", "speaker")
	p.start("b")
	p.protected("a", "b")
	if p.vm("a") != vm {
		t.Error("the guest was started anew")
	}
}

func TestHungVMIsHandedOver(t *testing.T) {
	p := newTestPair(t)
	p.extra = "    checkpoint: {timeout: 3s, retrigger: 500ms}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	v := p.vm("a")
	v.mu.Lock()
	v.hung = true
	v.mu.Unlock()
	go p.nodes["a"].client.Ask(context.Background(), "g", pair.OpCheckpoint, -1) // its outcome does not matter
	p.protected("b", "a")
	if v.lives() {
		t.Error("the hung VM was not ended")
	}
}

func TestMissingQEMU(t *testing.T) {
	p := newTestPair(t)
	n := p.start("a")
	n.plat.mu.Lock()
	n.plat.launchErr = errors.New(`find QEMU: exec: "qemu-nowhere": executable file not found in $PATH`)
	n.plat.mu.Unlock()
	p.await("a", "a reason that names QEMU", func(s PairStatus) bool {
		return s.State == "promoting" && strings.Contains(s.Reason, "cannot be started") && strings.Contains(s.Reason, "qemu-nowhere") ||
			s.State == "solo" // it was quicker than the test
	})
	n.plat.mu.Lock()
	n.plat.launchErr = nil
	n.plat.mu.Unlock()
	p.awaitState("a", "solo", "speaker") // tried again by itself
}

func TestTornRecord(t *testing.T) {
	p := newTestPair(t)
	dir := filepath.Join(p.dir, "arbiter")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "g.record")
	if err := os.WriteFile(file, []byte("colod-record-1\n{\"pair\":\"g\",\"gener"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := p.start("a")
	deadline := time.Now().Add(patience)
	for !strings.Contains(n.log.String(), "cut short") {
		if time.Now().After(deadline) {
			t.Fatalf("no word about the torn record:\n%s", n.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.await("a", "idle", func(s PairStatus) bool { return s.State == "idle" && s.VM == nil })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.awaitState("a", "solo", "speaker")
}

func TestWrongCertificates(t *testing.T) {
	// A node whose own certificate is another's does not start.
	p := newTestPair(t)
	p.writeCerts("a", "z", p.ca)
	cfg := p.config("a")
	node, err := NewNode(Options{Config: cfg, Platform: newFakePlatform(cfg, p.hosts), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Run(context.Background()); err == nil || !strings.Contains(err.Error(), `not for node "a"`) {
		t.Errorf("start with the certificate of z: %v", err)
	}

	// A peer of another authority is refused, and the pair stays unprotected.
	p.writeCerts("a", "a", p.ca)
	foreign, err := certs.NewAuthority("foreign", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p.writeCerts("b", "b", foreign)
	a := p.start("a")
	p.start("b")
	p.awaitState("a", "solo", "speaker")
	deadline := time.Now().Add(patience)
	for !strings.Contains(a.log.String(), "certificate") {
		if time.Now().After(deadline) {
			t.Fatalf("a says nothing about the certificate:\n%s", a.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.await("a", "a peer that is down", func(s PairStatus) bool { return s.State == "solo" && !s.Peer.Up })
}

func TestSecondDaemonIsRefused(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.awaitState("a", "solo", "speaker")
	cfg := p.config("a")
	node, err := NewNode(Options{Config: cfg, Platform: newFakePlatform(cfg, p.hosts), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another colod is running") {
		t.Errorf("second daemon: %v", err)
	}
	p.awaitState("a", "solo", "speaker") // undisturbed
}

// TestStrangers: whatever connects to the node's port, service goes on.
func TestStrangers(t *testing.T) {
	p := newTestPair(t)
	a := p.start("a")
	p.start("b")
	p.protected("a", "b")
	preamble := func(class, flags byte) string {
		return "COLOD\x01" + string([]byte{class, flags}) + strings.Repeat("\x00", 8)
	}
	for _, text := range []string{
		"", "GET / HTTP/1.1\r\n\r\n", "COLO", "COLOD\x09\x01" + strings.Repeat("\x00", 9), "COLOD\x01\x63" + strings.Repeat("\x00", 9),
		preamble(1, 0), preamble(1, 1) + "xx", preamble(1, 0) + "\x16\x03\x01\x02\x00\x01", preamble(2, 0) + strings.Repeat("A", 100),
		preamble(3, 1) + "\x00\x00", preamble(3, 1) + "\x01\x01gs" + strings.Repeat("T", 32), preamble(3, 0) + "junk", preamble(4, 0),
	} {
		c, err := net.Dial("tcp", p.addr["a"])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(text)); err != nil {
			t.Logf("write %q: %v", text, err)
		}
		c.Close()
	}
	deadline := time.Now().Add(patience)
	for strings.Count(a.log.String(), "connection refused") < 10 {
		if time.Now().After(deadline) {
			t.Fatalf("not all were refused with a word:\n%s", a.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.protected("a", "b")
	if st := p.await("a", "status", func(PairStatus) bool { return true }); st.Generation != 2 {
		t.Errorf("strangers changed the pair: %+v", st)
	}
}

// awayArbiter can be made unreachable.
type awayArbiter struct {
	arbiter.Arbiter
	away atomic.Bool
}

func (c *awayArbiter) Get(ctx context.Context, name string) (arbiter.Record, error) {
	if c.away.Load() {
		return arbiter.Record{}, errors.New("no route to the arbiter")
	}
	return c.Arbiter.Get(ctx, name)
}

func (c *awayArbiter) Swap(ctx context.Context, prev, next arbiter.Record) (arbiter.Record, error) {
	if c.away.Load() {
		return arbiter.Record{}, arbiter.ErrUnknown
	}
	return c.Arbiter.Swap(ctx, prev, next)
}

// TestArbiterAway: a node that lost its peer is silent until it has won the record.
func TestArbiterAway(t *testing.T) {
	p := newTestPair(t)
	file, err := arbiter.OpenFile(filepath.Join(p.dir, "arbiter"))
	if err != nil {
		t.Fatal(err)
	}
	arb := &awayArbiter{Arbiter: file}
	p.arbiter = arb
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	arb.away.Store(true)
	p.vm("a").die("signal: killed")
	p.awaitState("b", "claiming", "secondary")
	time.Sleep(100 * time.Millisecond) // it has had time for a mistake
	if role := p.nodes["b"].role(); role != "secondary" {
		t.Errorf("data path of b is %s without the record", role)
	}
	arb.away.Store(false)
	p.protected("b", "a")
}
