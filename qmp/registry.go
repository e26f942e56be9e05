package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// registry is the file that lets a restarted colod find its VM again. It is a hint: the process must
// still have the start time written here, and answer on the socket, to be adopted.
type registry struct {
	Format   int       `json:"format"` // 1
	Name     string    `json:"name"`
	PID      int       `json:"pid"` // 0: written before the start, the start was not completed
	Start    uint64    `json:"start_ticks"`
	Boot     string    `json:"boot_id"`
	QMP      string    `json:"qmp"`
	OOB      string    `json:"oob"`
	Log      string    `json:"log"`
	Tap      string    `json:"tap,omitempty"`
	Accel    string    `json:"accel"`
	Incoming bool      `json:"incoming"`
	Args     []string  `json:"args"` // binary first
	Launched time.Time `json:"launched"`
}

// write replaces the file in one step; after a crash there is the old or the new one, whole.
func (r *registry) write(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, FileRegistry+".tmp-")
	if err != nil {
		return fmt.Errorf("write VM registry: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, FileRegistry))
	}
	if err != nil {
		return fmt.Errorf("write VM registry: %w", err)
	}
	return nil
}

func readRegistry(dir string) (registry, error) {
	var r registry
	path := filepath.Join(dir, FileRegistry)
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read VM registry %s: %w", path, err)
	}
	if r.Format != 1 {
		return r, fmt.Errorf("read VM registry %s: format %d, this colod knows 1", path, r.Format)
	}
	return r, nil
}

// alive reports whether the very process that was registered still runs.
func (r *registry) alive() bool {
	boot, err := bootID()
	if err != nil || r.PID <= 0 || r.Boot != boot {
		return false
	}
	start, err := startTime(r.PID)
	return err == nil && start == r.Start && !zombie(r.PID)
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	return len(f) == 0 || f[0] == "Z" || f[0] == "X"
}

// cleanRunDir removes what a dead VM left that would mislead; messages and console stay.
func cleanRunDir(dir string) error {
	var errs []error
	left, err := filepath.Glob(filepath.Join(dir, FileRegistry+".tmp-*"))
	if err != nil {
		return err
	}
	for _, n := range []string{FileRegistry, FileQMP, FileOOB} {
		left = append(left, filepath.Join(dir, n))
	}
	for _, p := range left {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean run directory: %w", err)
	}
	return nil
}

// Identity names the very process of the VM that is registered in dir: it differs for every launch. [ErrNoVM] if none
// runs.
func Identity(dir string) (string, error) {
	r, err := readRegistry(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !r.alive() {
		return "", ErrNoVM
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d %d", r.Boot, r.PID, r.Start), nil
}
