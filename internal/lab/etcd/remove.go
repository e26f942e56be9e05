package etcd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Processes lists the etcd processes whose data is below dir, whoever started them.
func Processes(dir string) []int {
	dir = filepath.Clean(dir) + "/"
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, c := range cmdlines {
		data, err := os.ReadFile(c)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
		if filepath.Base(args[0]) != "etcd" {
			continue
		}
		for i, a := range args[:len(args)-1] {
			if a == "--data-dir" && strings.HasPrefix(args[i+1], dir) {
				if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(c))); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// Remove ends the members of the cluster in dir, whoever started them, and removes the directory. It is no error if
// there is nothing.
func Remove(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
		return fmt.Errorf("remove etcd: %q is not the directory of a cluster", dir)
	}
	for deadline := time.Now().Add(termLimit); ; time.Sleep(5 * time.Millisecond) {
		pids := Processes(dir)
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove etcd in %s: processes %v do not end", dir, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove etcd: %w", err)
	}
	return nil
}
