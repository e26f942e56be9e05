package coordinator

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness of colod's own threads. Heartbeats, comparison and takeovers are
// short and must not wait for virtual CPUs that use up all of the host's.
const niceness = -10

// RaisePriority gives this process a little precedence; VMs that it launches
// are set back to the ordinary one.
func RaisePriority() error { return setNice(os.Getpid(), niceness) }

// setNice sets the niceness of all threads of a process. Threads that are
// made later inherit it from the one that makes them (sched(7)).
func setNice(pid, nice int) error {
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
