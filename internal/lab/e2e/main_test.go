package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"colod/internal/lab"
)

// program is the colod binary under test, built by TestMain.
var program string

// long tells whether campaigns run in full.
var long = os.Getenv("COLOD_LONG") != ""

// rounds chooses the length of a campaign.
func rounds(few, full int) int {
	if long {
		return full
	}
	return few
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
	code := m.Run()
	shared.down()
	for _, name := range used {
		if left := lab.Leaks(name); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left of lab %s: %s\n", name, strings.Join(left, "; "))
			code = 1
		}
	}
	return code
}

// used are the names of all labs of this run.
var used []string

// labName returns a name that no other run uses.
func labName(what string) string {
	name := fmt.Sprintf("t%s-%s", strconv.FormatInt(int64(os.Getpid()), 36), what)
	used = append(used, name)
	return name
}

// up makes a lab that ends with the test.
func up(t *testing.T, what string, opt lab.Options) *lab.Lab {
	t.Helper()
	opt.Name, opt.Program = labName(what), program
	opt.Progress = func(s string) { t.Log(s) }
	start := time.Now()
	l, err := lab.Up(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
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
	mu  sync.Mutex
	lab *lab.Lab
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
	shared.mu.Lock()
	defer shared.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if l := shared.lab; l != nil {
		if err := l.AwaitState(ctx, "protected"); err == nil {
			return l
		} else {
			t.Logf("the shared lab is of no use any more, making another: %v\n%s", err, l.Logs(40))
			shared.down()
		}
	}
	start := time.Now()
	l, err := lab.Up(t.Context(), lab.Options{Name: labName(fmt.Sprint("pair", len(used))), Program: program, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("lab %s is protected after %.1f s", l.Name, time.Since(start).Seconds())
	shared.lab = l
	return l
}

// failed ends the shared lab of a test that failed, after showing its logs: what
// follows must not suffer from it.
func giveUpIfFailed(t *testing.T, l *lab.Lab) {
	t.Cleanup(func() {
		if t.Failed() && shared.lab == l {
			t.Logf("logs of the nodes:\n%s", l.Logs(60))
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
