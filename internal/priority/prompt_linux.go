package priority

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Heirs are the threads of a process that have SCHED_BATCH as its first one has: inherited from it, or chosen for all of them.
// There are none when the first has another policy.
//
// In a QEMU whose main loop was made patient (Batch) these are the threads that it makes later: those that save and load the
// state of a checkpoint, and those that write to disks. Linux has no way to keep a thread's children from inheriting this
// policy: SCHED_FLAG_RESET_ON_FORK is for real-time ones (sched(7)).
func Heirs(pid int) ([]int, error) {
	var heirs []int
	err := each(pid, func(tid int, a *unix.SchedAttr) error {
		if a.Policy == unix.SCHED_BATCH {
			heirs = append(heirs, tid)
		}
		return nil
	})
	first, ferr := unix.SchedGetAttr(pid, 0)
	if err != nil || ferr != nil || first.Policy != unix.SCHED_BATCH {
		return nil, err
	}
	return heirs, nil
}

// Prompt makes a heir an ordinary thread with colod's Niceness: it works for as long as a guest waits for it, and virtual CPUs
// must not keep it waiting.
func Prompt(tid int) error {
	a, err := unix.SchedGetAttr(tid, 0)
	if err == nil && a.Policy == unix.SCHED_BATCH {
		a.Policy, a.Nice = unix.SCHED_NORMAL, Niceness
		err = unix.SchedSetAttr(tid, a, 0)
	}
	if err != nil && err != unix.ESRCH {
		return fmt.Errorf("set priority of thread %d: %w", tid, err)
	}
	return nil
}

// Unprompt gives the threads of a process that Prompt has raised the ordinary niceness.
func Unprompt(pid int) error {
	return each(pid, func(tid int, a *unix.SchedAttr) error {
		if a.Policy != unix.SCHED_NORMAL || a.Nice != Niceness {
			return nil
		}
		a.Nice = 0
		return unix.SchedSetAttr(tid, a, 0)
	})
}

// each calls fn for the threads of a process but its first. Those that end meanwhile are left out.
func each(pid int, fn func(tid int, a *unix.SchedAttr) error) error {
	tids, err := threads(pid)
	if err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	for _, tid := range tids {
		if tid == pid {
			continue
		}
		a, err := unix.SchedGetAttr(tid, 0)
		if err == nil {
			err = fn(tid, a)
		}
		if err != nil && err != unix.ESRCH {
			return fmt.Errorf("set priority of thread %d of process %d: %w", tid, pid, err)
		}
	}
	return nil
}
