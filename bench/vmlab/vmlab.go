// Package vmlab makes labs for benchmarks with real virtual machines: named after this process, always taken down, and
// with the load clients in them.
package vmlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"colod/bench/load"
	"colod/bench/rig"
	"colod/internal/lab"
	"colod/internal/lab/image"
)

// prefix of the labs' names: prefix, process in base 36, hyphen, number in base 36.
const prefix = "bn"

var labs atomic.Int64

// Sweep takes down the labs of benchmarks that were killed.
func Sweep(ctx context.Context, log func(string, ...any)) error {
	dirs, _ := filepath.Glob("/run/colod-lab/" + prefix + "*-*")
	for _, d := range dirs {
		name := filepath.Base(d)
		number, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		pid, err := strconv.ParseInt(number, 36, 64)
		if err != nil || pid < 1 || syscall.Kill(int(pid), 0) == nil {
			continue
		}
		log("taking down the lab %s of a benchmark that was killed", name)
		if err := lab.Down(ctx, name); err != nil {
			return fmt.Errorf("take down lab %s: %w", name, err)
		}
	}
	return nil
}

// Program is a colod binary that can run in the guest too: COLOD_PROGRAM, or one that is built here.
func Program(t *rig.TB) string {
	if p := os.Getenv("COLOD_PROGRAM"); p != "" {
		return p
	}
	p := filepath.Join(t.TempDir(), "colod")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", p, "colod/cmd/colod")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build colod: %v: %s (COLOD_PROGRAM names one that is built)", err, out)
	}
	return p
}

// Up makes a lab. Its name is chosen here. The caller takes it down; the end of the scenario does so too.
func Up(t *rig.TB, opt lab.Options) (*lab.Lab, error) {
	opt.Name = prefix + strconv.FormatInt(int64(os.Getpid()), 36) + "-" + strconv.FormatInt(labs.Add(1), 36)
	l, err := lab.Up(t.Context(), opt)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if _, err := os.Stat(l.Dir()); err == nil {
			if err := Down(l); err != nil {
				t.Errorf("%v", err)
			}
		}
	})
	return l, nil
}

// Down takes a lab down, however the run ended.
func Down(l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return l.Down(ctx)
}

// Load runs a load on the lab's client host, in a process of its own.
func Load(ctx context.Context, l *lab.Lab, kind string, each time.Duration, rate int) (load.Outcome, error) {
	var out load.Outcome
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	// No load takes much longer than it is told to, unless the guest is gone.
	ctx, cancel := context.WithTimeout(ctx, each+90*time.Second)
	defer cancel()
	cmd := l.Command(ctx, lab.Client, self, "load", "-kind", kind, "-ip", image.GuestIPv4, "-time", each.String(), "-rate", strconv.Itoa(rate),
		"-key", l.SSHKey(), "-known", l.KnownHosts())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// The client is a child of ip(8): both end together.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		return out, fmt.Errorf("load %s: %w: %s", kind, err, said[:min(len(said), 300)])
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		return out, fmt.Errorf("load %s: %w", kind, err)
	}
	return out, nil
}
