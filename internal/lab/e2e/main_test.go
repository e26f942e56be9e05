package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"colod/internal/lab"
)

// program is the colod binary under test, built by TestMain.
var program string

// long tells whether campaigns run in full.
var long = os.Getenv("COLOD_LONG") != ""

// rounds chooses the length of a campaign. COLOD_ROUNDS shortens a full one.
func rounds(few, full int) int {
	if !long {
		return few
	}
	if n, err := strconv.Atoi(os.Getenv("COLOD_ROUNDS")); err == nil && n > 0 {
		return min(n, full)
	}
	return full
}

// seed makes the random instants repeatable: COLOD_SEED sets it.
var seed = func() uint64 {
	if s := os.Getenv("COLOD_SEED"); s != "" {
		var n uint64
		fmt.Sscan(s, &n)
		return n
	}
	return rand.Uint64()
}()

func TestMain(m *testing.M) {
	os.Exit(mainTest(m))
}

func mainTest(m *testing.M) int {
	dir, err := os.MkdirTemp("", "colod-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = os.Getenv("COLOD_PROGRAM")
	if program == "" {
		program = filepath.Join(dir, "colod")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "colod/cmd/colod")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build colod: %v\n%s", err, out)
			return 1
		}
	}
	fmt.Printf("seed %d (COLOD_SEED), program %s\n", seed, program)
	sweep()
	clearOnSignal(dir)
	code := m.Run()
	shared.down()
	for _, name := range used.all() {
		if left := lab.Leaks(name); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left of lab %s: %s\n", name, strings.Join(left, "; "))
			code = 1
		}
	}
	return code
}

// clearOnSignal takes this run's labs down when it is interrupted.
func clearOnSignal(dir string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		code := 128 + int(syscall.SIGINT)
		for _, name := range used.all() {
			if err := lab.Down(context.Background(), name); err != nil && !errors.Is(err, lab.ErrNoLab) {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		os.RemoveAll(dir)
		os.Exit(code)
	}()
}

// sweep takes down the labs of runs that were killed.
func sweep() {
	for _, name := range lab.Names() {
		number, _, ok := strings.Cut(strings.TrimPrefix(name, "t"), "-")
		pid, err := strconv.ParseInt(number, 36, 32)
		if !ok || !strings.HasPrefix(name, "t") || err != nil || syscall.Kill(int(pid), 0) != syscall.ESRCH {
			continue
		}
		fmt.Printf("lab %s is of a run that was killed: it is taken down\n", name)
		if err := lab.Down(context.Background(), name); err != nil && !errors.Is(err, lab.ErrNoLab) {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// names is a list that several goroutines use.
type names struct {
	mu   sync.Mutex
	list []string
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, name)
}

func (n *names) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
}

// used are the names of all labs of this run.
var used names

// labName returns a name that no other run uses.
func labName(what string) string {
	name := fmt.Sprintf("t%s-%s", strconv.FormatInt(int64(os.Getpid()), 36), what)
	used.add(name)
	return name
}

// up makes a lab that ends with the test.
func up(t *testing.T, what string, opt lab.Options) *lab.Lab {
	t.Helper()
	opt.Name, opt.Program = labName(what), program
	var said progress
	opt.Progress = said.note
	start := time.Now()
	l, err := lab.Up(t.Context(), opt)
	if err != nil {
		t.Fatalf("%v\n%s", err, said.show())
	}
	t.Logf("lab %s is up after %.1f s", l.Name, time.Since(start).Seconds())
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if left := lab.Leaks(l.Name); len(left) > 0 {
			t.Errorf("left of lab %s: %s", l.Name, strings.Join(left, "; "))
		}
	})
	return l
}

// sharedLab is one protected pair that many tests use one after the other: each
// leaves it protected or the next one starts anew.
type sharedLab struct {
	progress
	lab *lab.Lab
}

// sharedOptions are what the shared lab is made of: what a careful operator
// would build.
var sharedOptions = lab.Options{Arbiter: "etcd", Members: 3, Paths: 2}

// progress keeps what a lab says. A lab may outlive the test that made it, so
// nothing is written to a test's log from here.
type progress struct {
	mu   sync.Mutex
	said []string
}

func (p *progress) note(said string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said[max(0, len(p.said)-200):], time.Now().UTC().Format("15:04:05.000")+"  "+said)
}

// show returns what was said since the last time.
func (p *progress) show() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := strings.Join(p.said, "\n")
	p.said = nil
	return all
}

var shared sharedLab

func (s *sharedLab) down() {
	if s.lab != nil {
		if err := s.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		s.lab = nil
	}
}

// protected returns the shared lab in state protected.
func protected(t *testing.T) *lab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if l := shared.lab; l != nil {
		if err := l.AwaitState(ctx, "protected"); err == nil {
			return l
		} else {
			t.Logf("the shared lab is of no use any more, making another: %v\n%s\n%s", err, shared.show(), l.Logs(40))
			shared.down()
		}
	}
	start := time.Now()
	opt := sharedOptions
	opt.Name, opt.Program, opt.Progress = labName(fmt.Sprint("pair", len(used.all()))), program, shared.note
	l, err := lab.Up(t.Context(), opt)
	if err != nil {
		t.Fatalf("%v\n%s", err, shared.show())
	}
	t.Logf("lab %s is protected after %.1f s\n%s", l.Name, time.Since(start).Seconds(), shared.show())
	shared.lab = l
	return l
}

// giveUpIfFailed ends the shared lab of a test that failed, after showing its logs: what
// follows must not suffer from it.
func giveUpIfFailed(t *testing.T, l *lab.Lab) {
	t.Cleanup(func() {
		if t.Failed() && shared.lab == l {
			t.Logf("%s\nlogs of the nodes:\n%s", shared.show(), l.Logs(60))
			shared.down()
		}
	})
}

// figures are measured values of one kind.
type figures []float64

func (f figures) quantile(q float64) float64 {
	if len(f) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(f))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func (f figures) String() string {
	return fmt.Sprintf("n=%d median %.1f p90 %.1f p99 %.1f max %.1f", len(f), f.quantile(0.5), f.quantile(0.9), f.quantile(0.99), f.quantile(1))
}
