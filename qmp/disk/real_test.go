package disk

import (
	"context"
	"crypto/sha256"
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
	"colod/qmp"
	"colod/qmp/relay"
)

// The tests named TestReal use the installed QEMU. Their guest is the firmware, which finds nothing to boot;
// what a guest would write is written by QEMU's own tester (qemu-io) through the guest's device.

var shimDir string

func TestMain(m *testing.M) {
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
	// What qemu-io prints goes to QEMU's log, and is wanted there at once.
	lines := filepath.Join(dir, "lines.c")
	if err := os.WriteFile(lines, []byte("#include <stdio.h>\n__attribute__((constructor)) static void f(void) { setvbuf(stdout, NULL, _IOLBF, 0); }\n"), 0o600); err != nil {
		return "", err
	}
	var libs []string
	for _, src := range []string{"../../internal/lab/shim/tcg-shim.c", lines} {
		so := filepath.Join(dir, filepath.Base(src)+".so")
		out, err := exec.Command("cc", "-O2", "-shared", "-fPIC", "-o", so, src, "-ldl").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("compile %s: %w: %s", src, err, out)
		}
		libs = append(libs, so)
	}
	return strings.Join(libs, ":"), nil
})

func testContext(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// host is one node: a directory, its images, a VM or none.
type host struct {
	t      testing.TB
	name   string
	dir    string
	layout *Layout
	vm     *qmp.VM

	unchecked bool // launch without the check
}

const testSize = 64 << 20

func newHost(t testing.TB, name string, formats ...string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "colod-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, name: name, dir: dir, layout: &Layout{Dir: filepath.Join(dir, "disks")}}
	if len(formats) == 0 {
		formats = []string{QCOW2}
	}
	for i, f := range formats {
		h.layout.Disks = append(h.layout.Disks, Disk{Path: filepath.Join(dir, fmt.Sprintf("disk%d.%s", i, f)), Format: f, Size: testSize, Kind: Replicated})
	}
	if err := h.layout.Validate(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) makeImages() {
	h.t.Helper()
	for _, d := range h.layout.Disks {
		if err := d.make(testContext(h.t, 30*time.Second)); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *host) launch(incoming bool) {
	h.t.Helper()
	ctx := testContext(h.t, 60*time.Second)
	if err := h.tryLaunch(ctx, incoming); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) tryLaunch(ctx context.Context, incoming bool) error {
	so, err := buildShim()
	if err != nil {
		return err
	}
	if !h.unchecked {
		if err := h.layout.Check(ctx, incoming); err != nil {
			return err
		}
	}
	if incoming {
		err = h.layout.MakeOverlays(ctx)
	} else {
		_, err = h.layout.Recover(ctx)
	}
	if err != nil {
		return err
	}
	vm, err := qmp.Launch(ctx, qmp.VMConfig{
		Name: "guest", Binary: os.Getenv("COLOD_QEMU"), Accel: qmp.TCG, Memory: 64 << 20, RunDir: filepath.Join(h.dir, "vm"), Env: []string{"LD_PRELOAD=" + so},
		Args: h.layout.Args(incoming),
	}, incoming)
	if err != nil {
		return err
	}
	h.vm = vm
	h.t.Cleanup(func() { h.kill(vm) })
	return nil
}

func (h *host) kill(vm *qmp.VM) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := vm.Kill(ctx); err != nil {
		h.t.Error(err)
	}
	vm.Close()
}

// end kills the host's VM.
func (h *host) end() {
	h.kill(h.vm)
	h.vm = nil
}

// io lets QEMU's tester do something through the guest's device, and returns what it said.
func (h *host) io(disk int, command string) string {
	h.t.Helper()
	log := filepath.Join(h.vm.RunDir(), qmp.FileLog)
	before, err := os.ReadFile(log)
	if err != nil {
		h.t.Fatal(err)
	}
	line := fmt.Sprintf("qemu-io -d %s/virtio-backend %q", "/machine/peripheral/"+deviceName(disk), command)
	var out string
	if err := h.vm.Monitor().Run(testContext(h.t, 60*time.Second), "human-monitor-command", obj{"command-line": line}, &out); err != nil {
		h.t.Fatal(err)
	}
	after, err := os.ReadFile(log)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(out + string(after[len(before):]))
}

func (h *host) write(disk int, pattern byte, at, length string) {
	h.t.Helper()
	if out := h.io(disk, fmt.Sprintf("write -P %d %s %s", pattern, at, length)); !strings.Contains(out, "bytes at offset") {
		h.t.Fatalf("%s: write %d at %s: %s", h.name, pattern, at, out)
	}
}

func (h *host) reads(disk int, pattern byte, at, length string) {
	h.t.Helper()
	if out := h.io(disk, fmt.Sprintf("read -P %d %s %s", pattern, at, length)); !strings.Contains(out, "bytes at offset") || strings.Contains(out, "verification failed") {
		h.t.Fatalf("%s: want %d at %s: %s", h.name, pattern, at, out)
	}
}

// digest is that of the content of a disk whose VM has ended.
func (h *host) digest(disk int) string {
	h.t.Helper()
	d := h.layout.Disks[disk]
	raw := filepath.Join(h.dir, "raw")
	defer os.Remove(raw)
	if out, err := exec.Command("qemu-img", "convert", "-f", d.Format, "-O", "raw", d.Path, raw).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(raw)
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// protection is two hosts in COLO.
type protection struct {
	t                testing.TB
	p, s             *host
	session          string
	rp, rs           *relay.Relay
	streamP, streamS *Stream
	refused          chan error // what the secondary's node saw of refusals
}

var sessions int

// prepare launches the secondary and opens the stream between the two.
func prepare(t testing.TB, p, s *host) *protection {
	t.Helper()
	ctx := testContext(t, 120*time.Second)
	sessions++
	x := &protection{t: t, p: p, s: s, session: fmt.Sprintf("t-%d", sessions)}
	s.launch(true)
	nbd := filepath.Join(s.vm.RunDir(), "nbd-"+x.session)
	if err := s.layout.Export(ctx, s.vm.Monitor(), nbd); err != nil {
		t.Fatal(err)
	}
	x.refused = make(chan error, 16)
	x.streamS = NewSecondaryStream(func(err error) {
		select {
		case x.refused <- err:
		default:
		}
	})
	t.Cleanup(x.streamS.Cut)
	var err error
	x.streamP, err = NewPrimaryStream(x.sock(), func(ctx context.Context) (net.Conn, error) {
		a, b := conntest.Loopback(t)
		return a, x.streamS.Join(ctx, b, nbd)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.streamP.Cut)
	return x
}

func (x *protection) sock() string { return filepath.Join(x.p.vm.RunDir(), "disk-"+x.session) }

// copyDisks is the first part of protect; it returns whether only changes were copied, and how many bytes.
func (x *protection) copyDisks() (changed bool, bytes uint64) {
	x.t.Helper()
	ctx := testContext(x.t, 120*time.Second)
	o, err := x.s.layout.Offer()
	if err != nil {
		x.t.Fatal(err)
	}
	q := x.p.vm.Monitor()
	since := ""
	if ok, err := x.p.layout.Knows(ctx, q, o.Base); err != nil {
		x.t.Fatal(err)
	} else if ok {
		since = o.Base
	}
	if err := x.s.layout.BeginCopy(x.session, x.p.name); err != nil {
		x.t.Fatal(err)
	}
	if err := x.p.layout.Start(ctx, q, Sync{Sock: x.sock(), Session: x.session, Since: since}); err != nil {
		x.t.Fatal(err)
	}
	return since != "", x.streamP.Stats().Out
}

func protect(t testing.TB, p, s *host) *protection {
	t.Helper()
	x := prepare(t, p, s)
	began := time.Now()
	changed, n := x.copyDisks()
	t.Logf("session %s: disks copied in %v, changes only %v, %d bytes", x.session, time.Since(began).Round(time.Millisecond), changed, n)
	x.copyGuest()
	return x
}

func (x *protection) copyGuest() {
	t := x.t
	t.Helper()
	ctx := testContext(t, 120*time.Second)
	a, b := conntest.Loopback(t)
	in := filepath.Join(x.s.vm.RunDir(), "mem-"+x.session)
	out := filepath.Join(x.p.vm.RunDir(), "mem-"+x.session)
	if err := x.s.vm.PrepareSecondary(ctx, in); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.rs, err = relay.NewSecondary(ctx, b, in, relay.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.rs.Cut)
	if x.rp, err = relay.NewPrimary(out, func(context.Context) (net.Conn, error) { return a, nil }, relay.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.rp.Cut)
	if _, err := x.p.vm.StartColo(ctx, out); err != nil {
		t.Fatal(err)
	}
	if err := x.s.layout.EndCopy(x.session); err != nil {
		t.Fatal(err)
	}
}

// checkpoint takes one; nothing may have been refused until then.
func (x *protection) checkpoint() {
	x.t.Helper()
	select {
	case err := <-x.refused:
		x.t.Errorf("refused: %v", err)
	default:
	}
	if _, err := x.p.vm.Checkpoint(testContext(x.t, 60*time.Second)); err != nil {
		x.t.Fatal(err)
	}
}

func (x *protection) cut() {
	x.streamP.Cut()
	x.streamS.Cut()
	if x.rp != nil {
		x.rp.Cut()
		x.rs.Cut()
	}
}

// takeOver is the loss of the primary; the secondary is one alone afterwards.
func (x *protection) takeOver() {
	x.t.Helper()
	ctx := testContext(x.t, 60*time.Second)
	x.cut()
	if err := x.s.layout.Promoting(); err != nil {
		x.t.Fatal(err)
	}
	began := time.Now()
	if err := x.s.layout.StopExport(ctx, x.s.vm.Monitor()); err != nil {
		x.t.Fatal(err)
	}
	if _, err := x.s.vm.LostHeartbeat(ctx); err != nil {
		x.t.Fatal(err)
	}
	x.t.Logf("session %s: taken over in %v", x.session, time.Since(began))
	if st, err := x.s.vm.QueryStatus(ctx); err != nil || !st.Running {
		x.t.Fatalf("guest does not run: %+v, %v", st, err)
	}
}

func (x *protection) committed() {
	x.t.Helper()
	ctx := testContext(x.t, 60*time.Second)
	began := time.Now()
	if err := x.s.layout.AwaitCommit(ctx, x.s.vm.Monitor()); err != nil {
		x.t.Fatal(err)
	}
	x.t.Logf("session %s: overlays committed after %v", x.session, time.Since(began))
	if err := x.s.layout.Committed(); err != nil {
		x.t.Fatal(err)
	}
}

// goOn is the loss of the secondary.
func (x *protection) goOn() {
	x.t.Helper()
	ctx := testContext(x.t, 60*time.Second)
	x.cut()
	if _, err := x.p.vm.LostHeartbeat(ctx); err != nil {
		x.t.Fatal(err)
	}
	if err := x.p.layout.Leave(ctx, x.p.vm.Monitor()); err != nil {
		x.t.Fatal(err)
	}
	if st, err := x.p.vm.QueryStatus(ctx); err != nil || !st.Running {
		x.t.Fatalf("guest does not run: %+v, %v", st, err)
	}
}

func TestRealTakeOver(t *testing.T) {
	a, b := newHost(t, "a", QCOW2, Raw), newHost(t, "b", QCOW2, Raw)
	a.makeImages()
	a.launch(false)
	a.write(0, 1, "0", "1M")
	a.write(1, 2, "5M", "1M")
	x := protect(t, a, b)
	// Before a checkpoint each guest sees its own writes.
	a.write(0, 3, "2M", "64k")
	b.reads(0, 0, "2M", "64k")
	b.reads(0, 1, "0", "1M")
	x.checkpoint()
	b.reads(0, 3, "2M", "64k")
	b.reads(1, 2, "5M", "1M")
	// The primary is ahead in one place, the secondary in another.
	a.write(0, 4, "4M", "64k")
	a.write(0, 5, "0", "64k")
	b.write(0, 6, "8M", "64k")
	a.end()
	x.takeOver()
	b.reads(0, 0, "4M", "64k")
	b.reads(0, 1, "0", "1M")
	b.reads(0, 6, "8M", "64k")
	b.write(0, 7, "9M", "64k")
	x.committed()
	b.reads(0, 1, "0", "1M")
	b.reads(0, 6, "8M", "64k")
	b.reads(0, 7, "9M", "64k")
	b.reads(1, 2, "5M", "1M")

	// And back again, with the survivor as primary.
	x = protect(t, b, a)
	b.write(0, 8, "10M", "64k")
	x.checkpoint()
	a.write(0, 9, "11M", "64k")
	b.end()
	x.takeOver()
	x.committed()
	for _, c := range []struct {
		pattern byte
		at, n   string
	}{{1, "0", "1M"}, {0, "4M", "64k"}, {6, "8M", "64k"}, {7, "9M", "64k"}, {8, "10M", "64k"}, {9, "11M", "64k"}} {
		a.reads(0, c.pattern, c.at, c.n)
	}
}
