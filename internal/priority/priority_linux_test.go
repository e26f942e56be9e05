package priority

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// niceOf is the niceness of a process; the system call gives 20 minus it.
func niceOf(t *testing.T, pid int) int {
	t.Helper()
	n, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - n
}

func TestSet(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		cmd.Wait()
	}()
	// Whoever may not lower it may raise it.
	want := niceOf(t, cmd.Process.Pid) + 1
	if err := Set(cmd.Process.Pid, min(want, 19)); err != nil {
		t.Fatal(err)
	}
	if got := niceOf(t, cmd.Process.Pid); got != min(want, 19) {
		t.Errorf("niceness %d, want %d", got, want)
	}
	if err := Set(1<<30, 0); err == nil || !strings.Contains(err.Error(), "set priority") {
		t.Error(err)
	}
}

func TestRaise(t *testing.T) {
	threads, nice := runtime.GOMAXPROCS(0), niceOf(t, os.Getpid())
	defer runtime.GOMAXPROCS(threads)
	err := Raise()
	if got := runtime.GOMAXPROCS(0); got < runtime.NumCPU()+Spare {
		t.Errorf("%d threads may run Go code", got)
	}
	if err != nil {
		t.Logf("not allowed here: %v", err)
		return
	}
	if got := niceOf(t, os.Getpid()); got != Niceness {
		t.Errorf("niceness %d", got)
	}
	if err := Set(os.Getpid(), nice); err != nil {
		t.Error(err)
	}
}

// The goroutine that Calm makes must be interrupted like any other: the runtime stops all of them to collect garbage.
func TestCalm(t *testing.T) {
	threads := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(threads)
	runtime.GOMAXPROCS(runtime.NumCPU() + Spare)
	Calm()
	Calm() // does not make another one
	for range 20 {
		runtime.GC()
	}
}
