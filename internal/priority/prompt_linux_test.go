package priority

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own, which ends with it, and which is not the first of the process.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			onThread(fn) // while this one is taken
			return
		}
		fn()
	}()
	<-done
}

func TestPrompt(t *testing.T) {
	onThread(func() {
		_, was := policyOf(t, 0)
		self := unix.Gettid()
		check := func(what string, err error, policy uint32, nice int32) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if p, n := policyOf(t, 0); p != policy || n != nice {
				t.Errorf("%s: policy %d, niceness %d, want %d, %d", what, p, n, policy, nice)
			}
		}
		heirs := func(first bool, want bool) {
			t.Helper()
			if err := Batch(os.Getpid(), first); err != nil {
				t.Error(err)
			}
			got, err := Heirs(os.Getpid())
			if err != nil || slices.Contains(got, self) != want || slices.Contains(got, os.Getpid()) {
				t.Errorf("heirs %v, %v; thread %d among them: %v wanted", got, err, self, want)
			}
		}
		defer Batch(os.Getpid(), false)
		heirs(true, false)
		check("an ordinary thread", Prompt(self), unix.SCHED_NORMAL, was)
		if err := Batch(self, true); err != nil {
			t.Error(err)
		}
		heirs(false, false) // of its own choice
		heirs(true, true)
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, Niceness); err != nil {
			t.Logf("not allowed here: %v", err)
			return
		}
		check("a heir", Prompt(self), unix.SCHED_NORMAL, Niceness)
		heirs(true, false)
		check("let go", Unprompt(os.Getpid()), unix.SCHED_NORMAL, 0)
		check("let go twice", Unprompt(os.Getpid()), unix.SCHED_NORMAL, 0)
	})
	if _, err := Heirs(1 << 30); err == nil || !strings.Contains(err.Error(), "set priority") {
		t.Error(err)
	}
	if err := Prompt(1 << 30); err != nil {
		t.Errorf("a thread that has ended: %v", err)
	}
}
