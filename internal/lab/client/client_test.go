package client

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colod/internal/lab/pattern"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch runs one client, lets it work until cond holds, ends it in order and
// returns its last report.
func watch(t *testing.T, l Load, cond func(Report) bool) Report {
	t.Helper()
	l.Host = "127.0.0.1"
	if l.Name == "" {
		l.Name = string(l.Kind)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop, stopNow := context.WithCancel(ctx)
	defer stopNow()
	m := &meter{r: Report{Name: l.Name, Kind: l.Kind}, stop: stop}
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, l, m)
	}()
	for !cond(m.snapshot(false)) {
		select {
		case <-done:
			return m.snapshot(false)
		case <-ctx.Done():
			t.Fatalf("condition not reached: %+v", m.snapshot(false))
		case <-time.After(time.Millisecond):
		}
	}
	stopNow()
	<-done
	return m.snapshot(false)
}

func bytesOver(n int64) func(Report) bool { return func(r Report) bool { return r.Bytes >= n } }

// serveTCP runs a server for one connection at a time and returns its port.
func serveTCP(t *testing.T, serve func(net.Conn)) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// tamper is an echo server that changes the stream once, at an offset.
func tamper(at int, change func(b []byte) []byte) func(net.Conn) {
	return func(c net.Conn) {
		buf := make([]byte, 8192)
		off, done := 0, false
		for {
			n, err := c.Read(buf)
			out := buf[:n]
			if !done && off+n > at+64 && off <= at {
				i := at - off
				out = append(append([]byte(nil), buf[:i]...), change(append([]byte(nil), buf[i:n]...))...)
				done = true
			} else if !done && off <= at && off+n > at {
				at += n // not enough of it in this piece: later
			}
			off += n
			if len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

func TestEchoFindsEveryKindOfFault(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   Report
	}{
		{"none", func(b []byte) []byte { return b }, Report{}},
		{"five bytes lost", func(b []byte) []byte { return b[5:] }, Report{Lost: 5}},
		{"forty bytes repeated", func(b []byte) []byte { return append(append([]byte(nil), b[:40]...), b...) }, Report{Repeated: 40}},
		{"one bit changed", func(b []byte) []byte { b[0] ^= 0x10; return b }, Report{Corrupt: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := serveTCP(t, tamper(100_000, tt.change))
			r := watch(t, Load{Kind: Echo, Port: port}, bytesOver(600_000))
			if r.Lost != tt.want.Lost || r.Repeated != tt.want.Repeated || r.Corrupt != tt.want.Corrupt {
				t.Errorf("got lost %d, repeated %d, corrupt %d; want %+v", r.Lost, r.Repeated, r.Corrupt, tt.want)
			}
			if clean := tt.want == (Report{}); clean != r.Clean() {
				t.Errorf("clean = %v: %+v", r.Clean(), r)
			}
		})
	}
}

func TestEchoSeesBrokenConnection(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) {
		io.CopyN(c, c, 50_000)
		c.(*net.TCPConn).SetLinger(0)
	})
	r := watch(t, Load{Kind: Echo, Port: port}, func(Report) bool { return false })
	if r.Clean() || !strings.Contains(r.Error, "echo after") {
		t.Errorf("a reset was not noticed: %+v", r)
	}
}

// TestEchoSeesBrokenConnectionWhenFull: the end is told also while the writer waits for room.
func TestEchoSeesBrokenConnectionWhenFull(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) {
		io.CopyN(io.Discard, c, 100<<10)
		c.(*net.TCPConn).SetLinger(0)
	})
	r := watch(t, Load{Kind: Echo, Port: port}, func(Report) bool { return false })
	if r.Clean() || !strings.Contains(r.Error, "echo after") {
		t.Errorf("a reset was not noticed: %+v", r)
	}
}

func TestEchoMeasuresPause(t *testing.T) {
	const pause = 400 * time.Millisecond
	port := serveTCP(t, func(c net.Conn) {
		io.CopyN(c, c, 100_000)
		time.Sleep(pause)
		io.Copy(c, c)
	})
	r := watch(t, Load{Kind: Echo, Port: port}, bytesOver(400_000))
	// The client's clock starts with the last byte that it read, which on a busy machine may be read long after the
	// server began to sleep.
	if !r.Clean() || r.PauseMS < float64(pause.Milliseconds())/2 {
		t.Errorf("pause %.1f ms, want about %s; %+v", r.PauseMS, pause, r)
	}
}

func TestMarkStartsPauseAnew(t *testing.T) {
	m := &meter{stop: t.Context()}
	m.waiting()
	time.Sleep(30 * time.Millisecond)
	if r := m.snapshot(true); r.PauseMS < 30 {
		t.Errorf("a wait that lasts is not counted: %v", r.PauseMS)
	}
	m.heard(false)
	time.Sleep(30 * time.Millisecond)
	before := m.snapshot(true).PauseMS
	if after := m.snapshot(false).PauseMS; after != 0 {
		t.Errorf("pause %v ms after mark (before: %v), with nothing outstanding", after, before)
	}
}

