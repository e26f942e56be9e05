package priority

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// policyOf is a thread's scheduling policy and niceness.
func policyOf(t *testing.T, tid int) (uint32, int32) {
	t.Helper()
	a, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a.Policy, a.Nice
}

func TestBatch(t *testing.T) {
	onThread(func() {
		_, nice := policyOf(t, 0)
		nice = min(nice+1, 19) // which anybody may
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), int(nice)); err != nil {
			t.Error(err)
			return
		}
		for _, c := range []struct {
			on   bool
			want uint32
		}{{true, unix.SCHED_BATCH}, {true, unix.SCHED_BATCH}, {false, unix.SCHED_NORMAL}, {false, unix.SCHED_NORMAL}} {
			if err := Batch(unix.Gettid(), c.on); err != nil {
				t.Errorf("Batch(%v): %v", c.on, err)
			}
			if got, n := policyOf(t, 0); got != c.want || n != nice {
				t.Errorf("Batch(%v): policy %d, niceness %d, want %d, %d", c.on, got, n, c.want, nice)
			}
		}
		// A policy that somebody has chosen stays.
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0); err != nil {
			t.Error(err)
			return
		}
		for _, on := range []bool{true, false} {
			if err := Batch(0, on); err != nil {
				t.Errorf("Batch(%v) of an idle thread: %v", on, err)
			}
			if got, _ := policyOf(t, 0); got != unix.SCHED_IDLE {
				t.Errorf("Batch(%v) of an idle thread: policy %d", on, got)
			}
		}
	})
	if err := Batch(1<<30, true); err == nil || !strings.Contains(err.Error(), "thread 1073741824") {
		t.Error(err)
	}
}
