package qmp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Info is what [Probe] found out about a QEMU program.
type Info struct {
	Binary  string // full path
	Version Version
	Support Support
	Why     string   // sentence for Support
	Missing []string // what colod needs and this program lacks, each with its kind; empty: all there
}

// Usable reports whether pairs can be tried with it.
func (i Info) Usable() bool { return i.Support != Unsupported && len(i.Missing) == 0 }

// Things that a pair needs of QEMU. Disks add to them.
var (
	neededCommands = []string{"x-colo-lost-heartbeat", "query-colo-status", "yank", "migrate-incoming", "query-cpus-fast"}
	neededDevices  = []string{"virtio-net-pci"}
	neededCaps     = []string{"x-colo"}
)

// Probe starts the program without a machine and asks it for its version and for what colod needs.
// Name or path of the program; default qemu-system-x86_64.
func Probe(ctx context.Context, binary string) (Info, error) {
	var info Info
	fail := func(err error) (Info, error) { return info, fmt.Errorf("probe QEMU: %w", err) }
	path, err := lookBinary(binary)
	if err != nil {
		return fail(err)
	}
	info.Binary = path
	dir, err := os.MkdirTemp("", "colod-probe-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, defaultStartTimeout)
	defer cancel()

	q, err := startBare(ctx, path, dir, "-machine", "none", "-S")
	if err != nil {
		return fail(err)
	}
	defer q.end()
	info.Version = q.mon.Version()
	info.Support, info.Why = info.Version.Support()

	var cmds []struct{ Name string }
	if err := q.mon.Run(ctx, "query-commands", nil, &cmds); err != nil {
		return fail(err)
	}
	for _, n := range neededCommands {
		if !slices.ContainsFunc(cmds, func(c struct{ Name string }) bool { return c.Name == n }) {
			info.Missing = append(info.Missing, "QMP command "+n)
		}
	}
	for _, n := range neededDevices {
		if err := q.mon.Run(ctx, "device-list-properties", map[string]string{"typename": n}, nil); err != nil {
			var e *Error
			if errors.As(err, &e) && e.Cause != nil {
				return fail(err)
			}
			info.Missing = append(info.Missing, "device "+n)
		}
	}
	var caps []struct{ Capability string }
	if err := q.mon.Run(ctx, "query-migrate-capabilities", nil, &caps); err != nil {
		return fail(err)
	}
	for _, n := range neededCaps {
		if !slices.ContainsFunc(caps, func(c struct{ Capability string }) bool { return c.Capability == n }) {
			info.Missing = append(info.Missing, "migration capability "+n)
		}
	}
	return info, nil
}

// bare is a short-lived QEMU outside the registry, ended with us.
type bare struct {
	proc *process
	mon  *Monitor
	log  string
}

// startBare runs path with args and a monitor in dir, and waits for it.
func startBare(ctx context.Context, path, dir string, args ...string) (*bare, error) {
	cfg := VMConfig{Name: "probe"}
	q := &bare{log: filepath.Join(dir, FileLog)}
	reg := registry{QMP: filepath.Join(dir, FileQMP), Log: q.log}
	reg.Args = append([]string{path, "-nodefaults", "-no-user-config", "-display", "none",
		"-qmp", monitorOption(reg.QMP)}, args...)
	cfg.RunDir = dir
	proc, err := startQEMU(&reg, &cfg)
	if err != nil {
		return nil, err
	}
	q.proc = proc
	v, err := attach(ctx, cfg, reg, proc, nil)
	if err != nil {
		err = startError(proc, q.log, err)
		q.end()
		return nil, err
	}
	q.mon = v.mon
	return q, nil
}

func (q *bare) end() {
	if q.proc.kill() == nil {
		<-q.proc.exited
	}
	q.proc.release()
	if q.mon != nil {
		q.mon.Close()
	}
}
