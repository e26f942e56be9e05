package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colod/internal/conntest"
	"colod/internal/netconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chain is QEMU - relay - TCP - relay - QEMU.
type chain struct {
	prim, sec net.Conn // where the two QEMUs would be
	rp, rs    *Relay
	sock      string
	records   chan Checkpoint
}

func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newChain(t testing.TB, encrypt bool) *chain {
	t.Helper()
	return newChainOpt(t, encrypt, false)
}

// newChainOpt makes a chain whose relays copy, or splice where they can.
func newChainOpt(t testing.TB, encrypt, copies bool) *chain {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	a, b := conntest.Loopback(t)
	if encrypt {
		conf := conntest.TLS(t)
		a, b = tls.Client(netconn.Gather(a), conf), tls.Server(netconn.Gather(b), conf)
	}
	dir := socketDir(t)
	x := &chain{sock: filepath.Join(dir, "p.sock"), records: make(chan Checkpoint, 1000)}
	in := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", in)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	opt := Options{OnCheckpoint: func(c Checkpoint) { x.records <- c }, Copy: copies}
	if x.rp, err = NewPrimary(x.sock, func(context.Context) (net.Conn, error) { return a, nil }, opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.rp.Cut)
	if x.prim, err = net.Dial("unix", x.sock); err != nil {
		t.Fatal(err)
	}
	if x.rs, err = NewSecondary(ctx, b, in, Options{Copy: copies}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.rs.Cut)
	if x.sec, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{x.prim, x.sec} {
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	return x
}

func both(t *testing.T, f func(t *testing.T, encrypt bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("TLS", func(t *testing.T) { f(t, true) })
}

func send(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %x, want %x", got, want)
	}
}

func word(n byte) []byte { return []byte{0, 0, 0, n} }

// TestCheckpointRecords plays the back channel of a session and reads the records.
func TestCheckpointRecords(t *testing.T) {
	both(t, func(t *testing.T, encrypt bool) {
		x := newChain(t, encrypt)
		fwd := func(n int) {
			b := bytes.Repeat([]byte{7}, n)
			send(t, x.prim, b)
			expect(t, x.sec, b)
		}
		back := func(n byte) {
			send(t, x.sec, word(n))
			expect(t, x.prim, word(n))
		}
		fwd(5000)
		if p := x.rp.Stats().Phase; p != Copying {
			t.Errorf("phase %v, want copying", p)
		}
		back(msgReady)
		for i := range 3 {
			fwd(4) // the request
			back(msgReply)
			if p := x.rp.Stats().Phase; p != Transferring {
				t.Errorf("phase %v, want transferring", p)
			}
			fwd(1000 * (i + 1))
			back(msgReceived)
			if p := x.rp.Stats().Phase; p != Loading {
				t.Errorf("phase %v, want loading", p)
			}
			back(msgLoaded)
			c := <-x.records
			if c.N != uint64(i+1) || c.Bytes != uint64(4+1000*(i+1)) || c.Stop <= 0 || c.Transfer <= 0 || c.Load <= 0 || c.Begin.IsZero() {
				t.Errorf("record %d: %+v", i, c)
			}
			s := x.rp.Stats()
			if s.Phase != Idle || s.Checkpoints != uint64(i+1) || s.Last != c {
				t.Errorf("stats %+v", s)
			}
		}
		s := x.rs.Stats()
		if want := uint64(5000 + 3*4 + 6000); s.Forward != want || x.rp.Stats().Forward != want {
			t.Errorf("forward %d and %d, want %d", x.rp.Stats().Forward, s.Forward, want)
		}
		if s.Back != 4+3*12 || s.Spliced == encrypt {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestBulkIsWhole moves 64 MiB in pieces of all sizes while the back channel talks.
func TestBulkIsWhole(t *testing.T) {
	both(t, func(t *testing.T, encrypt bool) {
		x := newChain(t, encrypt)
		const total = 64 << 20
		sent := make(chan [32]byte, 1)
		go func() {
			h := sha256.New()
			src := rand.NewChaCha8([32]byte{1})
			buf := make([]byte, 1<<20)
			for left := total; left > 0; {
				n := min(left, 1+rand.IntN(len(buf)))
				src.Read(buf[:n])
				h.Write(buf[:n])
				if _, err := x.prim.Write(buf[:n]); err != nil {
					t.Error(err)
					break
				}
				left -= n
			}
			x.prim.(*net.UnixConn).CloseWrite()
			sent <- [32]byte(h.Sum(nil))
		}()
		go func() {
			for range 100 {
				x.sec.Write(word(msgReply))
			}
		}()
		got := make(chan int64, 1)
		go func() { n, _ := io.Copy(io.Discard, io.LimitReader(x.prim, 400)); got <- n }()
		h := sha256.New()
		n, err := io.Copy(h, x.sec)
		if err != nil || n != total {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if [32]byte(h.Sum(nil)) != <-sent {
			t.Error("bytes changed on the way")
		}
		if n := <-got; n != 400 {
			t.Errorf("back channel: %d bytes, want 400", n)
		}
		<-x.rp.Done()
		<-x.rs.Done()
		if !errors.Is(x.rp.Err(), io.EOF) {
			t.Errorf("ended with %v", x.rp.Err())
		}
	})
}

// TestCutFreesBothQEMUs: whatever state the stream is in, here with all buffers full because the far
// side froze.
func TestCutFreesBothQEMUs(t *testing.T) {
	both(t, func(t *testing.T, encrypt bool) {
		x := newChain(t, encrypt)
		blocked := make(chan error, 1)
		go func() {
			b := make([]byte, 1<<20)
			for {
				if _, err := x.prim.Write(b); err != nil {
					blocked <- err
					return
				}
			}
		}()
		for last := uint64(1); last != x.rp.Stats().Forward; { // until nothing moves
			last = x.rp.Stats().Forward
			time.Sleep(50 * time.Millisecond)
		}
		x.rp.Cut()
		x.rp.Cut()
		if err := <-blocked; err == nil || os.IsTimeout(err) {
			t.Errorf("the blocked write ended with %v", err)
		}
		if !errors.Is(x.rp.Err(), ErrCut) {
			t.Errorf("reason %v", x.rp.Err())
		}
		if _, err := net.Dial("unix", x.sock); err == nil {
			t.Error("still listening after Cut")
		}
		// The far relay ends as well, and frees its QEMU.
		if _, err := io.Copy(io.Discard, x.sec); os.IsTimeout(err) {
			t.Error("the far side was not told")
		}
		<-x.rs.Done()
	})
}

func TestEndOfEitherQEMUReachesTheOther(t *testing.T) {
	both(t, func(t *testing.T, encrypt bool) {
		for _, primary := range []bool{true, false} {
			x := newChain(t, encrypt)
			dead, alive := x.sec, x.prim
			if primary {
				dead, alive = x.prim, x.sec
			}
			dead.Close()
			if _, err := alive.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("primary %v: the survivor's read ended with %v", primary, err)
			}
			<-x.rp.Done()
			<-x.rs.Done()
		}
	})
}

func TestPrimaryErrors(t *testing.T) {
	dir := socketDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPrimary(file, nil, Options{}); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := NewPrimary(filepath.Join(dir, "no", "sock"), nil, Options{}); err == nil {
		t.Error("in a directory that is not there")
	}

	// A dial that fails: QEMU sees the end of its stream, the reason is kept.
	sock := filepath.Join(dir, "p.sock")
	why := errors.New("no route")
	ended := make(chan error, 1)
	r, err := NewPrimary(sock, func(context.Context) (net.Conn, error) { return nil, why }, Options{OnEnd: func(err error) { ended <- err }})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
	<-r.Done()
	if err := <-ended; !errors.Is(err, why) || !strings.HasPrefix(err.Error(), "connect to the other node") {
		t.Errorf("reason %v", err)
	}

	// A Cut while the dial is under way ends it.
	dialing := make(chan struct{})
	r, err = NewPrimary(sock, func(ctx context.Context) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c2, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	<-dialing
	r.Cut()

	// A Cut before QEMU came.
	if r, err = NewPrimary(sock, nil, Options{}); err != nil {
		t.Fatal(err)
	}
	r.Cut()
	if _, err := os.Stat(sock); err == nil {
		t.Error("socket left behind")
	}
}

func TestSecondaryWithoutQEMU(t *testing.T) {
	a, b := conntest.Loopback(t)
	_, err := NewSecondary(context.Background(), b, filepath.Join(socketDir(t), "none.sock"), Options{})
	if err == nil || !strings.Contains(err.Error(), "connect to QEMU's state socket") {
		t.Errorf("got %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("the connection handed over was not closed")
	}
}

// TestCutCountsWhatWasSaid: what the secondary's QEMU said before the relay was cut is known afterwards, read or not:
// a promotion decides by it which state the guest goes on from.
func TestCutCountsWhatWasSaid(t *testing.T) {
	for range 100 {
		x := newChain(t, false)
		send(t, x.sec, word(msgReady))
		expect(t, x.prim, word(msgReady)) // the relay is at work
		send(t, x.sec, word(msgReply))
		send(t, x.sec, word(msgReceived))
		x.rs.Cut()
		if s := x.rs.Stats(); s.Phase != Loading || s.Back != 12 {
			t.Fatalf("phase %v after %d bytes of the back channel, want %v after 12", s.Phase, s.Back, Loading)
		}
		if _, err := x.sec.Write(word(msgLoaded)); err == nil {
			t.Fatal("QEMU could still write after the cut")
		}
		x.rp.Cut()
		x.prim.Close()
		x.sec.Close()
	}
}
