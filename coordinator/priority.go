package coordinator

import (
	"sync"
	"time"

	"colod/internal/priority"
	"colod/qmp"
)

// niceness of colod's own threads.
const niceness = priority.Niceness

// RaisePriority gives this process a little precedence; VMs that it launches
// are set back to the ordinary one.
func RaisePriority() error { return priority.Raise() }

// setNice sets the niceness of all threads of a process.
func setNice(pid, nice int) error { return priority.Set(pid, nice) }

// tendEvery is how soon a thread that a VM has made gets its priority.
const tendEvery = time.Second

// tend gives the threads of a VM the priorities that suit a guest, those of its main loop and those that it makes later, until the
// VM has ended or the function is called that it returns. Where that may not be, the VM runs as it is.
func tend(vm *qmp.VM) (leave func()) {
	patient(vm.PID())
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(tendEvery)
		defer t.Stop()
		for {
			select {
			case <-vm.Died():
				return
			case <-done:
				return
			case <-t.C:
				_ = priority.Prompt(vm.PID(), true)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(done)
		<-ended
	})
}

// patient makes a VM's main loop one that does not interrupt virtual CPUs: the thread that has the process's number.
func patient(pid int) { _ = priority.Batch(pid, true) }

// ordinary takes back what patient and tend have done.
func ordinary(pid int) {
	_ = priority.Batch(pid, false)
	_ = priority.Prompt(pid, false)
}

// urge lets a VM whose guest stands still run before anything else, until the function is called that it returns.
func urge(pid int) (calm func()) {
	ordinary(pid)
	_ = setNice(pid, niceness)
	return func() {
		_ = setNice(pid, 0)
		patient(pid)
	}
}
