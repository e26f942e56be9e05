package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPairsAreCompleted(t *testing.T) {
	d := newFakeDaemon(t)
	for _, args := range [][]string{
		{"status", ""}, {"top", "guest"}, {"events", ""}, {"checkpoint", ""}, {"failover", ""}, {"stop", ""}, {"report", "list", ""},
		{"vm", "reboot", ""}, {"migrate", ""},
	} {
		var out, errOut bytes.Buffer
		// A flag before the argument, as a person who has another socket writes it.
		line := append([]string{"__complete"}, args[:len(args)-1]...)
		line = append(line, "--socket", d.socket, args[len(args)-1])
		if code := execute(t.Context(), line, &out, &errOut); code != exitOK || !strings.Contains(out.String(), "guest2\tprotected") {
			t.Errorf("colod %s: exit code %d, %q, %s", strings.Join(args, " "), code, out.String(), errOut.String())
		}
	}
	var out bytes.Buffer
	if code := execute(t.Context(), []string{"__complete", "status", "--socket", "/nonexistent", ""}, &out, &bytes.Buffer{}); code != exitOK || strings.Contains(out.String(), "guest") {
		t.Errorf("without a daemon: exit code %d, %q", code, out.String())
	}
}

// TestCompletionScripts: what the package installs for shells is there, and bash can read it.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out bytes.Buffer
		if code := execute(t.Context(), []string{"completion", shell}, &out, &bytes.Buffer{}); code != exitOK || out.Len() < 1000 {
			t.Errorf("%s: exit code %d, %d bytes", shell, code, out.Len())
		}
		if shell != "bash" {
			continue
		}
		file := filepath.Join(t.TempDir(), "colod")
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		if msg, err := exec.Command("bash", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("bash cannot read it: %v\n%s", err, msg)
		}
	}
}
