package coordinator

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// readProcess fills in what /proc tells of a process (proc(5)). ok is false when
// there is none.
func readProcess(pid int) (v vitals, ok bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	state, user, err := statOf(dir + "/stat")
	if err != nil {
		return v, false
	}
	v.Stopped = state == 'T' || state == 't'
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return v, false
	}
	var ran uint64
	for _, t := range tasks {
		task := dir + "/task/" + t.Name()
		if s, _, err := statOf(task + "/stat"); err == nil && s == 'R' {
			v.Runnable = true
		}
		// "time on a processor, time waiting for one, slices"; ns. Not every kernel has it.
		b, err := readProc(task + "/schedstat")
		if err != nil {
			continue
		}
		on, _, _ := bytes.Cut(b, []byte(" "))
		if n, err := strconv.ParseUint(string(on), 10, 64); err == nil {
			ran += n
		}
	}
	if v.CPU = ran; ran == 0 {
		v.CPU = user
	}
	return v, true
}

// readProc reads a small file of /proc. os.ReadFile asks for twelve system calls, half of them to find that such files are
// nothing for its poller; these are three, for two files of every thread five times a second.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 512) // stat has 52 fields, of which few are long
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return b[:n], nil
}

// statOf is the state in a stat file, and the ticks that it used processors for.
func statOf(path string) (state byte, ticks uint64, err error) {
	b, err := readProc(path)
	if err != nil {
		return 0, 0, err
	}
	// The second field is the name in parentheses, which may hold spaces and
	// parentheses itself.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0, fmt.Errorf("read %s: no name in it", path)
	}
	fields := bytes.Fields(b[i+1:])
	const userTime, systemTime = 14 - 3, 15 - 3 // the first field behind the name is the third
	if len(fields) <= systemTime || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("read %s: %d fields behind the name", path, len(fields))
	}
	for _, n := range []int{userTime, systemTime} {
		t, err := strconv.ParseUint(string(fields[n]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read %s: %w", path, err)
		}
		ticks += t
	}
	return fields[0][0], ticks, nil
}
