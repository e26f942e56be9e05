package qmp

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What a guest writes to its serial port lands in a file of the host, usually in memory (/run): a
// guest that never stops talking must not fill it.
const (
	maxLog       = 8 << 20 // bytes of each file, as seen at the next look
	logInterval  = 10 * time.Second
	logTailBytes = 1024
)

// boundLogs empties the VM's files when they have grown too long, until stop is closed. QEMU appends,
// so it goes on at the new end.
func boundLogs(stop <-chan struct{}, every time.Duration, limit int64, paths ...string) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Size() > limit {
				_ = os.Truncate(p, 0) // tried again at the next look
			}
		}
	}
}

func (v *VM) logFiles() []string {
	if v.cfg.RunDir == "" {
		return nil // not ours
	}
	return []string{v.reg.Log, filepath.Join(v.cfg.RunDir, FileConsole)}
}

// logTail returns the end of QEMU's messages in one line, without the command line we put on top.
func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	off := max(0, st.Size()-logTailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, off, logTailBytes))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if off > 0 && len(lines) > 1 {
		lines = lines[1:] // cut in the middle
	}
	if off == 0 && strings.HasPrefix(lines[0], cmdPrefix) {
		lines = lines[1:]
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "info: QEMU waiting for connection on") })
	return strings.Join(lines, "; ")
}
