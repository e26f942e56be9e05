// Package rig is what the benchmarks stand on: scenarios that always clean up, the CPU time of processes and threads,
// and programs that end with the benchmark.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TB is a testing.TB outside of a test, for packages that demand one. It cleans up when its scenario ends however it
// ends.
type TB struct {
	testing.TB // never used; it makes this type one

	ctx  context.Context
	name string
	log  func(string, ...any)

	mu       sync.Mutex
	cleanups []func()
	errs     []error
}

// Run runs a scenario in a goroutine of its own and then its cleanups, last first. It returns the scenario's errors.
func Run(ctx context.Context, name string, log func(string, ...any), f func(t *TB)) error {
	t := &TB{ctx: ctx, name: name, log: log}
	run := func(f func()) {
		done := make(chan any)
		go func() {
			finished := false
			defer func() {
				p := recover()
				if p == nil && !finished && !t.Failed() {
					p = "goroutine ended"
				}
				done <- p
			}()
			f()
			finished = true
		}()
		if p := <-done; p != nil {
			t.Errorf("panic: %v", p)
		}
	}
	run(func() { f(t) })
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			break
		}
		c := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		run(c)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(t.errs...)
}

func (t *TB) Helper()                  {}
func (t *TB) Name() string             { return t.name }
func (t *TB) Context() context.Context { return t.ctx }
func (t *TB) Log(args ...any)          { t.log("%s", fmt.Sprint(args...)) }

func (t *TB) Logf(format string, args ...any) { t.log(format, args...) }

func (t *TB) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.errs) > 0
}

func (t *TB) Errorf(format string, args ...any) {
	t.mu.Lock()
	t.errs = append(t.errs, fmt.Errorf(t.name+": "+format, args...))
	t.mu.Unlock()
}

func (t *TB) FailNow() {
	if !t.Failed() {
		t.Errorf("failed")
	}
	runtime.Goexit()
}

func (t *TB) Fatalf(format string, args ...any) { t.Errorf(format, args...); runtime.Goexit() }

func (t *TB) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

func (t *TB) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }

func (t *TB) Cleanup(f func()) {
	t.mu.Lock()
	t.cleanups = append(t.cleanups, f)
	t.mu.Unlock()
}

// Must ends the scenario on an error.
func (t *TB) Must(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func (t *TB) TempDir() string {
	dir, err := os.MkdirTemp("", "colod-bench-")
	t.Must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Start starts a program that dies with the scenario, and with this process however that ends.
func (t *TB) Start(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends the signal when the thread that started the program ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := c.Start()
		started <- err
		if err == nil {
			c.Wait()
		}
	}()
	t.Must(<-started)
	t.Cleanup(func() {
		syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(3 * time.Second):
			syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			<-ended
		}
	})
}
