package coordinator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"colod/qmp"
)

// registerSelf makes this process the VM that is registered in dir, started at the given ticks.
func registerSelf(t *testing.T, dir string, shift uint64) {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"format": 1, "pid": os.Getpid(), "start_ticks": start + shift, "boot_id": strings.TrimSpace(string(boot))})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, qmp.FileRegistry), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSavedConnections: they are there for a later process while the same VM runs, and not for another one.
func TestSavedConnections(t *testing.T) {
	dir := t.TempDir()
	registerSelf(t, dir, 0)
	c := &connections{dir: dir, log: zerolog.Nop()}
	want := "a table\nof several\x00lines"
	c.save([]byte("an older one"))
	c.save([]byte(want))
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, err := (&connections{dir: dir, log: zerolog.Nop()}).load()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) == want {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q", got, want)
		}
		time.Sleep(time.Millisecond)
	}
	registerSelf(t, dir, 1) // another process with the same number
	if got, err := c.load(); got != nil || err != nil {
		t.Errorf("connections of an earlier VM are given to a new one: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileConnections)); err == nil {
		t.Error("what belongs to an earlier VM is kept")
	}
	registerSelf(t, dir, 0)
	if err := c.put([]byte(want)); err != nil {
		t.Fatal(err)
	}
	if err := c.put(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := c.load(); got != nil || err != nil {
		t.Errorf("after the last connection has ended: %q, %v", got, err)
	}
}
