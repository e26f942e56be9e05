package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator"
	"colod/coordinator/pair"
	"colod/internal/lab"
)

// handMade starts the pair's guest on a node as an operator does by hand: on a
// tap of its own, which is a port of the bridge, with a monitor of its own and
// the arguments that colod adopt --arguments names. It returns the monitor.
func handMade(t *testing.T, l *lab.Lab, node string, args []string) (monitor string) {
	t.Helper()
	dir := filepath.Join(l.Dir(), node)
	monitor = filepath.Join(dir, "hand.qmp")
	for _, words := range [][]string{
		{"ip", "tuntap", "add", "hand0", "mode", "tap", "vnet_hdr"},
		{"ip", "link", "set", "hand0", "master", lab.Bridge, "up"},
	} {
		if out, err := l.Command(t.Context(), node, words...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
	}
	accel, _ := l.Accel()
	line := []string{"qemu-system-x86_64", "-no-user-config", "-display", "none", "-accel", accel}
	for _, a := range args {
		a = strings.ReplaceAll(a, "unix:SOCKET", "unix:"+monitor)
		a = strings.ReplaceAll(a, "ifname=TAP", "ifname=hand0")
		line = append(line, strings.ReplaceAll(a, "CHARDEV", "file:"+filepath.Join(dir, "hand.console")))
	}
	cmd := l.Command(context.WithoutCancel(t.Context()), node, line...)
	if s := l.Shim(); s != "" {
		cmd.Env = append(os.Environ(), "LD_PRELOAD="+s)
	}
	log, err := os.Create(filepath.Join(dir, "hand.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	return monitor
}

// TestAdopt takes a guest that was started by hand, while clients speak with
// it: it becomes protected, survives the death of its VM, and is let go again.
// No connection notices.
func TestAdopt(t *testing.T) {
	shared.down() // one pair at a time is enough for this machine
	l := up(t, "adopt", lab.Options{})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s", l.Logs(60), readFile(filepath.Join(l.Dir(), lab.NodeA, "hand.log")))
		}
	})
	ctx := t.Context()
	on := func(node string) *coordinator.Client { return coordinator.NewClient(l.Socket(node)) }
	name := status(t, l).Pair
	if _, err := on(lab.NodeA).Ask(ctx, name, pair.OpStop, 0); err != nil {
		t.Fatal(err)
	}
	wanted, err := on(lab.NodeA).Adopt(ctx, name, coordinator.AdoptRequest{Arguments: true})
	if err != nil {
		t.Fatal(err)
	}
	monitor := handMade(t, l, lab.NodeA, wanted.Arguments)
	if err := l.AwaitGuest(ctx); err != nil {
		t.Fatal(err)
	}
	s := begin(t, l, working, ordinary()...)
	check := func(what string) {
		t.Helper()
		t.Logf("%s: clients heard nothing for %.0f ms", what, silence(unbroken(t, s, what)))
	}
	check("started by hand")

	looked, err := on(lab.NodeA).Adopt(ctx, name, coordinator.AdoptRequest{Monitor: monitor, Check: true})
	if err != nil || !looked.Fits || looked.Adopted || looked.Tap != "hand0" {
		t.Fatalf("%+v, %v", looked, err)
	}
	start := time.Now()
	got, err := on(lab.NodeA).Adopt(ctx, name, coordinator.AdoptRequest{Monitor: monitor})
	if err != nil || !got.Adopted || len(got.Misfits) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	t.Logf("process %d adopted in %v", got.PID, time.Since(start).Round(time.Millisecond))
	patient(t, got.PID, true)
	check("adopted")
	st := awaitRoles(t, l, lab.NodeA, lab.NodeB)
	if st.VM == nil || st.VM.PID != got.PID {
		t.Fatalf("another VM than process %d is protected: %+v", got.PID, st.VM)
	}
	prompt(t, got.PID, true)
	check("protected")
	again, err := on(lab.NodeA).Adopt(ctx, name, coordinator.AdoptRequest{Monitor: monitor})
	if err == nil {
		t.Errorf("adopted twice: %+v", again)
	}

	// Restarted, colod finds the VM that it never started.
	if _, err := l.Fault(ctx, lab.RestartColod, lab.NodeA); err != nil {
		t.Fatal(err)
	}
	st = awaitRoles(t, l, "", "")
	if st.Speaker == lab.NodeA && st.VM.PID != got.PID {
		t.Fatalf("after its restart colod has process %d, not %d", st.VM.PID, got.PID)
	}
	check("colod restarted")

	if st.Speaker == lab.NodeA {
		if err := syscall.Kill(got.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitSpeaker(t, l, st)
		st = awaitRoles(t, l, lab.NodeB, lab.NodeA)
		patient(t, st.VM.PID, true) // again, after the haste of its takeover
		check("its VM killed")
	}

	// Connections that were made since the last checkpoint before the takeover are rewritten for as long as they live:
	// those here are older.
	start = time.Now()
	after, err := on(st.Speaker).Release(ctx, name, coordinator.ReleaseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("let go in %v: %s: %s", time.Since(start).Round(time.Millisecond), after.State, after.Reason)
	if after.State != "stopped" || after.VM != nil {
		t.Errorf("after the release: %+v", after)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(st.VM.PID)); err != nil {
		t.Fatalf("the VM that was let go does not run: %v", err)
	}
	bare(t, l, st.Speaker)
	patient(t, st.VM.PID, false)
	prompt(t, st.VM.PID, false)
	time.Sleep(2 * time.Second)
	check("let go")

	// No second guest is started beside it, and it can be had back.
	if _, err := on(st.Speaker).Ask(ctx, name, pair.OpStart, 0); err == nil || !strings.Contains(err.Error(), "still runs the guest") {
		t.Errorf("a second guest may be started: %v", err)
	}
	other := lab.NodeA
	if st.Speaker == lab.NodeA {
		other = lab.NodeB
	}
	if _, err := on(other).Ask(ctx, name, pair.OpStart, 0); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a second guest may be started on %s: %v", other, err)
	}
	if back, err := on(st.Speaker).Adopt(ctx, name, coordinator.AdoptRequest{}); err != nil || !back.Adopted || back.PID != st.VM.PID {
		t.Fatalf("%+v, %v", back, err)
	}
	awaitRoles(t, l, st.Speaker, "")
	finished(t, s)
}

// patient checks whether the main loop of a VM leaves virtual CPUs the processor when it wakes.
func patient(t *testing.T, pid int, want bool) {
	t.Helper()
	a, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Policy == unix.SCHED_BATCH; got != want || a.Nice != 0 {
		t.Errorf("process %d has policy %d, niceness %d; batch wanted: %v", pid, a.Policy, a.Nice, want)
	}
}

// prompt waits until no thread but the main loop of a VM has its policy, and those that it has made since the VM is protected
// have precedence; or, if want is false, none.
func prompt(t *testing.T, pid int, want bool) {
	t.Helper()
	look := func() error {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		raised := 0
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			a, err := unix.SchedGetAttr(tid, 0)
			if err != nil || tid == pid {
				continue
			}
			if a.Policy == unix.SCHED_BATCH {
				return fmt.Errorf("thread %d has the main loop's policy", tid)
			}
			if a.Nice < 0 {
				raised++
			}
		}
		if (raised > 0) != want {
			return fmt.Errorf("%d threads have precedence; wanted: %v", raised, want)
		}
		return nil
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("VM of process %d: %v", pid, err)
		}
	}
}

// bare checks that nothing of colod is on a node's way to the guest.
func bare(t *testing.T, l *lab.Lab, node string) {
	t.Helper()
	say := func(words ...string) string {
		out, err := l.Command(t.Context(), node, words...).CombinedOutput()
		if err != nil && !slices.Contains(words, "tc") {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
		return string(out)
	}
	links := say("ip", "-d", "link")
	if strings.Contains(links, "alias colod:") || strings.Contains(links, "vm0up") {
		t.Errorf("devices of colod are left:\n%s", links)
	}
	if out := say("tc", "filter", "show", "dev", "vm0", "ingress"); strings.TrimSpace(out) != "" {
		t.Errorf("filters of colod are left:\n%s", out)
	}
	if out := say("bridge", "link"); !strings.Contains(out, "vm0:") || !strings.Contains(out, "master "+lab.Bridge) {
		t.Errorf("the guest's tap is no port of the bridge:\n%s", out)
	}
}
