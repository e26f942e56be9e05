package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
	"colod/internal/report"
)

// headers are the lengths, in bytes, of what is before the stream's bytes in an Ethernet frame of an established connection
// over IPv4: TCP has its time stamps.
const headers = 14 + 20 + 32

// causes are seven differences of real software, each told by its name, with the exact place where bytes differ.
func (r *reportLab) causes(t *testing.T) {
	is := func(kind string) func(*report.Report) bool {
		return func(x *report.Report) bool { return x.Cause.Kind == kind && (x.Bytes == nil || x.Position.Exact) }
	}
	// What the client gets beside the head of the answer is the primary's: so it is known independently of the report.
	answers := map[string]bool{}
	ask := func(path string) func() {
		return func() { answers[string(r.curl(path, 5))] = true }
	}
	// position checks the place of the first difference against what a client got.
	position := func(x *report.Report) {
		t.Helper()
		b, p := x.Bytes, x.Position
		if b == nil || !p.Exact || !p.Absolute || b.At >= len(b.Primary) || b.At >= len(b.Secondary) ||
			b.Primary[b.At] == b.Secondary[b.At] || !bytes.Equal(b.Primary[:b.At], b.Secondary[:b.At]) {
			t.Fatalf("report %d: position %+v, bytes %+v", x.Number, p, b)
		}
		from := int(p.Stream) - b.At
		for a := range answers {
			if from < 0 || from+len(b.Primary) > len(a) || a[from:from+len(b.Primary)] != string(b.Primary) {
				continue
			}
			// Each answer is a segment of its own.
			if in := int(p.Stream) - strings.LastIndex(a[:p.Stream], "HTTP/1.1 200 OK"); p.Frame != headers+in {
				t.Errorf("report %d: byte %d of the answer is byte %d of the frame, want %d", x.Number, in, p.Frame, headers+in)
			}
			return
		}
		t.Errorf("report %d: no client got %q at byte %d of its stream", x.Number, b.Primary, from)
	}

	// Asked without a pause over one connection, some answer is made when one copy's clock shows the next second already.
	date := r.until("HTTP Date", ask("/date?[1-100000]"), is(report.KindHTTPDate))
	position(date)
	if !bytes.Contains(date.Bytes.Primary[:date.Bytes.At], []byte("\r\nDate: ")) || !date.Cause.Sure || date.Flow.Service != "http" {
		t.Errorf("date: %+v in %q", date.Cause, date.Bytes.Primary[:date.Bytes.At])
	}

	cookie := r.until("cookie", ask("/cookie"), is(report.KindHTTPCookie))
	position(cookie)
	if !bytes.Contains(cookie.Bytes.Primary[:cookie.Bytes.At], []byte("sid=")) || cookie.Cause.Field != "sid" {
		t.Errorf("cookie: %+v in %q", cookie.Cause, cookie.Bytes.Primary)
	}
	if c := cookie.Checkpoint; c.StopMS <= 0 || c.Bytes == 0 || cookie.Timing.Primary == nil || cookie.Timing.Secondary == nil {
		t.Errorf("cookie: checkpoint %+v, timing %+v", c, cookie.Timing)
	}

	// The server's first record: 5 bytes of its head, 4 of the message's, 2 of the version, then 32 random bytes (RFC 8446).
	// Straight after a checkpoint both copies may draw the same: several connections make it likely that one differs.
	hello := r.until("TLS handshake", func() {
		for range 5 {
			if _, err := r.client("curl", "-s", "-o", "/dev/null", "--cacert", r.CACert(), "https://"+image.GuestIPv4+"/static/1k"); err != nil {
				t.Logf("https: %v", err)
			}
		}
	}, func(x *report.Report) bool {
		return is(report.KindTLSHello)(x) && x.Position.Absolute && x.Cause.Field == "ServerHello random"
	})
	if p := hello.Position; p.Stream < 11 || p.Stream > 11+31 || p.Frame != headers+int(p.Stream) || hello.Bytes.Primary[hello.Bytes.At] == hello.Bytes.Secondary[hello.Bytes.At] {
		t.Errorf("TLS: %+v", p)
	}

	// After the version line a packet: length, padding, message number, then 16 bytes of cookie (RFC 4253).
	kex := r.until("ssh key exchange", func() {
		argv := append(append([]string{"ssh"}, client.SSHArgs(r.SSHKey(), r.KnownHosts())...), "root@"+image.GuestIPv4, "true")
		if _, err := r.client(argv...); err != nil {
			t.Logf("ssh: %v", err)
		}
	}, func(x *report.Report) bool {
		return is(report.KindSSHKex)(x) && x.Bytes != nil && x.Cause.Field == "KEXINIT cookie"
	})
	banner, err := r.client("bash", "-c", "exec 3<>/dev/tcp/"+image.GuestIPv4+"/22; IFS= read -r line <&3; printf '%s\n' \"$line\"")
	if err != nil || !bytes.HasPrefix(banner, []byte("SSH-2.0-")) {
		t.Fatalf("ssh: the version line is %q, %v", banner, err)
	}
	if p, version := kex.Position, len(banner); !p.Absolute || int(p.Stream) < version+6 || int(p.Stream) > version+21 || p.Frame != headers+int(p.Stream)-version {
		t.Errorf("ssh: %+v, version line of %d bytes", p, version)
	}

	causes := 6
	if long { // it takes minutes: after a checkpoint both copies draw the same port for a while
		causes++
		r.ephemeralPort(is(report.KindEphemeralPort))
	}

	// Eight ask at the same time: who is counted first is decided by each copy's threads. Each connection carries one
	// answer, so that its stream is that answer; those of all are kept.
	counter := r.until("counter race", func() {
		out, err := r.client("curl", "-s", "-i", "--parallel", "--parallel-immediate", "--parallel-max", "8", "-H", "Connection: close", "http://"+image.GuestIPv4+"/counter?[1-16]")
		if err != nil {
			t.Logf("counters: %v", err)
		}
		for _, a := range strings.SplitAfter(string(out), "HTTP/1.1 ") {
			answers["HTTP/1.1 "+strings.TrimSuffix(a, "HTTP/1.1 ")] = true
		}
	}, func(x *report.Report) bool { return is(report.KindCounter)(x) && x.Position.Absolute })
	position(counter)

	// The secondary gets next to no processor for longer than the hold budget; it does not stand still, as a hung one would.
	lag := r.until("lagging secondary", func() {
		st := r.protected()
		vm, err := r.VM(other(st.Speaker))
		if err != nil {
			return // it has just been lost
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		get := r.Command(ctx, lab.Client, "curl", "-s", "-o", "/dev/null", "http://"+image.GuestIPv4+"/static/20k")
		slow(t, vm, time.Duration(st.Path.BudgetMS*float64(time.Millisecond))+2*time.Second, get)
	}, func(x *report.Report) bool {
		return x.Cause.Kind == report.KindLag && x.Flow.Service == "http" && !x.Flow.Outgoing
	})
	if lag.Reason != "silence-secondary" || lag.Timing.HeldUS < 2_000_000 || lag.Bytes != nil || lag.Position.Exact || lag.Position.Seq == 0 {
		t.Errorf("lag: %+v", lag)
	}

	kinds := map[string]bool{}
	for _, x := range r.seen {
		kinds[x.Cause.Kind] = true
		if x.Cause.Advice == "" || x.Checkpoint == nil {
			t.Errorf("report %d: no advice or no checkpoint: %+v", x.Number, x)
		}
	}
	if len(kinds) != causes {
		t.Errorf("causes: %v", slices.Sorted(maps.Keys(kinds)))
	}
}

// ephemeralPort: a server at the client's side, which the guest asks: each copy opens the connection from a port of its own.
func (r *reportLab) ephemeralPort(ok func(*report.Report) bool) {
	t := r.t
	t.Helper()
	const port = 8099
	server := r.Command(t.Context(), lab.Client, "socat", fmt.Sprintf("TCP-LISTEN:%d,fork,reuseaddr,bind=%s", port, lab.ClientIPv4),
		`SYSTEM:while read -r l && [ ${#l} -gt 1 ]; do :; done; printf 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'`)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	outgoing := r.until("ephemeral port", func() {
		// It may come before socat listens, and fail.
		_, _ = r.client("curl", "-s", "-m", "30", fmt.Sprintf("http://%s/fetch?url=http://%s:%d/", image.GuestIPv4, lab.ClientIPv4, port))
	}, ok)
	if f := outgoing.Flow; !f.Outgoing || f.PeerPort != port || f.Peer != lab.ClientIPv4 || f.GuestPort < 1024 {
		t.Errorf("ephemeral port: %+v", f)
	}
}

// slow lets a process run for a hundredth of a time in which a client asks.
func slow(t *testing.T, pid int, d time.Duration, client *exec.Cmd) {
	t.Helper()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		// It may have ended meanwhile; the next round looks for it anew.
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(500 * time.Millisecond)
		_ = syscall.Kill(pid, syscall.SIGCONT)
		time.Sleep(5 * time.Millisecond)
	}
	_ = client.Wait() // how it fares is not the matter here
}
