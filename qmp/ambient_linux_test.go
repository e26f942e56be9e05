package qmp

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ambientChild makes the test's own program the colod that has ambient
// capabilities.
const ambientChild = "COLOD_TEST_AMBIENT"

// TestNoAmbientCapabilities: a program that a colod with ambient capabilities
// starts has none of them.
func TestNoAmbientCapabilities(t *testing.T) {
	show := func() *exec.Cmd { return exec.Command("grep", "CapAmb", "/proc/self/status") }
	if os.Getenv(ambientChild) != "" {
		plain, started := new(bytes.Buffer), new(bytes.Buffer)
		c := show()
		c.Stdout = plain
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		c = show()
		c.Stdout = started
		if err := startPlain(c); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		none := "CapAmb:\t0000000000000000"
		if strings.TrimSpace(plain.String()) == none {
			t.Fatal("this process has no ambient capabilities: nothing was tested")
		}
		if got := strings.TrimSpace(started.String()); got != none {
			t.Fatalf("a program that was started has %q", got)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNoAmbientCapabilities$")
	cmd.Env = append(os.Environ(), ambientChild+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
