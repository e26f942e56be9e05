package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readFile returns a file's content, empty if it cannot be read.
func readFile(name string) string {
	data, _ := os.ReadFile(name)
	return string(data)
}

// loadAverage is the machine's of the last minute, to judge figures by.
func loadAverage() string {
	first, _, _ := strings.Cut(readFile("/proc/loadavg"), " ")
	return first
}

// logWriter writes whole lines to a test's log. Only for what ends before the
// test does.
type logWriter struct {
	t    *testing.T
	rest string
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.rest += string(b)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(b), nil
		}
		w.t.Log(line)
		w.rest = rest
	}
}

// evidence lists the logs that a torture saved.
func evidence(dir string) (logs []string) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".log") {
			logs = append(logs, path)
		}
		return nil
	})
	return logs
}

// tail is the end of a text.
func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// record appends the figures of a campaign to a file, one JSON object a line,
// where COLOD_RESULTS names one.
func record(t *testing.T, figures map[string]any) {
	t.Helper()
	name := os.Getenv("COLOD_RESULTS")
	if name == "" {
		return
	}
	figures["test"], figures["load_average"] = t.Name(), loadAverage()
	line, err := json.Marshal(figures)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
			_, err = f.Write(append(line, '\n'))
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		t.Errorf("record figures: %v", err)
	}
}
