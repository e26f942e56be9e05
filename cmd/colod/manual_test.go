package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"colod/internal/transcript"
)

// TestManual runs the manual's transcripts that need no virtual machine; those
// that need a lab are run by the end-to-end tests.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/manual.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := transcript.Parse(string(manual))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"right.yaml": rightConfig, "wrong.yaml": wrongConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Reports as the daemon keeps them.
	if err := os.Symlink(filepath.Dir(madeReports(t)), filepath.Join(dir, "reports")); err != nil {
		t.Fatal(err)
	}
	run := func(command string) (string, int, error) {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "COLOD_SOCKET="+filepath.Join(dir, "api.sock"))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(out), exit.ExitCode(), nil
		}
		return string(out), 0, err
	}
	n := 0
	for _, b := range blocks {
		switch b.Needs {
		case "":
			n++
			if err := transcript.Check(b, run); err != nil {
				t.Errorf("docs/manual.md: %v", err)
			}
		case "lab":
		default:
			t.Errorf("docs/manual.md, line %d: nothing runs transcripts that need %q", b.Line, b.Needs)
		}
	}
	if n < 3 {
		t.Errorf("%d transcripts", n)
	}
}

const rightConfig = `node: a
listen: 198.51.100.1:7420
tls: {ca: ca.pem, cert: a.pem, key: a.key}
heartbeat: {interval: 50ms, timeout: 250ms}
arbiter: {file: {path: /var/lib/colod/arbiter}}
pairs:
  - name: guest1
    nodes:
      - {name: a, address: "198.51.100.1:7420"}
      - {name: b, address: "198.51.100.2:7420"}
    network: {bridge: br0, tap: vm0, mac: "52:54:00:12:34:56"}
    vm: {memory: 256M}
`

const wrongConfig = `node: a
listen: 198.51.100.1:7420
tls: {ca: ca.pem, cert: a.pem, key: a.key}
hartbeat: {interval: 50ms, timeout: 250ms}
arbiter: {file: {path: /var/lib/colod/arbiter}}
pairs:
  - name: guest1
    nodes:
      - {name: a, address: "198.51.100.1:7420"}
      - {name: b, address: "198.51.100.2:7420"}
    network: {bridge: br0, tap: vm0, mac: "52:54:00:12:34:56"}
    vm: {memory: lots}
`
