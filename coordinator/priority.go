package coordinator

import "colod/internal/priority"

// niceness of colod's own threads.
const niceness = priority.Niceness

// RaisePriority gives this process a little precedence; VMs that it launches
// are set back to the ordinary one.
func RaisePriority() error { return priority.Raise() }

// setNice sets the niceness of all threads of a process.
func setNice(pid, nice int) error { return priority.Set(pid, nice) }
