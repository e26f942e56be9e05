package priority

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Batch makes a thread one of policy SCHED_BATCH, or again one of the ordinary SCHED_OTHER: its share of the processors
// stays as it is, but when it wakes it does not take the processor from an ordinary thread that runs; it waits for the
// scheduler's next tick (at most 10 ms, 4 ms with HZ=250), or until that thread sleeps. Where a processor is idle it runs
// there at once, as ever (sched(7); check_preempt_wakeup_fair in Linux' kernel/sched/fair.c).
//
// It is for the main loop of a QEMU whose virtual CPUs use up the host's: each frame wakes it two or three times, and
// a virtual CPU that is interrupted so often computes at half its speed (docs/decisions/0011-batch-main-loop.md).
//
// A thread whose policy somebody has chosen, a real-time one for instance, keeps it. tid 0 is the calling thread.
func Batch(tid int, on bool) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return fmt.Errorf("read the scheduling policy of thread %d: %w", tid, err)
	}
	from, to := uint32(unix.SCHED_NORMAL), uint32(unix.SCHED_BATCH)
	if !on {
		from, to = to, from
	}
	if attr.Policy != from {
		return nil
	}
	attr.Policy = to
	if err := unix.SchedSetAttr(tid, attr, 0); err != nil {
		return fmt.Errorf("set the scheduling policy of thread %d: %w", tid, err)
	}
	return nil
}
