// Package osthread runs functions that change their operating system thread for good, such as its network namespace.
package osthread

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrEnded says that the function ended its goroutine (runtime.Goexit) instead of returning.
var ErrEnded = errors.New("the function ended its goroutine")

// Throwaway runs f on a thread of its own, which is ended afterwards, and returns f's error. A panic of f goes on in the
// caller. It is never the process's first thread: that one cannot end, and its properties are what others see in
// /proc/PID.
func Throwaway(f func() error) (err error) {
	returned := false
	var panicked any
	done := make(chan struct{})
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine keeps the first thread, the next one gets another.
			go run()
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		defer func() {
			if !returned {
				panicked = recover()
			}
		}()
		err = f()
		returned = true
		// Not unlocked: the runtime ends the thread with the goroutine.
	}
	go run()
	<-done
	if panicked != nil {
		panic(panicked)
	}
	if !returned {
		return ErrEnded
	}
	return err
}
