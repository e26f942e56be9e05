package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Usage is what a node's daemon used over a torture.
type Usage struct {
	Samples    int      `json:"samples"`
	Processes  int      `json:"processes"` // that were the daemon, one after the other
	FDs        [2]int   `json:"fds"`       // of the longest-lived process: early, late (medians)
	Threads    [2]int   `json:"threads"`
	Goroutines [2]int   `json:"goroutines,omitzero"`
	MemoryKB   [2]int   `json:"memory_kb"` // resident
	Growth     []string `json:"growth,omitempty"`
}

// usageSample is one look at one process.
type usageSample struct {
	pid                              int
	fds, threads, goroutines, memory int
}

// UsageLog collects what the daemons use. Samples are best taken in one state, as when the pair is protected.
type UsageLog struct{ by map[string][]usageSample }

// NewUsageLog returns an empty log.
func NewUsageLog() *UsageLog { return &UsageLog{by: map[string][]usageSample{}} }

// Sample looks at the daemons of all nodes once.
func (u *UsageLog) Sample(ctx context.Context, l *Lab) {
	for _, node := range l.Nodes() {
		pid, err := l.Daemon(node)
		if err != nil {
			continue
		}
		s := usageSample{pid: pid}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		s.fds = len(fds)
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		s.threads = len(tasks)
		data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				s.memory, _ = strconv.Atoi(strings.Fields(rest)[0])
			}
		}
		s.goroutines = l.goroutines(ctx, node)
		u.by[node] = append(u.by[node], s)
	}
}

// goroutines are those of a node's daemon, by its metrics; 0 if it does not say.
func (l *Lab) goroutines(ctx context.Context, node string) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := l.get(ctx, node, "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, _ := strconv.Atoi(v)
			return n
		}
	}
	return 0
}

// Growth that is called a leak: late over early, for a process that lived long
// enough.
const (
	leakSamples = 12
	leakCount   = 12       // descriptors, threads, goroutines
	leakMemory  = 96 << 10 // KiB
)

// Summary compares early samples with late ones, by node.
func (u *UsageLog) Summary() map[string]Usage {
	all := map[string]Usage{}
	for node, samples := range u.by {
		by := map[int][]usageSample{}
		for _, s := range samples {
			by[s.pid] = append(by[s.pid], s)
		}
		var longest []usageSample
		for _, s := range by {
			if len(s) > len(longest) {
				longest = s
			}
		}
		sum := Usage{Samples: len(samples), Processes: len(by)}
		grown := func(name string, get func(usageSample) int, limit int) [2]int {
			early, late := thirds(longest, get)
			if len(longest) >= leakSamples && late-early > limit && late > early+early/4 {
				sum.Growth = append(sum.Growth, fmt.Sprintf("%s from %d to %d within %d samples", name, early, late, len(longest)))
			}
			return [2]int{early, late}
		}
		sum.FDs = grown("descriptors", func(s usageSample) int { return s.fds }, leakCount)
		sum.Threads = grown("threads", func(s usageSample) int { return s.threads }, leakCount)
		sum.Goroutines = grown("goroutines", func(s usageSample) int { return s.goroutines }, leakCount)
		sum.MemoryKB = grown("memory in KiB", func(s usageSample) int { return s.memory }, leakMemory)
		all[node] = sum
	}
	return all
}

// thirds are the medians of the first and the last third, the very first sample
// left out where there are enough.
func thirds(samples []usageSample, get func(usageSample) int) (early, late int) {
	var v []int
	for _, s := range samples {
		v = append(v, get(s))
	}
	if len(v) == 0 {
		return 0, 0
	}
	if len(v) > 3 {
		v = v[1:]
	}
	n := max(1, len(v)/3)
	median := func(v []int) int {
		v = slices.Sorted(slices.Values(v))
		return v[len(v)/2]
	}
	return median(v[:n]), median(v[len(v)-n:])
}

// loadAverage is the machine's of the last minute.
func loadAverage() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
