package qmp

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process is a handle on one process that cannot come to mean another one: a pidfd.
type process struct {
	pid    int
	fd     *os.File // pidfd
	child  bool     // ours to reap
	died   chan struct{}
	exited chan struct{}

	mu      sync.Mutex
	dead    time.Time
	how     string
	threads []*os.File // pidfds of threads, see watchThread
	closed  bool
}

// openProcess takes a handle on pid. wait, if not nil, reaps the process (it is our child) and says
// how it ended; it is called once, after the end.
func openProcess(pid int, wait func() string) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open handle of process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), died: make(chan struct{}), exited: make(chan struct{})}
	p.child = wait != nil
	go func() {
		if err := waitReadable(p.fd); err != nil {
			return // released
		}
		p.lost("process ended")
		if wait != nil {
			how := wait()
			p.mu.Lock()
			p.how = how
			if p.closed {
				p.fd.Close()
			}
			p.mu.Unlock()
		}
		close(p.exited)
	}()
	return p, nil
}

// waitReadable parks in the runtime's poller until f is readable: no thread waits.
func waitReadable(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// watchThread closes died as soon as thread tid of the process ends. A process that is killed ends
// its threads at once, but the process handle and the closing of its sockets wait until its memory is
// freed (with 2 GiB in use 10 ms against 0.15 ms, kernel 6.18, 2026-11). Threads that live as long as
// the VM (main, vCPUs) thus tell of its death earlier; as one of them may be the one that frees the
// memory, more than one is watched. Kernels before 6.9 have no such handles and lose that gain only.
func (p *process) watchThread(tid int) {
	const pidfdThread = unix.O_EXCL // PIDFD_THREAD, linux/pidfd.h
	fd, err := unix.PidfdOpen(tid, unix.PIDFD_NONBLOCK|pidfdThread)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd-thread")
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		f.Close()
		return
	}
	p.threads = append(p.threads, f)
	p.mu.Unlock()
	go func() {
		if waitReadable(f) == nil {
			p.lost("process is ending")
		}
	}()
}

// lost marks the death, once.
func (p *process) lost(how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead.IsZero() {
		return
	}
	p.dead, p.how = time.Now(), how
	close(p.died)
}

func (p *process) diedAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *process) status() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.how == "" {
		return "running"
	}
	return p.how
}

func (p *process) kill() error { return p.signal(unix.SIGKILL) }

func (p *process) signal(sig unix.Signal) error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	rc, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return nil
	}
	return serr
}

// release closes the handles; the process is not touched. That of a child stays open until its end,
// as it has to be reaped.
func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	ended := false
	select {
	case <-p.exited:
		ended = true
	default:
	}
	if !p.child || ended {
		p.fd.Close()
	}
	for _, f := range p.threads {
		f.Close()
	}
	p.threads = nil
}

func (p *process) tapFD(tap string) (*os.File, error) {
	fail := func(err error) error {
		return fmt.Errorf("duplicate tap %s of process %d: %w", tap, p.pid, err)
	}
	dir := fmt.Sprintf("/proc/%d/fdinfo", p.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fail(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(dir + "/" + e.Name())
		if err != nil || !hasLine(string(b), "iff:", tap) {
			continue
		}
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		rc, err := p.fd.SyscallConn()
		if err != nil {
			return nil, fail(err)
		}
		var fd int
		var ferr error
		if err := rc.Control(func(pfd uintptr) { fd, ferr = unix.PidfdGetfd(int(pfd), n, 0) }); err != nil {
			return nil, fail(err)
		}
		if ferr != nil {
			return nil, fail(ferr)
		}
		return os.NewFile(uintptr(fd), "tap:"+tap), nil
	}
	return nil, fail(errors.New("the process has no such tap open"))
}

func hasLine(text, key, value string) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == key && f[1] == value {
			return true
		}
	}
	return false
}

// startTime returns field 22 of /proc/PID/stat: clock ticks from boot to the process's start. With
// the boot's id it tells a process from every other one that ever had its number.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	s := string(b)
	i := strings.LastIndexByte(s, ')') // the name before it may hold anything
	f := strings.Fields(s[i+1:])
	if i < 0 || len(f) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: unexpected form", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// monitorEnded takes the end of the main monitor connection for the death of the VM, unless we closed
// it: QEMU never closes it otherwise.
func (p *process) monitorEnded(err error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if !closed {
		p.lost(err.Error())
	}
}