func TestUDPEcho(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 2048)
		for i := 0; ; i++ {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			switch {
			case i == 10: // lost
			case i == 20: // twice
				pc.WriteTo(buf[:n], from)
				pc.WriteTo(buf[:n], from)
			default:
				pc.WriteTo(buf[:n], from)
			}
		}
	}()
	r := watch(t, Load{Kind: UDPEcho, Port: pc.LocalAddr().(*net.UDPAddr).Port, Rate: 2000}, func(r Report) bool { return r.Rounds > 100 })
	if !r.Clean() || r.Repeated != 1 || r.Lost < 1 {
		t.Errorf("got %+v, want one repeated, one lost, none corrupt", r)
	}
}

// serveHTTP runs a web server whose content h may change.
func serveHTTP(t *testing.T, h http.HandlerFunc) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}

func staticContent(w http.ResponseWriter, size int64, flip int64) {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for off := int64(0); off < size; {
		b := pattern.Static(off)
		b = append([]byte(nil), b[:min(int64(len(b)), size-off)]...)
		if flip >= off && flip < off+int64(len(b)) {
			b[flip-off] ^= 1
		}
		w.Write(b)
		off += int64(len(b))
	}
}

func TestDownloadComparesEveryByte(t *testing.T) {
	for _, flip := range []int64{-1, 0, 1_048_573, 2_999_999} {
		port := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { staticContent(w, 3_000_000, flip) })
		r := watch(t, Load{Kind: Download, Port: port, Size: 3_000_000, Count: 1}, func(Report) bool { return false })
		if want := int64(0); flip >= 0 {
			want = 1
			if r.Corrupt != want || r.Clean() {
				t.Errorf("byte %d changed: %+v", flip, r)
			}
		} else if !r.Clean() || !r.Done || r.Bytes != 3_000_000 {
			t.Errorf("nothing changed: %+v", r)
		}
	}
}

func TestDownloadCutShort(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) {
		bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
		c.Write(pattern.Static(0)[:40_000])
	})
	r := watch(t, Load{Kind: Download, Port: port, Size: 100_000, Count: 1}, func(Report) bool { return false })
	if r.Clean() || r.Error == "" {
		t.Errorf("a short answer was taken for whole: %+v", r)
	}
}

func TestUploadAndOthersOverOneServer(t *testing.T) {
	var count atomic.Int64
	spoil := false
	port := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			h := sha256.New()
			io.Copy(h, r.Body)
			fmt.Fprintln(w, hex.EncodeToString(h.Sum(nil)))
		case "/counter":
			n := count.Add(1)
			if spoil && n == 30 {
				n = count.Add(3)
			}
			fmt.Fprintln(w, n)
		case "/random":
			b := []byte(strings.Repeat("x", 4096))
			sum := sha256.Sum256(b)
			w.Header().Set("X-Sha256", hex.EncodeToString(sum[:]))
			w.Header().Set("Content-Length", "4096")
			w.Write(b)
		}
	})
	for _, k := range []Kind{Upload, Counter, Random} {
		if r := watch(t, Load{Kind: k, Port: port, Size: 4096}, func(r Report) bool { return r.Rounds > 10 }); !r.Clean() || !r.Done {
			t.Errorf("%s: %+v", k, r)
		}
	}
	spoil = true
	count.Store(0)
	if r := watch(t, Load{Kind: Counter, Port: port}, func(r Report) bool { return r.Rounds > 40 }); r.Lost != 3 || r.Clean() {
		t.Errorf("a gap of 3 in the counter: %+v", r)
	}
}

func TestRedisGap(t *testing.T) {
	n := 0
	port := serveTCP(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, "colod:") {
				if n++; n == 50 {
					n = 52
				}
				fmt.Fprintf(c, ":%d\r\n", n)
			}
		}
	})
	r := watch(t, Load{Kind: Redis, Port: port}, func(r Report) bool { return r.Rounds > 10 })
	if r.Lost != 2 || r.Clean() {
		t.Errorf("a gap of 2: %+v", r)
	}
}

func TestServeProtocol(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) { io.Copy(c, c) })
	in, requests := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := serve(t.Context(), in, out)
		out.Close()
		done <- err
	}()
	json.NewEncoder(requests).Encode([]Load{{Kind: Echo, Host: "127.0.0.1", Port: port, Rate: 100_000}})
	lines := bufio.NewReader(answers)
	ask := func(request string) []Report {
		t.Helper()
		io.WriteString(requests, request+"\n")
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		var r []Report
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		return r
	}
	for ask("report")[0].Bytes == 0 {
	}
	ask("mark")
	if r := ask("stop"); !r[0].Done || !r[0].Clean() {
		t.Errorf("after stop: %+v", r)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServeRefusesNonsense(t *testing.T) {
	for _, in := range []string{"", "nonsense\n", "[]\nfoo\n"} {
		if err := serve(t.Context(), strings.NewReader(in), io.Discard); err == nil {
			t.Errorf("input %q: no error", in)
		}
	}
}
