package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"colod/internal/lab"
)

// TestDemo runs the demonstration as 'make demo' does.
func TestDemo(t *testing.T) {
	shared.down() // one pair at a time is enough for this machine
	name := labName("demo")
	out, errs, err := colod(t, "lab", "demo", "--json", "--name", name)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, errs, out)
	}
	var sum lab.Summary
	if err := json.Unmarshal([]byte(out), &sum); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !sum.OK || sum.Survived != sum.Connections || sum.Connections == 0 || sum.Bytes == 0 || sum.Lost+sum.Repeated+sum.Corrupt != 0 || !sum.Protected {
		t.Errorf("summary: %s", out)
	}
	if left := lab.Leaks(name); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "; "))
	}
	t.Log("\n" + errs)
}

// TestInterruptedDemo ends it with Ctrl-C when the clients are connected.
func TestInterruptedDemo(t *testing.T) {
	shared.down()
	name := labName("demo-int")
	cmd := exec.Command(program, "lab", "demo", "--name", name)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the demo said: %s", errs.String())
		}
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	awaitText(t, out, "checked ")
	cmd.Process.Signal(os.Interrupt)
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err == nil {
		t.Error("exit code 0 after an interrupt")
	}
	if left := lab.Leaks(name); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "; "))
	}
}
