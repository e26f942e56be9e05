package coordinator

import "colod/internal/priority"

// niceness of colod's own threads.
const niceness = priority.Niceness

// RaisePriority gives this process a little precedence; VMs that it launches
// are set back to the ordinary one.
func RaisePriority() error { return priority.Raise() }

// setNice sets the niceness of all threads of a process.
func setNice(pid, nice int) error { return priority.Set(pid, nice) }

// patient makes a VM's main loop one that does not interrupt virtual CPUs: the thread that has the process's number. Where
// that may not be, the VM runs as it is.
func patient(pid int) { _ = priority.Batch(pid, true) }

// ordinary takes that back.
func ordinary(pid int) { _ = priority.Batch(pid, false) }

// urge lets a VM whose guest stands still run before anything else, until the function is called that it returns.
func urge(pid int) (calm func()) {
	ordinary(pid)
	_ = setNice(pid, niceness)
	return func() {
		_ = setNice(pid, 0)
		patient(pid)
	}
}
