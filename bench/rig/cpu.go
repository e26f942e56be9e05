package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CPU is processor time used.
type CPU struct {
	Total        time.Duration // by the scheduler's clock, ns
	User, System time.Duration // by the kernel's ticks, 10 ms
}

// Sub is the time used since b.
func (a CPU) Sub(b CPU) CPU { return CPU{a.Total - b.Total, a.User - b.User, a.System - b.System} }

// ProcessCPU is what all threads of a process have used; threads that have ended count in User and System only.
func ProcessCPU(pid int) (CPU, error) {
	var c CPU
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return c, fmt.Errorf("read the CPU time of process %d: it is gone or the kernel has no schedstat", pid)
	}
	for _, f := range tasks {
		c.Total += schedstat(f)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return c, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) > 12 { // proc(5): fields 14 and 15, counted from the name
		u, _ := strconv.Atoi(f[11])
		s, _ := strconv.Atoi(f[12])
		const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
		c.User, c.System = time.Duration(u)*tick, time.Duration(s)*tick
	}
	return c, nil
}

func schedstat(file string) time.Duration {
	b, _ := os.ReadFile(file)
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return time.Duration(n)
}
