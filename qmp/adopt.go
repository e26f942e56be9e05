package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Adopt takes over a running VM after colod was restarted. at is the VM's run directory, or the QMP
// socket of a VM that colod did not start (it then has no second monitor for emergencies).
//
// The process adopted is the one that listens on the socket and answers there, by the kernel's word
// (SO_PEERCRED): a number in a file is never trusted. [ErrNoVM] means that nothing runs there;
// what it left has been removed then. [ErrNoReply] means that a process is there but hangs.
func Adopt(ctx context.Context, at string) (*VM, error) {
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("adopt VM at %s: %w", at, err) }
	st, err := os.Stat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(ErrNoVM)
	case err != nil:
		return fail(err)
	}
	cfg := VMConfig{}
	reg := registry{QMP: at}
	if st.IsDir() {
		cfg.RunDir = at
		reg, err = readRegistry(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fail(ErrNoVM)
		case err != nil:
			return fail(err)
		}
		cfg.Name, cfg.Tap = reg.Name, reg.Tap
		if reg.PID != 0 && !reg.alive() {
			return fail(errors.Join(ErrNoVM, cleanRunDir(at)))
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	var started func() bool
	switch {
	case cfg.RunDir == "":
	case reg.PID == 0:
		// Written before a start that never came, or whose QEMU has not opened its socket yet.
		started = func() bool { return time.Since(reg.Launched).Abs() < 2*time.Second }
	default:
		// It runs, and may be about to open its socket: the last colod died while it launched it.
		started = func() bool { return time.Since(reg.Launched).Abs() < defaultStartTimeout && reg.alive() }
	}
	v, err := attach(ctx, cfg, reg, nil, started)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		err = errors.Join(ErrNoVM, err)
		if reg.PID == 0 && cfg.RunDir != "" {
			err = errors.Join(err, cleanRunDir(at))
		}
		return fail(err)
	case err != nil:
		return fail(err)
	}
	if cfg.RunDir != "" && reg.PID == 0 {
		v.reg.PID = v.proc.pid
		if v.reg.Start, err = startTime(v.proc.pid); err == nil {
			err = v.reg.write(cfg.RunDir)
		}
		if err != nil {
			v.Close()
			return fail(err)
		}
	}
	return v, nil
}

// EndStale kills the VM registered in a run directory, if the very same process still runs, and
// cleans the directory: for a VM that hangs and cannot be adopted. No VM there is no error.
func EndStale(ctx context.Context, runDir string) error {
	fail := func(err error) error { return fmt.Errorf("end stale VM in %s: %w", runDir, err) }
	reg, err := readRegistry(runDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	pid := 0
	if err == nil && reg.alive() {
		pid = reg.PID
	} else if p, lerr := listenerPID(filepath.Join(runDir, FileQMP)); lerr == nil {
		pid, reg.Start = p, 0
	}
	if pid != 0 {
		proc, err := openProcess(pid, nil)
		if err != nil {
			return fail(err)
		}
		defer proc.release()
		if reg.Start != 0 && !reg.alive() {
			return fail(cleanRunDir(runDir)) // ended between the two looks
		}
		if err := proc.kill(); err != nil {
			return fail(err)
		}
		select {
		case <-proc.exited:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
	if err := cleanRunDir(runDir); err != nil {
		return fail(err)
	}
	return nil
}

// listenerPID returns the process that listens on a unix socket.
func listenerPID(path string) (int, error) {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return peerPID(c)
}

// peerPID returns the process that was listening when c was made.
func peerPID(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := rc.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	if cred.Pid <= 0 {
		return 0, errors.New("the listener is outside this pid namespace")
	}
	return int(cred.Pid), nil
}
