package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"colod/internal/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPreamble(t *testing.T) {
	for _, c := range []Class{ClassCtl, ClassNet, ClassState, ClassDisk} {
		for _, plain := range []bool{false, true} {
			var b bytes.Buffer
			if err := writePreamble(&b, c, plain); err != nil || b.Len() != preambleLen {
				t.Fatalf("%d bytes, %v", b.Len(), err)
			}
			b.WriteString("rest")
			if class, p, err := readPreamble(&b); err != nil || class != c || p != plain || b.String() != "rest" {
				t.Errorf("%v %v became %v %v, %v, rest %q", c, plain, class, p, err, b.String())
			}
		}
	}
	for text, want := range map[string]string{
		"":                                   "EOF",
		"COLOD\x01\x01":                      "unexpected EOF",
		"GET / HTTP/1.1\r\n":                 "begins with \"GET /\"",
		"COLOD\x02\x01" + zeros(9):           "version 2",
		"COLOD\x01\x00" + zeros(9):           "class 0",
		"COLOD\x01\x05" + zeros(9):           "class 5",
		"COLOD\x01\x01\x02" + zeros(8):       "reserved bytes",
		"COLOD\x01\x01\x00" + zeros(7) + "x": "reserved bytes",
	} {
		if _, _, err := readPreamble(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func zeros(n int) string { return strings.Repeat("\x00", n) }

func FuzzPreamble(f *testing.F) {
	f.Add([]byte("COLOD\x01\x01" + zeros(9)))
	f.Add([]byte("COLOD\x01\x03\x01" + zeros(8)))
	f.Fuzz(func(t *testing.T, data []byte) {
		class, plain, err := readPreamble(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if werr := writePreamble(&b, class, plain); werr != nil || !bytes.HasPrefix(data, b.Bytes()) {
			t.Fatalf("%q is read as %v %v, which is written %q", data, class, plain, b.Bytes())
		}
	})
}

var frames = []*frame{
	{Hello: &hello{Node: "a", Boot: 1 << 60, Version: "1.2"}},
	{Beat: &beat{Seq: 9, Time: 12345, Echo: 777, Held: 5}},
	{Pair: &note{Name: "guest1", Kind: "status", Body: json.RawMessage(`{"state":"idle"}`)}},
}

func TestFrames(t *testing.T) {
	var wire []byte
	for _, f := range frames {
		var err error
		if wire, err = appendFrame(wire, f); err != nil {
			t.Fatal(err)
		}
	}
	r, buf := bytes.NewReader(wire), []byte(nil)
	for _, want := range frames {
		var got *frame
		var err error
		if got, buf, err = readFrame(r, buf); err != nil {
			t.Fatal(err)
		}
		clear(buf) // the frame must not live in it
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("frame changed:\n%s", d)
		}
	}
	if _, _, err := readFrame(r, buf); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if _, err := appendFrame(nil, &frame{Pair: &note{Name: "g", Kind: "k", Body: json.RawMessage(`"` + strings.Repeat("x", MaxFrame) + `"`)}}); err == nil {
		t.Error("a frame that is too long is written")
	}
}

func TestFramesRefused(t *testing.T) {
	framed := func(s string) string { return string([]byte{0, 0, byte(len(s) >> 8), byte(len(s))}) + s }
	for text, want := range map[string]string{
		"\x00\x00":                       "unexpected EOF",
		"\x00\x00\x00\x00":               "length 0",
		"\xff\xff\xff\xff":               "length 4294967295",
		"\x00\x00\x00\x05ab":             "unexpected EOF",
		framed("{}"):                     "0 parts",
		framed("nonsense"):               "bad frame",
		framed(`{"beat":{"seq":1}} x`):   "something follows",
		framed(`{"beat":{},"hello":{}}`): "hello with a node name of 0",
		framed(`{"hello":{"node":""}}`):  "hello with a node name of 0",
		framed(`{"pair":{"name":"g"}}`):  "without name, kind or body",
		framed(`{"beat":{"seq":-1}}`):    "bad frame",
		framed(`{"pair":{"name":"` + strings.Repeat("g", 100) + `","kind":"k","body":{}}}`): "too long ones",
	} {
		if _, _, err := readFrame(strings.NewReader(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

// FuzzFrame: a frame or an error; never more memory than the bound; what is
// accepted survives being sent again.
func FuzzFrame(f *testing.F) {
	var all []byte
	for _, x := range frames {
		b, err := appendFrame(nil, x)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, buf := bytes.NewReader(data), []byte(nil)
		for {
			var x *frame
			var err error
			x, buf, err = readFrame(r, buf)
			if (err == nil) == (x == nil) || cap(buf) > MaxFrame {
				t.Fatalf("frame %v with error %v, buffer of %d", x, err, cap(buf))
			}
			if err != nil {
				return
			}
			b, err := appendFrame(nil, x)
			if err != nil {
				continue // it may grow by quoting
			}
			if _, _, err := readFrame(bytes.NewReader(b), nil); err != nil {
				t.Fatalf("%q is not accepted again: %v", b, err)
			}
		}
	})
}

func TestLiveness(t *testing.T) {
	const ms = time.Millisecond
	l := newLiveness(50*ms, 250*ms, 0)
	now := time.Duration(0)
	look := func(d time.Duration) bool { now += d; return l.look(now) }
	for range 100 { // heard of all the time
		l.heard()
		if look(50 * ms) {
			t.Fatal("lost although heard of")
		}
	}
	n := 0
	for !look(25 * ms) { // silence
		n++
	}
	if silent := time.Duration(n) * 25 * ms; silent < 150*ms || silent > 275*ms {
		t.Errorf("lost after %v of silence", silent)
	}
	if look(25*ms) || look(time.Hour) {
		t.Error("lost twice")
	}
	// Our own sleep is not the peer's silence.
	l.heard()
	for range 4 {
		if look(time.Minute) {
			t.Fatal("lost because we slept")
		}
	}
	l.heard()
	if look(50 * ms) {
		t.Error("lost although heard of again")
	}
}

// two is a pair of links over real connections.
type two struct {
	t    *testing.T
	ca   *certs.Authority
	dir  string
	link map[string]*Link
	seen map[string]chan string
}

func identity(t *testing.T, ca *certs.Authority, dir, name string) *certs.Identity {
	t.Helper()
	id, err := ca.Issue(name, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) string { return filepath.Join(dir, s) }
	if err := id.Save(at(name+".pem"), at(name+".key")); err != nil {
		t.Fatal(err)
	}
	got, err := certs.Load(at("ca.pem"), at(name+".pem"), at(name+".key"), name)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// listen runs b's listener, which gives ctl connections to the link.
func listen(t *testing.T, id *certs.Identity, accept func(*tls.Conn)) *Listener {
	t.Helper()
	l, err := Listen([]string{"127.0.0.1:0"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	l.Handle(ClassCtl, func(ctx context.Context, c net.Conn, _ bool) {
		conn := tls.Server(c, id.Server([]string{"a"}))
		if conn.HandshakeContext(ctx) != nil {
			c.Close()
			return
		}
		accept(conn)
	})
	l.Serve()
	t.Cleanup(func() { l.Close() })
	return l
}

func newTwo(t *testing.T, change ...func(*LinkOptions)) *two {
	t.Helper()
	w := &two{t: t, dir: t.TempDir(), link: map[string]*Link{}, seen: map[string]chan string{"a": make(chan string, 4096), "b": make(chan string, 4096)}}
	var err error
	if w.ca, err = certs.NewAuthority("test", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := w.ca.Save(filepath.Join(w.dir, "ca.pem"), filepath.Join(w.dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	ids := map[string]*certs.Identity{"a": identity(t, w.ca, w.dir, "a"), "b": identity(t, w.ca, w.dir, "b")}
	l := listen(t, ids["b"], func(c *tls.Conn) { w.link["b"].Accept(c) })
	for self, other := range map[string]string{"a": "b", "b": "a"} {
		ch := w.seen[self]
		o := LinkOptions{
			Self: self, Peer: other, Addrs: func() []string { return []string{l.Addr().String()} }, Boot: 1, Version: "v" + self, Identity: ids[self],
			Interval: 10 * time.Millisecond, Timeout: 500 * time.Millisecond, Log: zerolog.Nop(),
			Up:      func() { ch <- "up" },
			Down:    func(string) { ch <- "down" },
			Message: func(p, k string, b []byte) { ch <- p + " " + k + " " + string(b) },
		}
		for _, f := range change {
			f(&o)
		}
		w.link[self] = NewLink(o)
	}
	w.link["b"].Start()
	w.link["a"].Start()
	t.Cleanup(func() {
		w.link["a"].Close()
		w.link["b"].Close()
	})
	return w
}

// await reads what a node saw until it is want.
func (w *two) await(node, want string) {
	w.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case got := <-w.seen[node]:
			if got == want {
				return
			}
		case <-limit:
			w.t.Fatalf("%s did not see %q", node, want)
		}
	}
}

// TestSteady: while a node is heard in another way, a connection that breaks is
// made anew and the node does not count as lost; once it is known to be lost,
// it does at once. An address that does not answer is passed over.
func TestSteady(t *testing.T) {
	w := newTwo(t, func(o *LinkOptions) {
		o.Steady = func() bool { return true }
		addrs := o.Addrs
		dead, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dead.Close()
		o.Addrs = func() []string { return append([]string{dead.Addr().String()}, addrs()...) }
	})
	w.await("a", "up")
	w.await("b", "up")
	if local, remote := w.link["a"].Addrs(); local == nil || remote == nil {
		t.Error("no ends of the connection")
	}
	for range 3 {
		began := time.Now()
		w.link["a"].Cut("its path is dead")
		for _, n := range []string{"a", "b"} {
			for got := ""; got != "up"; {
				select {
				case got = <-w.seen[n]:
					if took := time.Since(began); got == "down" && took < SteadyTimeout { // a busy machine may take longer
						t.Fatalf("%s took the other node for lost %s after a cut", n, took)
					}
				case <-time.After(30 * time.Second):
					t.Fatalf("%s saw nothing after a cut", n)
				}
			}
		}
	}
	w.link["b"].Lost("all paths are silent")
	w.await("b", "down")
	w.await("b", "up") // the other side has made a new connection
}

func TestLink(t *testing.T) {
	w := newTwo(t)
	w.await("a", "up")
	w.await("b", "up")
	for i := range 1000 { // in order, both ways
		w.link["a"].Send("g", "k", i)
		w.link["b"].Send("g", "k", i)
		if i%100 == 99 {
			w.await("a", fmt.Sprint("g k ", i))
			w.await("b", fmt.Sprint("g k ", i))
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for w.link["a"].RTT() == 0 || w.link["b"].PeerVersion() != "va" {
		if time.Now().After(deadline) {
			t.Fatalf("round trip %v, version %q", w.link["a"].RTT(), w.link["b"].PeerVersion())
		}
		time.Sleep(time.Millisecond)
	}
	// The connection breaks: it is made again, and both are told.
	w.link["a"].mu.Lock()
	w.link["a"].conn.end(errors.New("test"))
	w.link["a"].mu.Unlock()
	w.await("a", "up")
	w.await("b", "up")
	// One side ends: the other notices.
	w.link["a"].Close()
	w.await("b", "down")
}

// TestHostilePeer: a peer with a good certificate that does not keep to the
// protocol loses its connection, and the link goes on with the next one.
func TestHostilePeer(t *testing.T) {
	w := newTwo(t)
	w.await("b", "up")
	w.link["a"].Close() // its place is taken by the attacker
	w.await("b", "down")
	id, err := certs.Load(filepath.Join(w.dir, "ca.pem"), filepath.Join(w.dir, "a.pem"), filepath.Join(w.dir, "a.key"), "a")
	if err != nil {
		t.Fatal(err)
	}
	hi, err := appendFrame(nil, &frame{Hello: &hello{Node: "a", Version: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	liar, err := appendFrame(nil, &frame{Hello: &hello{Node: "z"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"another name": liar,
		"no hello":     []byte("\x00\x00\x00\x0c{\"beat\":{}}  "),
		"huge":         append(bytes.Clone(hi), 0xff, 0xff, 0xff, 0xff),
		"junk":         append(bytes.Clone(hi), "\x00\x00\x00\x04junk"...),
		"two hellos":   append(bytes.Clone(hi), hi...),
		"half":         hi[:len(hi)-3],
	} {
		raw, err := Dial(context.Background(), w.link["a"].o.Addrs()[0], ClassCtl, false)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, id.Client("b"))
		if _, err := c.Write(data); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "half" {
			raw.Close()
			continue
		}
		raw.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, errTimeout(err)) {
			t.Errorf("%s: the connection stays open", name)
		}
		raw.Close()
	}
}

// errTimeout is err if it is a timeout, so that errors.Is is true of it.
func errTimeout(err error) error {
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return err
	}
	return io.ErrNoProgress
}

// TestListenerBounds: connections that say nothing do not keep others out
// for ever, and the listener ends with them open.
func TestListenerBounds(t *testing.T) {
	l, err := Listen([]string{"127.0.0.1:0"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan bool, 1)
	l.Handle(ClassState, func(_ context.Context, c net.Conn, plain bool) { c.Close(); served <- plain })
	l.Serve()
	var wg sync.WaitGroup
	for range 10 { // silent ones
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { io.Copy(io.Discard, c); c.Close() })
	}
	c, err := Dial(context.Background(), l.Addr().String(), ClassState, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if plain := <-served; !plain {
		t.Error("the flag was lost")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait() // all of them were closed
}
