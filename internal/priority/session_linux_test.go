package priority

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// raised is set where the test is its own child, which raises its priority and says what its session's is.
const raised = "COLOD_TEST_RAISED"

func TestSession(t *testing.T) {
	if os.Getenv(raised) != "" {
		if err := raiseSession(); err != nil {
			t.Fatal(err)
		}
		b, _ := os.ReadFile(autogroup)
		os.Stdout.Write(b)
		return
	}
	if b, err := os.ReadFile(autogroup); err != nil || len(b) == 0 || os.Getuid() != 0 {
		t.Logf("this kernel keeps no groups by session, or not for this user; the child has to do without: %v", err)
		if err := raiseSession(); err != nil {
			t.Error(err)
		}
		return
	}
	for _, leads := range []bool{true, false} {
		child := []string{os.Args[0], "-test.run=^TestSession$"}
		if !leads { // the session is that of a shell, which waits for it
			child = append([]string{"sh", "-c", `"$0" "$1"; true`}, child...)
		}
		cmd := exec.Command(child[0], child[1:]...)
		cmd.Env = append(os.Environ(), raised+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := strings.Contains(string(out), "nice "+strconv.Itoa(SessionNiceness)); got != leads {
			t.Errorf("leader of its session: %v: %s", leads, out)
		}
	}
}
