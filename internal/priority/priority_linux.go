// Package priority gives a process precedence over the virtual CPUs that run
// beside it.
package priority

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

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

// Raise gives this process its precedence, and the session that it leads; what it launches inherits the
// niceness, which Set takes back.
func Raise() error {
	if n := runtime.NumCPU() + Spare; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	Calm()
	return errors.Join(Set(os.Getpid(), Niceness), raiseSession())
}

// Set sets the niceness of all threads of a process. Threads that are made
// later inherit it from the one that makes them (sched(7)). Threads of a
// real-time policy keep it.
func Set(pid, nice int) error {
	tids, err := threads(pid)
	if err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	for _, tid := range tids {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set priority of process %d: %w", pid, err)
		}
	}
	return nil
}

// threads are the numbers of a process's threads.
func threads(pid int) ([]int, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	tids := make([]int, 0, len(tasks))
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}
