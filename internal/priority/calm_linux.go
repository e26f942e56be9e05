package priority

import (
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
