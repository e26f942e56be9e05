package guest

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// jobs are fixed amounts of work inside the guest, asked for with GET /job/NAME?n=N. The answer is the same whoever did
// the work and however long it took, so that both guests of a pair say the same; the client measures the time.
//
// All but compile are the single tests of a system benchmark of the UnixBench kind, each bound by one thing.
var jobs = map[string]func(n int) error{
	"compile": compileJob, // n C files by a C compiler, one process each
	"integer": integerJob, // n passes of a sieve over 8,190 flags
	"float":   floatJob,   // n thousand steps of a floating-point recurrence
	"syscall": syscallJob, // n calls of getppid(2)
	"pipe":    pipeJob,    // n times 512 bytes through a pipe, in one thread
	"switch":  switchJob,  // n exchanges of a word between two threads, over two pipes
	"spawn":   spawnJob,   // n processes made, replaced by another program, and collected
	"files":   filesJob,   // n files of 64 KiB written, read and removed, in memory
}

// maxJob bounds n: a request that would keep the guest for an hour is a mistake.
const maxJob = 10_000_000

func job(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	f := jobs[name]
	if f == nil {
		http.Error(w, "no such job", http.StatusNotFound)
		return
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > maxJob {
		http.Error(w, fmt.Sprintf("n: want 1 to %d", maxJob), http.StatusBadRequest)
		return
	}
	if err := f(n); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text(w, fmt.Sprintf("%s %d done", name, n))
}

// source is a C file that needs no header: functions with loops and branches that call each other.
func source() string {
	var b strings.Builder
	b.WriteString("static int f0(int a, int b) { return a ^ b; }\n")
	for i := 1; i <= 150; i++ {
		fmt.Fprintf(&b, `static int f%d(int a, int b)
{
	int i, s = a, t[16];
	for (i = 0; i < 16; i++)
		t[i] = (a << (i & 7)) + b * %d - i;
	for (i = 0; i < b; i++) {
		s = s * 31 + (t[i & 15] ^ (s >> 3));
		if (s & 1)
			s += f%d(s, i & 3);
		else if (s %% 7 == %d)
			s -= t[(i + 5) & 15];
	}
	return s;
}
`, i, i+3, i-1, i%7)
	}
	b.WriteString("int entry(int a) { return f150(a, 3); }\n")
	return b.String()
}

// jobDir is where jobs keep their files; the guest's root is in memory.
const jobDir = "/tmp/job"

func compileJob(n int) error {
	if err := os.MkdirAll(jobDir, 0o755); err != nil {
		return err
	}
	src := filepath.Join(jobDir, "source.c")
	if err := os.WriteFile(src, []byte(source()), 0o644); err != nil {
		return err
	}
	for range n {
		if out, err := exec.Command("/usr/bin/tcc", "-nostdinc", "-c", "-o", filepath.Join(jobDir, "object.o"), src).CombinedOutput(); err != nil {
			return fmt.Errorf("compile: %w: %s", err, out)
		}
	}
	return nil
}

func integerJob(n int) error {
	flags := make([]bool, 8190)
	for range n {
		count := 0
		for i := range flags {
			flags[i] = true
		}
		for i := range flags {
			if !flags[i] {
				continue
			}
			prime := 2*i + 3
			for k := i + prime; k < len(flags); k += prime {
				flags[k] = false
			}
			count++
		}
		if count != 1899 { // odd primes below 16,383
			return fmt.Errorf("sieve found %d primes", count)
		}
	}
	return nil
}

func floatJob(n int) error {
	x := 0.5
	for range n * 1000 {
		x = 3.9 * x * (1 - x)
	}
	if x < 0 || x > 1 {
		return fmt.Errorf("recurrence left its range: %v", x)
	}
	return nil
}

func syscallJob(n int) error {
	for range n {
		unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
	return nil
}

func pipeJob(n int) error {
	p, err := pipe()
	if err != nil {
		return err
	}
	defer p.close()
	buf := make([]byte, 512)
	for range n {
		if _, err := unix.Write(p[1], buf); err != nil {
			return err
		}
		if _, err := unix.Read(p[0], buf); err != nil {
			return err
		}
	}
	return nil
}

type pipeEnds [2]int

func pipe() (p pipeEnds, err error) { return p, unix.Pipe2(p[:], unix.O_CLOEXEC) }

func (p pipeEnds) close() { unix.Close(p[0]); unix.Close(p[1]) }

// switchJob keeps both ends on threads of their own, so that each exchange is two switches by the kernel.
func switchJob(n int) error {
	there, err := pipe()
	if err != nil {
		return err
	}
	defer there.close()
	back, err := pipe()
	if err != nil {
		return err
	}
	defer back.close()
	pass := func(from, to int, first bool) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		b := make([]byte, 8)
		for range n {
			if first {
				if _, err := unix.Write(to, b); err != nil {
					return err
				}
			}
			if _, err := unix.Read(from, b); err != nil {
				return err
			}
			if !first {
				if _, err := unix.Write(to, b); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var other error
	var wg sync.WaitGroup
	wg.Go(func() { other = pass(there[0], back[1], false) })
	err = pass(back[0], there[1], true)
	wg.Wait()
	if err == nil {
		err = other
	}
	return err
}

func spawnJob(n int) error {
	for range n {
		if err := exec.Command("/bin/true").Run(); err != nil {
			return err
		}
	}
	return nil
}

func filesJob(n int) error {
	if err := os.MkdirAll(jobDir, 0o755); err != nil {
		return err
	}
	name, data := filepath.Join(jobDir, "file"), make([]byte, 64<<10)
	for range n {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
		if got, err := os.ReadFile(name); err != nil || len(got) != len(data) {
			return fmt.Errorf("read %d of %d bytes: %w", len(got), len(data), err)
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
