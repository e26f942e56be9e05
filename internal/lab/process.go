package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// process is one running program of a node.
type process struct {
	pid int
	exe string // base name
	arg string // command line, separated by blanks
}

// processes lists what runs on a node.
func (l *Lab) processes(node string) []process {
	var all []process
	for _, pid := range pidsIn(netnsInode(l.ns(node))) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		all = append(all, process{pid, strings.TrimSuffix(filepath.Base(exe), " (deleted)"), strings.ReplaceAll(string(cmdline), "\x00", " ")})
	}
	return all
}

// VM returns the process of a node's QEMU.
func (l *Lab) VM(node string) (pid int, err error) {
	for _, p := range l.processes(node) {
		if strings.HasPrefix(p.exe, "qemu-system-") && strings.Contains(p.arg, l.nodeDir(node)+"/") {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("find the virtual machine of node %s: none runs there", node)
}

// Daemon returns the process of a node's colod.
func (l *Lab) Daemon(node string) (pid int, err error) {
	if pid = l.withArg(node, " run --config "+l.configFile(node)+" "); pid == 0 {
		return 0, fmt.Errorf("find the daemon of node %s: none runs there", node)
	}
	return pid, nil
}

// keeper returns the process that keeps a node's colod running, or 0.
func (l *Lab) keeper(node string) int {
	return l.withArg(node, " lab keep "+l.configFile(node)+" ")
}

// withArg finds the program of ours with these words in its command line.
func (l *Lab) withArg(node, words string) int {
	for _, p := range l.processes(node) {
		if strings.Contains(p.arg+" ", words) && !strings.HasPrefix(p.exe, "ip") {
			return p.pid
		}
	}
	return 0
}

// stopped tells whether a process is stopped by a signal (proc(5), stat).
func stopped(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(data), ") ")
	return ok && strings.HasPrefix(rest, "T")
}
