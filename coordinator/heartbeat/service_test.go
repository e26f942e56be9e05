package heartbeat

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	switch os.Getenv("HEARTBEAT_TEST") {
	case "peer":
		peerProcess(nil)
		return
	case "peer with process":
		peerProcess(inProcess())
		return
	case "process":
		if err := ProcessMain(); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// node is a service with what it said.
type node struct {
	*Service
	events chan Event
}

// inProcess is the command of a process that exchanges the heartbeats.
func inProcess() []string { return []string{"/usr/bin/env", "HEARTBEAT_TEST=process", os.Args[0]} }

func newNode(t *testing.T, paths int) *node {
	t.Helper()
	return newNodeOf(t, paths, nil)
}

func newNodeOf(t *testing.T, paths int, command []string) *node {
	t.Helper()
	n := &node{events: make(chan Event, 1024)}
	listen := make([]string, paths)
	for i := range listen {
		listen[i] = "127.0.0.1:0"
	}
	s, err := New(Options{Listen: listen, Command: command, Interval: 10 * time.Millisecond, Timeout: 2 * time.Second, Events: func(e Event) { n.events <- e }})
	if err != nil {
		t.Fatal(err)
	}
	n.Service = s
	t.Cleanup(func() { s.Close() })
	return n
}

func (n *node) await(t *testing.T, want Event) {
	t.Helper()
	limit := time.After(time.Minute)
	var seen []Event
	for {
		select {
		case e := <-n.events:
			seen = append(seen, e)
			if down, ok := e.(PeerDown); ok {
				down.Reason = ""
				e = down
			}
			if down, ok := e.(PathDown); ok {
				down.Reason = ""
				e = down
			}
			if e == want {
				return
			}
		case <-limit:
			t.Fatalf("%#v did not come, but %v", want, seen)
		}
	}
}

// join makes the two known to each other, as a and b.
func join(t *testing.T, a, b *node) {
	t.Helper()
	if err := errors.Join(a.AddPeer("b", b.Local()), b.AddPeer("a", a.Local())); err != nil {
		t.Fatal(err)
	}
	rekey(t, a, b, "first")
}

func rekey(t *testing.T, a, b *node, text string) {
	t.Helper()
	ka, kb := testKeys(text)
	if err := errors.Join(a.Expect("b", ka), b.Expect("a", kb), a.Use("b", ka), b.Use("a", kb)); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestService(t *testing.T) { testService(t, nil) }

// TestProcess is the same with a process of its own for each node.
func TestProcess(t *testing.T) { testService(t, inProcess()) }

func testService(t *testing.T, command []string) {
	a, b := newNodeOf(t, 2, command), newNodeOf(t, 2, command)
	if up, known := a.Peer("b"); up || known || a.Paths("b") != nil {
		t.Error("a peer is there before it was added")
	}
	join(t, a, b)
	a.await(t, PeerUp{Peer: "b"})
	b.await(t, PeerUp{Peer: "a"})
	for _, n := range []*node{a, b} {
		peer := map[*node]string{a: "b", b: "a"}[n]
		eventually(t, "both paths are measured", func() bool {
			p := n.Paths(peer)
			return len(p) == 2 && p[0].Up && p[1].Up && p[0].RTTP50 > 0 && p[1].RTTP99 > 0 && p[0].Sent > 20
		})
		for _, p := range n.Paths(peer) {
			if p.Local == "" || p.Addr == "" || p.Err != "" || p.LastHeard < 0 {
				t.Errorf("%+v", p)
			}
		}
		if up, known := n.Peer(peer); !up || !known {
			t.Error("the peer is not up")
		}
	}
	if a.Check(time.Minute) != nil || a.Scheduling() == "" || a.Stats().Received == 0 {
		t.Errorf("%q %+v", a.Scheduling(), a.Stats())
	}
	// New keys, some of which nobody uses: nobody is lost.
	for _, text := range []string{"second", "third"} {
		for i := range 6 {
			ka, kb := testKeys(text + string(rune('a'+i)))
			if err := errors.Join(a.Expect("b", ka), b.Expect("a", kb)); err != nil {
				t.Fatal(err)
			}
		}
		rekey(t, a, b, text)
		sent := a.Paths("b")[0].Sent
		eventually(t, "answers come with the new keys", func() bool {
			p := a.Paths("b")[0]
			return p.Sent > sent+20 && p.LastHeard < 500*time.Millisecond
		})
	}
	if n := len(a.events); n > 0 {
		e := <-a.events
		if (e != PathUp{Peer: "b", Path: 0}) && (e != PathUp{Peer: "b", Path: 1}) {
			t.Errorf("%d events more, such as %#v", n, e)
		}
	}
	b.Close()
	a.await(t, PeerDown{Peer: "b"})
	if up, known := a.Peer("b"); up || !known {
		t.Error("a dead peer is up")
	}
	if err := a.RemovePeer("b"); err != nil || a.Paths("b") != nil {
		t.Error(err, a.Paths("b"))
	}
	if err := b.AddPeer("c", []string{"127.0.0.1:1"}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if b.Check(time.Minute) == nil || b.Close() != nil {
		t.Error("it lives after its end")
	}
}

// TestUnevenPaths: a path that goes nowhere is down, never up, and does not matter.
func TestUnevenPaths(t *testing.T) {
	a, b := newNode(t, 1), newNode(t, 3)
	join(t, a, b)
	for _, n := range []*node{a, b} {
		peer := map[*node]string{a: "b", b: "a"}[n]
		eventually(t, "three paths", func() bool {
			p := n.Paths(peer)
			return len(p) == 3 && p[0].Up && p[1].Up && p[2].Up
		})
	}
	// One of b's addresses moves to where nobody listens.
	dead, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if err := a.AddPeer("b", []string{b.Local()[0], dead.LocalAddr().String(), b.Local()[2]}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two of three paths", func() bool {
		p := a.Paths("b")
		return p[0].Up && !p[1].Up && p[2].Up && p[1].Sent > 200 && p[1].Lost > 0 && p[1].LastHeard < 0
	})
	eventually(t, "b hears of all of its paths", func() bool { p := b.Paths("a"); return p[0].Up && p[2].Up })
}

// TestForgery: what a stranger sends, or sends again, changes nothing.
func TestForgery(t *testing.T) {
	a, b := newNode(t, 1), newNode(t, 1)
	join(t, a, b)
	a.await(t, PeerUp{Peer: "b"})
	conn, err := net.Dial("udp", a.Local()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ka, kb := testKeys("first")
	once := newSigner(kb.send).appendPacket(nil, &packet{kind: kindPing, id: kb.ID, seq: 1 << 40, time: 1})
	for _, wire := range [][]byte{
		[]byte("hello"), make([]byte, 1400), {},
		newSigner(ka.send).appendPacket(nil, &packet{kind: kindPing, id: ka.ID, seq: 1 << 41, time: 1}),                    // reflected
		newSigner([keySize]byte{}).appendPacket(nil, &packet{kind: kindPing, id: ka.ID, seq: 1 << 42, time: 1}),            // without the key
		newSigner(kb.send).appendPacket(nil, &packet{kind: kindPing, id: 99, seq: 1 << 43, time: 1}),                       // keys that are not known
		newSigner(kb.send).appendPacket(nil, &packet{kind: kindPing, path: 5, id: ka.ID, seq: 1 << 44, time: 1}),           // a path that is not there
		newSigner(kb.send).appendPacket(nil, &packet{kind: kindPong, id: ka.ID, seq: 1<<40 - 1, time: 1 << 62, held: 1}),   // of the future
		newSigner(kb.send).appendPacket(nil, &packet{kind: kindPong, id: ka.ID, seq: 1<<40 - 2, time: 1, held: 1<<63 - 1}), // held too long
		once, once, once,
	} {
		if _, err := conn.Write(wire); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all but one are refused", func() bool { return a.Stats().Refused >= 11 })
	reply := make([]byte, 2000)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := parsePacket(reply[:n]); err != nil || p.kind != kindPong || p.time != 1 {
		t.Errorf("%+v %v", p, err)
	}
	// From now on b's own numbers, which are lower, are not taken any more: it
	// is lost, until there are new keys.
	a.await(t, PeerDown{Peer: "b"})
	rekey(t, a, b, "second")
	a.await(t, PeerUp{Peer: "b"})
}

func TestOptions(t *testing.T) {
	for want, opt := range map[string]Options{
		"0 addresses":       {},
		"9 addresses":       {Listen: make([]string, 9)},
		"below 5ms":         {Listen: []string{"127.0.0.1:0"}, Interval: 1},
		"below two":         {Listen: []string{"127.0.0.1:0"}, Interval: 50 * ms, Timeout: 99 * ms},
		"resolve address":   {Listen: []string{"127.0.0.1"}},
		"of this host":      {Listen: []string{"192.0.2.77:7420"}},
		"set up the thread": {Listen: []string{"127.0.0.1:0"}, Setup: func() error { return errors.New("no") }},
	} {
		s, err := New(opt)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	n := newNode(t, 1)
	for want, err := range map[string]error{
		"0 addresses":        n.AddPeer("b", nil),
		"resolve address":    n.AddPeer("b", []string{"127.0.0.1"}),
		"different versions": n.AddPeer("b", []string{"[::1]:7420"}),
		"not known":          n.Expect("c", Keys{}),
		"is not known":       n.Use("c", Keys{}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestIPv6(t *testing.T) {
	mk := func(listen string) *node {
		n := &node{events: make(chan Event, 1024)}
		s, err := New(Options{Listen: []string{listen}, Interval: 10 * ms, Timeout: 2 * time.Second, Events: func(e Event) { n.events <- e }})
		if err != nil {
			t.Fatal(err)
		}
		n.Service = s
		t.Cleanup(func() { s.Close() })
		return n
	}
	// One side listens on every address, of both versions.
	a, b := mk("127.0.0.1:0"), mk(":0")
	_, port, err := net.SplitHostPort(b.Local()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.AddPeer("b", []string{"127.0.0.1:" + port}), b.AddPeer("a", a.Local())); err != nil {
		t.Fatal(err)
	}
	rekey(t, a, b, "x")
	a.await(t, PeerUp{Peer: "b"})
	b.await(t, PeerUp{Peer: "a"})
}

// peerProcess is node b in a process of its own: it says its address, reads
// that of a and runs until its input ends.
func peerProcess(command []string) {
	s, err := New(Options{Listen: []string{"127.0.0.1:0"}, Command: command, Interval: 10 * ms, Timeout: 2 * time.Second, Events: func(e Event) {
		switch e.(type) {
		case PeerUp:
			os.Stdout.WriteString("up\n")
		case PeerDown:
			os.Stdout.WriteString("down\n")
		}
	}})
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(s.Local()[0] + "\n")
	buf := make([]byte, 100)
	n, err := os.Stdin.Read(buf)
	if err != nil {
		panic(err)
	}
	if err := s.AddPeer("a", []string{string(buf[:n])}); err != nil {
		panic(err)
	}
	_, k := testKeys("x")
	if err := errors.Join(s.Expect("a", k), s.Use("a", k)); err != nil {
		panic(err)
	}
	_, _ = os.Stdin.Read(buf)
}

// TestSleeper: a process that was stopped finds nobody dead when it goes on,
// while the other one saw it go. When the other one dies, it sees that.
func TestSleeper(t *testing.T) { testSleeper(t, "peer") }

// TestSleeperServed: heartbeats of a process of their own cease when the one that
// they are for is stopped, and come again.
func TestSleeperServed(t *testing.T) { testSleeper(t, "peer with process") }

func testSleeper(t *testing.T, peer string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HEARTBEAT_TEST="+peer)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		var rest string
		buf := make([]byte, 1000)
		for {
			n, err := out.Read(buf)
			rest += string(buf[:n])
			for {
				line, more, ok := strings.Cut(rest, "\n")
				if !ok {
					break
				}
				lines <- line
				rest = more
			}
			if err != nil {
				return
			}
		}
	}()
	line := func() string {
		t.Helper()
		select {
		case s := <-lines:
			return s
		case <-time.After(time.Minute):
			t.Fatal("the other process says nothing")
			return ""
		}
	}
	a := newNode(t, 1)
	if err := a.AddPeer("b", []string{line()}); err != nil {
		t.Fatal(err)
	}
	k, _ := testKeys("x")
	if err := errors.Join(a.Expect("b", k), a.Use("b", k)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte(a.Local()[0])); err != nil {
		t.Fatal(err)
	}
	a.await(t, PeerUp{Peer: "b"})
	if s := line(); s != "up" {
		t.Fatal(s)
	}
	for range 2 {
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		a.await(t, PeerDown{Peer: "b"})
		time.Sleep(time.Second)
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		a.await(t, PeerUp{Peer: "b"})
	}
	if len(lines) > 0 {
		t.Errorf("it says %q after its own sleep", line())
	}
	a.Close()
	if s := line(); s != "down" {
		t.Errorf("it says %q after the end of a", s)
	}
	in.Close()
}

// TestRestart: the process is replaced when it is killed, and knows the peers.
func TestRestart(t *testing.T) {
	a, b := newNodeOf(t, 1, inProcess()), newNode(t, 1)
	join(t, a, b)
	a.await(t, PeerUp{Peer: "b"})
	b.await(t, PeerUp{Peer: "a"})
	for _, text := range []string{"second", "third"} {
		p := a.backend.(*process)
		p.mu.Lock()
		pid := p.pid
		p.mu.Unlock()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		a.await(t, Restarted{})
		if p := a.Paths("b"); len(p) != 1 || p[0].Up {
			t.Errorf("%+v", p)
		}
		b.await(t, PeerDown{Peer: "a"})
		rekey(t, a, b, text)
		a.await(t, PeerUp{Peer: "b"})
		b.await(t, PeerUp{Peer: "a"})
	}
	for _, command := range [][]string{{"/nonexistent"}, {"true"}, {"sh", "-c", "echo no >&3"}} {
		if s, err := New(Options{Listen: []string{"127.0.0.1:0"}, Command: command}); err == nil {
			s.Close()
			t.Errorf("%q serves", command)
		}
	}
	if _, err := New(Options{Listen: []string{"192.0.2.77:7420"}, Command: inProcess()}); err == nil || !strings.Contains(err.Error(), "of this host") {
		t.Error(err)
	}
}
