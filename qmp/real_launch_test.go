package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/qmp/qmptest"
)

func TestRealLaunch(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	cfg := testConfig(t, "guest1")
	v := launch(t, cfg, false)
	if s, err := v.QueryStatus(ctx); err != nil || !s.Running {
		t.Fatalf("%+v, %v", s, err)
	}
	// It is in a session of its own and has our name.
	if sid, err := unix.Getsid(v.PID()); err != nil || sid != v.PID() {
		t.Errorf("session %d, %v", sid, err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", v.PID())); err != nil || strings.TrimSpace(string(b)) != "colod-guest1" {
		t.Errorf("process name %q, %v", b, err)
	}
	// Its directory is taken.
	if _, err := Launch(ctx, cfg, false); !errors.Is(err, ErrVMRunning) {
		t.Errorf("second launch: %v", err)
	}
	if err := v.Remove(); !errors.Is(err, ErrVMRunning) {
		t.Errorf("Remove of a live VM: %v", err)
	}
	if err := v.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := v.QueryStatus(ctx); err != nil || s.Status != "paused" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := v.Cont(ctx); err != nil {
		t.Fatal(err)
	}
	// A planned end says so.
	ev := v.Subscribe(0)
	if err := v.Quit(ctx); err != nil && !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	planned := false
	for e := range ev.C {
		planned = planned || e.PlannedEnd()
	}
	if !planned {
		t.Error("no SHUTDOWN event of a planned end")
	}
	<-v.Exited()
	if s := v.DeathReport(); !strings.Contains(s, "exit status 0") {
		t.Errorf("death report %q", s)
	}
	if err := v.Remove(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != FileLog && e.Name() != FileConsole {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestRealDeathIsSeenAtOnce(t *testing.T) {
	var worst time.Duration
	for range 5 {
		v := launch(t, testConfig(t, "guest1"), false)
		start := time.Now()
		if err := v.proc.kill(); err != nil {
			t.Fatal(err)
		}
		<-v.Died()
		worst = max(worst, v.DiedAt().Sub(start))
		<-v.Exited()
		if s := v.DeathReport(); !strings.Contains(s, "signal: killed") {
			t.Errorf("death report %q", s)
		}
		if err := v.Kill(testContext(t, time.Second)); err != nil {
			t.Errorf("Kill of a dead VM: %v", err)
		}
	}
	t.Logf("kill to Died: %v at worst", worst)
}

func TestRealLaunchErrors(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	for _, c := range []struct {
		name   string
		change func(*VMConfig)
		want   []string
	}{
		{"no binary", func(c *VMConfig) { c.Binary = "qemu-that-is-not-there" }, []string{"find QEMU", "apt install qemu-system-x86"}},
		{"not QEMU", func(c *VMConfig) { c.Binary = "/bin/false" }, []string{"QEMU ended", "exit status 1"}},
		{"wrong option", func(c *VMConfig) { c.Args = []string{"-no-such-option"} }, []string{"exit status 1", "QEMU said", "-no-such-option"}},
		{"no accelerator", func(c *VMConfig) { c.Accel = 0 }, []string{"want KVM or TCG"}},
		{"no memory", func(c *VMConfig) { c.Memory = 1000 }, []string{"memory 1000 bytes"}},
		{"bad name", func(c *VMConfig) { c.Name = "a,b" }, []string{`name "a,b"`}},
		{"long path", func(c *VMConfig) { c.RunDir += strings.Repeat("x", 100) }, []string{"run directory", "at most 90 bytes"}},
		{"no kernel", func(c *VMConfig) { c.Kernel = "/nowhere/vmlinuz" }, []string{"boot file", "/nowhere/vmlinuz"}},
		{"bad MAC", func(c *VMConfig) { c.Tap, c.MAC = "tap9", "zz" }, []string{`MAC address "zz"`}},
		{"no tap", func(c *VMConfig) {
			c.Tap, c.MAC = "colod/none", "52:54:00:12:34:56"
		}, []string{"tap name"}},
		{"bad env", func(c *VMConfig) { c.Env = []string{"X"} }, []string{`environment "X"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t, "guest1")
			c.change(&cfg)
			v, err := Launch(ctx, cfg, false)
			if err == nil {
				v.Kill(ctx)
				v.Close()
				t.Fatal("launched")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			for _, f := range []string{FileRegistry, FileQMP} {
				if _, err := os.Stat(filepath.Join(cfg.RunDir, f)); err == nil {
					t.Errorf("%s left behind", f)
				}
			}
		})
	}
}

func TestRealAdopt(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	cfg := testConfig(t, "guest1")
	if _, err := Adopt(ctx, cfg.RunDir); !errors.Is(err, ErrNoVM) {
		t.Errorf("before launch: %v", err)
	}
	first := launch(t, cfg, false)
	first.Close()
	select {
	case <-first.Died():
		t.Fatal("Close looks like a death")
	case <-time.After(20 * time.Millisecond):
	}
	v, err := Adopt(ctx, cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if v.PID() != first.PID() || v.Name() != "guest1" || v.RunDir() != cfg.RunDir {
		t.Errorf("adopted %d %s %s", v.PID(), v.Name(), v.RunDir())
	}
	if err := v.Yank(ctx); err != nil {
		t.Errorf("emergency monitor: %v", err)
	}
	v.Close()

	// By the socket alone, as of a VM that we did not start.
	v, err = Adopt(ctx, filepath.Join(cfg.RunDir, FileQMP))
	if err != nil {
		t.Fatal(err)
	}
	if v.PID() != first.PID() {
		t.Errorf("adopted %d, want %d", v.PID(), first.PID())
	}
	if err := v.Yank(ctx); err != nil {
		t.Errorf("yank over the main monitor: %v", err)
	}
	start := time.Now()
	if err := v.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	<-v.Died()
	t.Logf("death of an adopted VM seen after %v", v.DiedAt().Sub(start))
	v.Close()

	// The dead one's directory is stale, and cleaned.
	if _, err := Adopt(ctx, cfg.RunDir); !errors.Is(err, ErrNoVM) {
		t.Errorf("dead VM: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.RunDir, FileQMP)); err == nil {
		t.Error("stale socket not removed")
	}
}

// A number in a file is never trusted: another process that got it is neither adopted nor killed.
func TestRecycledPIDIsLeftAlone(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	start, err := startTime(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, r := range []registry{
		{PID: other.Process.Pid, Start: start - 1, Boot: boot}, // another time, same number
		{PID: other.Process.Pid, Start: start, Boot: "another boot"},
		{PID: other.Process.Pid, Start: start, Boot: boot}, // even the right one: nothing answers
	} {
		r.Format, r.Name, r.QMP, r.OOB = 1, "guest1", filepath.Join(dir, FileQMP), filepath.Join(dir, FileOOB)
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(ctx, dir); !errors.Is(err, ErrNoVM) {
			t.Errorf("%+v: %v", r, err)
		}
		if r.Boot == boot && r.Start == start {
			continue
		}
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		if err := EndStale(ctx, dir); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	// A monitor that belongs to another process than the registered one.
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) { _ = c.Return(cmd, "[]") })
	r := registry{Format: 1, Name: "guest1", PID: other.Process.Pid, Start: start, Boot: boot, QMP: path}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(ctx, dir); !errors.Is(err, ErrNoVM) || !strings.Contains(err.Error(), "the monitor belongs to process") {
		t.Errorf("foreign monitor: %v", err)
	}
	if err := unix.Kill(other.Process.Pid, 0); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
}

func TestRegistryErrors(t *testing.T) {
	ctx := testContext(t, 10*time.Second)
	for text, want := range map[string]string{"{": "read VM registry", `{"format": 7}`: "format 7, this colod knows 1"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileRegistry), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(ctx, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestRealHungVM(t *testing.T) {
	cfg := testConfig(t, "guest1")
	v := launch(t, cfg, false)
	v.Close()
	freeze(t, handleOf(t, v.PID()))
	if _, err := Adopt(testContext(t, 100*time.Millisecond), cfg.RunDir); !errors.Is(err, ErrNoReply) {
		t.Errorf("adopt a VM that hangs: %v, want ErrNoReply", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.RunDir, FileRegistry)); err != nil {
		t.Errorf("its registry is gone: %v", err)
	}
	if err := EndStale(testContext(t, 20*time.Second), cfg.RunDir); err != nil {
		t.Error(err)
	}
	if _, err := Adopt(testContext(t, time.Second), cfg.RunDir); !errors.Is(err, ErrNoVM) {
		t.Errorf("after EndStale: %v", err)
	}
}

// handleOf is a handle of a process for tests.
func handleOf(t *testing.T, pid int) *VM {
	t.Helper()
	p, err := openProcess(pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.release)
	return &VM{proc: p}
}

const launchHelperEnv = "COLOD_TEST_LAUNCH"

// launchHelper is a colod that launches a VM and dies at once.
func launchHelper(config string) {
	var cfg VMConfig
	err := json.Unmarshal([]byte(config), &cfg)
	if err == nil {
		_, err = Launch(context.Background(), cfg, false)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
}

func TestRealVMOutlivesItsLauncher(t *testing.T) {
	cfg := testConfig(t, "guest1")
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), launchHelperEnv+"="+string(b))
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); !ok || !ws.Signaled() {
		t.Fatalf("helper: %v: %s", err, out)
	}
	v, err := Adopt(testContext(t, 20*time.Second), cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	if s, err := v.QueryStatus(testContext(t, 10*time.Second)); err != nil || !s.Running {
		t.Errorf("%+v, %v", s, err)
	}
}

// A colod that died before its QEMU had opened the monitor: whoever comes next waits for it, instead of finding no VM here
// and then one that is in the way.
func TestRealAdoptWhileItStarts(t *testing.T) {
	cfg := testConfig(t, "guest1")
	reg, proc, err := start(&cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proc.kill(); <-proc.exited; proc.release() }()
	v, err := Adopt(testContext(t, 30*time.Second), cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	if v.PID() != reg.PID {
		t.Errorf("process %d was adopted, %d was started", v.PID(), reg.PID)
	}
}

// A colod that died between the fork and the registry's second write: the socket tells.
func TestRealAdoptUnfinishedLaunch(t *testing.T) {
	ctx := testContext(t, 30*time.Second)
	cfg := testConfig(t, "guest1")
	first := launch(t, cfg, false)
	first.Close()
	reg := first.reg
	reg.PID, reg.Start, reg.Launched = 0, 0, time.Now().Add(-time.Hour)
	if err := reg.write(cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	v, err := Adopt(ctx, cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	if got, err := readRegistry(cfg.RunDir); err != nil || got.PID != first.PID() || !got.alive() {
		t.Errorf("registry not completed: %+v, %v", got, err)
	}
	if v.PID() != first.PID() {
		t.Errorf("adopted %d, want %d", v.PID(), first.PID())
	}
}

// A colod that died before it connected: QEMU waits for its first client, and the guest with it.
func TestRealAdoptOfAVMNobodyEverSpokeTo(t *testing.T) {
	ctx := testContext(t, 30*time.Second)
	cfg := testConfig(t, "guest1")
	reg, proc, err := start(&cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.release()
	reg.PID, reg.Start = 0, 0 // its second write never came
	if err := reg.write(cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	v, err := Adopt(ctx, cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	if s, err := v.QueryStatus(ctx); err != nil || !s.Running || v.PID() != proc.pid {
		t.Errorf("pid %d, want %d: %+v, %v", v.PID(), proc.pid, s, err)
	}
}

func TestArgsAreTheSameOnBothSides(t *testing.T) {
	cfg := VMConfig{Name: "g", Accel: TCG, Memory: 256 << 20, RunDir: "/run/g", Tap: "vm0", MAC: "52:54:00:12:34:56"}
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	p, s := cfg.args(false), cfg.args(true)
	if !slices.Equal(append(p, "-incoming", "defer"), s) {
		t.Errorf("primary %q\nsecondary %q", p, s)
	}
}

func TestEnvironKeepsServiceManagerOut(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("LISTEN_FDS", "1")
	cfg := VMConfig{Env: []string{"A=b"}}
	env := cfg.environ()
	for _, e := range env {
		if strings.HasPrefix(e, "NOTIFY_SOCKET=") || strings.HasPrefix(e, "LISTEN_FDS=") {
			t.Errorf("passed on: %s", e)
		}
	}
	if !slices.Contains(env, "A=b") {
		t.Error("own variable missing")
	}
}

func TestLogsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		boundLogs(stop, time.Millisecond, 1000, path, path+".none")
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if st, err := os.Stat(path); err == nil && st.Size() == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not emptied")
		}
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	if b, err := os.ReadFile(path); err != nil || string(b) != "more" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileLog)
	for text, want := range map[string]string{
		"":                                     "",
		"+ qemu -x\n":                          "",
		"+ qemu -x\none\ntwo\n":                "one; two",
		strings.Repeat("x", 1500) + "\nlast\n": "last",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := logTail(path); got != want {
			t.Errorf("%.20q: got %q, want %q", text, got, want)
		}
	}
	if got := logTail(path + ".none"); got != "" {
		t.Errorf("no file: %q", got)
	}
}
