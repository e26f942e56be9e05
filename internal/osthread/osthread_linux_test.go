package osthread_test

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

func TestThrowaway(t *testing.T) {
	want := errors.New("own error")
	for range 50 {
		var tid int
		if err := osthread.Throwaway(func() error { tid = unix.Gettid(); return want }); err != want {
			t.Fatalf("got %v, want %v", err, want)
		}
		if tid == os.Getpid() {
			t.Fatal("the process's first thread was used")
		}
	}
	if err := osthread.Throwaway(func() error { runtime.Goexit(); return nil }); err != osthread.ErrEnded {
		t.Errorf("a function that ends its goroutine: %v", err)
	}
	defer func() {
		if r := recover(); r != "boom" {
			t.Errorf("recovered %v", r)
		}
	}()
	osthread.Throwaway(func() error { panic("boom") })
}
