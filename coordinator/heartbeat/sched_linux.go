package heartbeat

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// rtPriority is low among the real-time ones: above everything ordinary, below
// the kernel's own threads (50), such as those of interrupts.
const rtPriority = 10

// raise gives the calling thread the policy SCHED_RR (sched(7)), or, where that
// is not allowed, a higher ordinary priority. It says which.
func raise() string {
	// Threads that are made by this one are ordinary.
	if err := realtime(0, unix.SCHED_FLAG_RESET_ON_FORK); err == nil {
		return fmt.Sprintf("SCHED_RR, priority %d", rtPriority)
	}
	const nice = -15
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err == nil {
		return fmt.Sprintf("niceness %d", nice)
	}
	return "ordinary priority"
}

func realtime(tid int, flags uint64) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: rtPriority, Flags: flags}
	return unix.SchedSetAttr(tid, &attr, 0)
}

// raiseProcess gives all threads of this process the real-time policy, and those
// that they will make, and keeps their memory from being swapped out. It says what
// came of it; otherwise is what it was before.
func raiseProcess(otherwise string) string {
	// Only what is touched: the runtime reserves far more than it uses.
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT) // without the right to, it is as others are
	for range 3 {                                                            // threads may be made meanwhile
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return otherwise
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if err := realtime(tid, 0); err != nil && err != unix.ESRCH {
				return otherwise
			}
		}
	}
	return fmt.Sprintf("SCHED_RR, priority %d, in a process of its own", rtPriority)
}
