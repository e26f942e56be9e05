package coordinator

import (
	"context"
	"slices"
	"sync"

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

// guestThreads gives the threads of a VM the priorities that suit a guest. Where that may not be, the VM runs as it is.
type guestThreads struct {
	vm   *qmp.VM
	mu   sync.Mutex
	left bool
}

func newGuestThreads(vm *qmp.VM) *guestThreads {
	patient(vm.PID())
	return &guestThreads{vm: vm}
}

// tend gives those that the main loop has made since it was last called their precedence.
func (g *guestThreads) tend(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left {
		return
	}
	for _, tid := range g.heirs(ctx) {
		_ = priority.Prompt(tid)
	}
}

// heirs are the threads that have inherited the main loop's patience: none when a virtual CPU is among them, for that was there
// before, and somebody has chosen the policy for all.
func (g *guestThreads) heirs(ctx context.Context) []int {
	heirs, err := priority.Heirs(g.vm.PID())
	if err != nil || len(heirs) == 0 {
		return nil
	}
	cpus, err := g.vm.CPUThreads(ctx)
	if err != nil || slices.ContainsFunc(cpus, func(tid int) bool { return slices.Contains(heirs, tid) }) {
		return nil
	}
	return heirs
}

// leave makes all of them ordinary again, for good.
func (g *guestThreads) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = true
	heirs := g.heirs(ctx)
	ordinary(g.vm.PID())
	for _, tid := range heirs {
		ordinary(tid)
	}
	_ = priority.Unprompt(g.vm.PID())
}

// patient makes a VM's main loop one that does not interrupt virtual CPUs: the thread that has the process's number.
func patient(pid int) { _ = priority.Batch(pid, true) }

// ordinary takes that back.
func ordinary(tid int) { _ = priority.Batch(tid, false) }

// urge lets a VM whose guest stands still run before anything else, until the function is called that it returns.
func urge(pid int) (calm func()) {
	ordinary(pid)
	_ = setNice(pid, niceness)
	return func() {
		_ = setNice(pid, 0)
		patient(pid)
	}
}
