package heartbeat

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rtPriority is low among the real-time ones: above everything ordinary, below
// the kernel's own threads (50), such as those of interrupts.
const rtPriority = 10

// raise gives the calling thread the policy SCHED_RR (sched(7)), or, where that
// is not allowed, a higher ordinary priority. It says which.
func raise() string {
	attr := unix.SchedAttr{
		Size: uint32(unsafe.Sizeof(unix.SchedAttr{})), Policy: unix.SCHED_RR, Priority: rtPriority,
		Flags: unix.SCHED_FLAG_RESET_ON_FORK, // threads that are made by this one are ordinary
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err == nil {
		return fmt.Sprintf("SCHED_RR, priority %d", rtPriority)
	}
	const nice = -15
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err == nil {
		return fmt.Sprintf("niceness %d", nice)
	}
	return "ordinary priority"
}
