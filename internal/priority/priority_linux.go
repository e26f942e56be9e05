// Package priority gives a process precedence over the virtual CPUs that run
// beside it.
package priority

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Niceness of colod's own threads. Heartbeats, comparison and takeovers are
// short and must not wait for virtual CPUs that use up all of the host's.
const Niceness = -10

// Spare is how many more threads than processors may run Go code at a time. A
// thread that returns from the kernel to Go needs one of so many places; while
// ordinary threads that have a place wait for a processor, a real-time thread
// that wakes must find a free one. Calm takes one of them.
const Spare = 4

// Raise gives this process its precedence; what it launches inherits the
// niceness, which Set takes back.
func Raise() error {
	if n := runtime.NumCPU() + Spare; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	Calm()
	return Set(os.Getpid(), Niceness)
}

// calmEvery is how long Calm's goroutine sleeps at a time: less than what the monitor lets a goroutine run for before it
// asks it to make room (forcePreemptNS, runtime/proc.go: 10 ms).
const calmEvery = 9 * time.Millisecond

var calm sync.Once

// Calm keeps the runtime's monitor thread (sysmon) at its slowest: it looks every 10 ms then. Left alone it sleeps while
// the process is idle, and whenever a system call ends that sleep, looks every 20 µs for a millisecond and more. In a
// process that does little, but often, that is most of what it costs: measured 700 wake-ups a second of a daemon
// with one idle pair, 1,000 of a process of heartbeats, 3 % of a processor each.
//
// It takes one of the GOMAXPROCS places: a goroutine is in a system call of which the runtime does not know, so that the
// process is never idle. The runtime interrupts it as it interrupts any goroutine that computes.
func Calm() {
	calm.Do(func() {
		go func() {
			ts := unix.NsecToTimespec(int64(calmEvery))
			for {
				unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
				runtime.Gosched()
			}
		}()
	})
}

// Set sets the niceness of all threads of a process. Threads that are made
// later inherit it from the one that makes them (sched(7)). Threads of a
// real-time policy keep it.
func Set(pid, nice int) error {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set priority of process %d: %w", pid, err)
		}
	}
	return nil
}
