package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colod/internal/conntest"
	"colod/qmp/relay"
)

// The tests named TestReal use the installed QEMU. Their guest is the firmware, which finds nothing
// to boot: enough for everything but guest memory and network.

var shimDir string // made by buildShim

func TestMain(m *testing.M) {
	if dir := os.Getenv(launchHelperEnv); dir != "" {
		launchHelper(dir)
	}
	before := len(openFiles())
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		// The runtime keeps a few for itself from the first network use on.
		if after := openFiles(); len(after) > before+4 {
			fmt.Fprintf(os.Stderr, "%d open files before the tests, after them: %q\n", before, after)
			code = 1
		}
	}
	if shimDir != "" {
		os.RemoveAll(shimDir)
	}
	os.Exit(code)
}

// openFiles lists what the process's descriptors are.
func openFiles() (names []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name, _ := os.Readlink("/proc/self/fd/" + e.Name())
		names = append(names, name)
	}
	return names
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
}

// protect makes s, launched with incoming, the secondary of p.
func protect(t testing.TB, p, s *VM, opt relay.Options) *pair {
	t.Helper()
	ctx := testContext(t, 60*time.Second)
	a, b := conntest.Loopback(t)
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

// TestRealStart shows what becomes of a QEMU whose COLO is broken (COLOD_QEMU naming a 10.0.2): it is
// found out, with a sentence, and its guest runs on. Every other one enters COLO.
func TestRealStart(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	p, s := launch(t, testConfig(t, "p"), false), launch(t, testConfig(t, "s"), true)
	a, b := conntest.Loopback(t)
	in, out := filepath.Join(s.RunDir(), "state.sock"), filepath.Join(p.RunDir(), "state.sock")
	if err := s.PrepareSecondary(ctx, in); err != nil {
		t.Fatal(err)
	}
	rs, err := relay.NewSecondary(ctx, b, in, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Cut()
	rp, err := relay.NewPrimary(out, func(context.Context) (net.Conn, error) { return a, nil }, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rp.Cut()
	_, err = p.StartColo(ctx, out)
	if support, _ := p.Version().Support(); support == Unsupported {
		if !errors.Is(err, ErrColoBroken) || !strings.Contains(err.Error(), p.Version().String()+" cannot run COLO") {
			t.Errorf("QEMU %s: %v", p.Version(), err)
		}
		t.Log(err)
	} else if err != nil {
		t.Error(err)
	}
	if st, err := p.QueryStatus(ctx); err != nil || !st.Running {
		t.Errorf("guest does not run: %+v, %v", st, err)
	}
	// A VM can be tried again after a start that failed for another reason.
	if err == nil {
		rp.Cut()
		if _, err := p.LostHeartbeat(ctx); err != nil {
			t.Error(err)
		}
	}
	var failed *MigrationError
	if _, err := p.StartColo(ctx, out+".nobody"); !errors.As(err, &failed) {
		t.Errorf("start towards nobody: %v, want a MigrationError", err)
	}
	if st, err := p.QueryStatus(ctx); err != nil || !st.Running {
		t.Errorf("guest does not run: %+v, %v", st, err)
	}
}
