package qmp

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colod/qmp/relay"
)

// The tests named TestReal use the installed QEMU. Their guest is the firmware, which finds nothing
// to boot: enough for everything but guest memory and network.

var shimDir string // made by buildShim

func TestMain(m *testing.M) {
	if dir := os.Getenv(launchHelperEnv); dir != "" {
		launchHelper(dir)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if shimDir != "" {
		os.RemoveAll(shimDir)
	}
	os.Exit(code)
}

var buildShim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "colod-shim-")
	if err != nil {
		return "", err
	}
	shimDir = dir
	so := filepath.Join(dir, "tcg-shim.so")
	out, err := exec.Command("cc", "-O2", "-shared", "-fPIC", "-o", so, "../internal/lab/shim/tcg-shim.c", "-ldl").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compile TCG shim: %w: %s", err, out)
	}
	return so, nil
})

func testContext(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// testConfig is a small VM with a run directory of its own.
func testConfig(t testing.TB, name string) VMConfig {
	t.Helper()
	so, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "colod-qmp-") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return VMConfig{Name: name, Binary: os.Getenv("COLOD_QEMU"), Accel: TCG, Memory: 64 << 20, RunDir: filepath.Join(dir, name), Env: []string{"LD_PRELOAD=" + so}}
}

func launch(t testing.TB, cfg VMConfig, incoming bool) *VM {
	t.Helper()
	v, err := Launch(testContext(t, 30*time.Second), cfg, incoming)
	if err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	return v
}

func endAtCleanup(t testing.TB, v *VM) {
	t.Cleanup(func() {
		if err := v.Kill(testContext(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		v.Close()
	})
}

// pair is two VMs in COLO with relays and TCP between them.
type pair struct {
	p, s   *VM
	rp, rs *relay.Relay
	dir    string
	gen    int
}

// tcpPipe returns the two ends of a TCP connection over loopback.
func tcpPipe(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// protect makes s, launched with incoming, the secondary of p.
func protect(t testing.TB, p, s *VM, opt relay.Options) *pair {
	t.Helper()
	ctx := testContext(t, 60*time.Second)
	a, b := tcpPipe(t)
	in := filepath.Join(s.RunDir(), "state-in.sock")
	out := filepath.Join(p.RunDir(), fmt.Sprintf("state-%d.sock", s.PID()))
	if err := s.PrepareSecondary(ctx, in); err != nil {
		t.Fatal(err)
	}
	rs, err := relay.NewSecondary(ctx, b, in, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.Cut)
	rp, err := relay.NewPrimary(out, func(context.Context) (net.Conn, error) { return a, nil }, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rp.Cut)
	if _, err := p.StartColo(ctx, out); err != nil {
		t.Fatal(err)
	}
	return &pair{p: p, s: s, rp: rp, rs: rs}
}

func startPair(t testing.TB) *pair {
	t.Helper()
	p := launch(t, testConfig(t, "p"), false)
	s := launch(t, testConfig(t, "s"), true)
	return protect(t, p, s, relay.Options{})
}

func TestRealCheckpoints(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	x := startPair(t)
	for i := range 20 {
		c, err := x.p.Checkpoint(ctx)
		if err != nil {
			t.Fatalf("checkpoint %d: %v", i, err)
		}
		t.Logf("pause %v total %v; relay %+v", c.Pause(), c.Resumed.Sub(c.Triggered), x.rp.Stats())
	}
}
