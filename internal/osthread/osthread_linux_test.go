package osthread_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
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

// TestInNetns: f runs in the namespace of the file, here this process's own (root); a file that is none is named.
func TestInNetns(t *testing.T) {
	called := false
	if err := osthread.InNetns("/proc/self/ns/net", func() error { called = true; return nil }); err != nil || !called {
		t.Errorf("called: %t, error: %v", called, err)
	}
	for _, path := range []string{"/proc/self/ns/none", "/dev/null"} {
		err := osthread.InNetns(path, func() error { t.Errorf("called in %s", path); return nil })
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
