package priority

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPrompt(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			t.Error("this is the first thread of the process, which is left alone")
			return
		}
		_, was := policyOf(t, 0)
		check := func(what string, on bool, policy uint32, nice int32) {
			t.Helper()
			if err := Prompt(os.Getpid(), on); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if p, n := policyOf(t, 0); p != policy || n != nice {
				t.Errorf("%s: policy %d, niceness %d, want %d, %d", what, p, n, policy, nice)
			}
		}
		batch := func() {
			if err := Batch(0, true); err != nil {
				t.Error(err)
			}
		}
		check("an ordinary thread", true, unix.SCHED_NORMAL, was)
		batch()
		check("never raised", false, unix.SCHED_NORMAL, was)
		batch()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, Niceness); err != nil {
			t.Logf("not allowed here: %v", err)
			return
		}
		check("a child of the main loop", true, unix.SCHED_NORMAL, Niceness)
		check("let go", false, unix.SCHED_NORMAL, 0)
	}()
	<-done
	if err := Prompt(1<<30, true); err == nil || !strings.Contains(err.Error(), "set priority") {
		t.Error(err)
	}
}
