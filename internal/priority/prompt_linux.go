package priority

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Prompt gives precedence to the threads of a process that have inherited SCHED_BATCH from its first one: they become ordinary
// ones with colod's Niceness. If on is false, these and those that it made so become just ordinary ones. All others stay as they are.
//
// In a QEMU whose main loop was made patient (Batch) these are the ones that it makes later: those that save and load the state
// of a checkpoint, and those that write to disks. They work for as long as a guest waits for them, and virtual CPUs must not
// keep them waiting. Linux has no way to keep a thread's children from inheriting this policy: SCHED_FLAG_RESET_ON_FORK is for
// real-time ones (sched(7)).
func Prompt(pid int, on bool) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil || tid == pid {
			continue
		}
		if err := prompt(tid, on); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set priority of thread %d of process %d: %w", tid, pid, err)
		}
	}
	return nil
}

func prompt(tid int, on bool) error {
	a, err := unix.SchedGetAttr(tid, 0)
	switch {
	case err != nil:
		return err
	case on && a.Policy == unix.SCHED_BATCH:
		a.Policy, a.Nice = unix.SCHED_NORMAL, Niceness
	case !on && a.Policy == unix.SCHED_BATCH:
		a.Policy = unix.SCHED_NORMAL
	case !on && a.Policy == unix.SCHED_NORMAL && a.Nice == Niceness:
		a.Nice = 0
	default:
		return nil
	}
	return unix.SchedSetAttr(tid, a, 0)
}
