// Package osthread runs functions that change their operating system thread for good, such as its network namespace.
package osthread

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

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

// InNetns is Throwaway in the network namespace that path is a file of (/run/netns/NAME, /proc/PID/ns/net; setns(2)). Sockets and
// files below /proc/sys/net that f opens are of that namespace and stay so; goroutines that it starts do not run there.
func InNetns(path string, f func() error) error {
	return Throwaway(func() error {
		ns, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, os.NewSyscallError("setns", err))
		}
		return f()
	})
}

// Time is the processor time that the calling thread has used (CLOCK_THREAD_CPUTIME_ID). A goroutine that compares two has to be
// locked to its thread.
func Time() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime: %v", err)) // every Linux has this clock
	}
	return time.Duration(ts.Nano())
}
