package qmp

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

// startPlain starts a program without colod's ambient capabilities. A service
// that is not root has its rights, such as CAP_NET_ADMIN, in that set, and
// every program that it starts would have them as well (capabilities(7)): a
// guest that breaks out of QEMU would find them there. Those of a process that
// runs as root do not depend on the set.
//
// The set belongs to a thread, and a child gets that of the thread that made
// it: one that is thrown away afterwards. Without such capabilities the program
// is started by the calling thread, and so in its network namespace.
func startPlain(cmd *exec.Cmd) error {
	if !ambient() {
		return cmd.Start()
	}
	return osthread.Throwaway(func() error {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("drop ambient capabilities: %w", err)
		}
		return cmd.Start()
	})
}

// ambient reports whether the calling thread has ambient capabilities, or that
// cannot be told.
func ambient() bool {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "CapAmb:"); ok {
			return strings.Trim(set, "0 \t\n") != ""
		}
	}
	return true
}
