package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

// netnsDir is where iproute2 keeps named network namespaces.
const netnsDir = "/run/netns"

// ip runs one ip(8) command.
func ip(ctx context.Context, args ...string) error { return run(ctx, "ip", args...) }

// run runs one command of iproute2.
func run(ctx context.Context, tool string, args ...string) error {
	return runInput(ctx, "", tool, args...)
}

// runInput does so with something on its standard input.
func runInput(ctx context.Context, input, tool string, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		if errors.Is(err, exec.ErrNotFound) {
			said = "install iproute2 (make setup)"
		}
		return fmt.Errorf("run %s %s: %w: %s", tool, strings.Join(args, " "), err, said)
	}
	return nil
}

// ipBatch runs several ip(8) commands in one namespace; they are one per line.
func ipBatch(ctx context.Context, ns, commands string) error {
	for line := range strings.Lines(commands) {
		if fields := strings.Fields(line); len(fields) > 0 {
			if err := ip(ctx, append([]string{"-n", ns}, fields...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// inNetns runs fn in the named namespace; see osthread.InNetns.
func inNetns(name string, fn func() error) error {
	return osthread.InNetns(filepath.Join(netnsDir, name), fn)
}

// sysctl sets kernel parameters of a namespace, given as path below
// /proc/sys/net and value.
func sysctl(ns string, settings ...string) error {
	return inNetns(ns, func() error {
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil {
				return fmt.Errorf("set %s in %s: %w", key, ns, err)
			}
		}
		return nil
	})
}

// netnsInode identifies a named namespace; 0 if there is none.
func netnsInode(name string) uint64 {
	st, err := os.Stat(filepath.Join(netnsDir, name))
	if err != nil {
		return 0
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// pidsIn lists the processes inside the namespaces given by their inodes,
// without the calling one.
func pidsIn(inodes ...uint64) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, d := range dirs {
		st, err := os.Stat(filepath.Join(d, "ns/net"))
		if err != nil {
			continue
		}
		ino := st.Sys().(*syscall.Stat_t).Ino
		for _, want := range inodes {
			if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && want != 0 && ino == want && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// killAll ends every process in the namespaces and waits until they are gone.
func killAll(ctx context.Context, inodes ...uint64) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := pidsIn(inodes...)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes of the lab: %v do not end", pids)
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// deleteNetns removes a named namespace if it is there.
func deleteNetns(name string) error {
	p := filepath.Join(netnsDir, name)
	for {
		// Unmounted as often as it was mounted.
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			break
		}
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}
