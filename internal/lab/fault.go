package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The kinds of faults.
const (
	KillVM    = "kill-vm"
	KillNode  = "kill-node"
	KillColod = "kill-colod"
	FreezeVM  = "freeze-vm"
	ThawVM    = "thaw-vm"
	Partition = "partition"
	Heal      = "heal"
)

// FaultKinds are all faults, and the ways to mend them.
var FaultKinds = []string{KillVM, KillNode, KillColod, FreezeVM, ThawVM, Partition, Heal}

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
	for _, p := range l.processes(node) {
		if strings.Contains(p.arg, " run --config "+l.configFile(node)) && !strings.HasPrefix(p.exe, "ip") {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("find the daemon of node %s: none runs there", node)
}

// Fault breaks something, or mends it, and says what it did. An empty node
// means the speaker's, or for thaw-vm and heal every node.
func (l *Lab) Fault(ctx context.Context, kind, node string) (string, error) {
	if !slices.Contains(FaultKinds, kind) {
		return "", fmt.Errorf("unknown fault %q: want one of %s", kind, strings.Join(FaultKinds, ", "))
	}
	if node != "" {
		if err := checkHost(node, Nodes); err != nil {
			return "", err
		}
	}
	if l.state.Native && (kind == KillColod || node == NodeB) {
		return "", fmt.Errorf("make fault %s: this lab has one unprotected guest, on node a", kind)
	}
	if node == "" && (kind == KillVM || kind == KillNode || kind == KillColod || kind == FreezeVM) {
		st, err := l.Status(ctx)
		if err != nil {
			return "", fmt.Errorf("make fault %s: find the speaker: %w (name a node with --node)", kind, err)
		}
		node = st.Speaker
	}
	switch kind {
	case KillVM:
		return l.signalVM(node, syscall.SIGKILL, "killed")
	case FreezeVM:
		return l.signalVM(node, syscall.SIGSTOP, "froze")
	case ThawVM:
		return l.thaw(node)
	case KillColod:
		pid, err := l.Daemon(node)
		if err != nil {
			return "", fmt.Errorf("make fault %s: %w", kind, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return "", fmt.Errorf("make fault %s: %w", kind, err)
		}
		return fmt.Sprintf("killed colod (process %d) on node %s; its guest goes on", pid, node), nil
	case KillNode:
		return l.killNode(ctx, node)
	case Partition:
		return l.partition(ctx, node)
	default:
		return l.heal(ctx, node)
	}
}

func (l *Lab) signalVM(node string, sig syscall.Signal, did string) (string, error) {
	pid, err := l.VM(node)
	if err == nil {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		return "", fmt.Errorf("make fault: %w", err)
	}
	for i := 0; sig == syscall.SIGSTOP && !stopped(pid) && i < 1000; i++ {
		time.Sleep(time.Millisecond)
	}
	return fmt.Sprintf("%s the virtual machine (process %d) of node %s", did, pid, node), nil
}

func (l *Lab) thaw(node string) (string, error) {
	var said []string
	for _, n := range Nodes {
		if node != "" && n != node {
			continue
		}
		if pid, err := l.VM(n); err == nil && stopped(pid) {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				return "", fmt.Errorf("make fault %s: %w", ThawVM, err)
			}
			said = append(said, fmt.Sprintf("thawed the virtual machine (process %d) of node %s", pid, n))
		}
	}
	if len(said) == 0 {
		return "", errors.New("make fault thaw-vm: no virtual machine is frozen")
	}
	return strings.Join(said, "; "), nil
}

// stopped tells whether a process is stopped by a signal (proc(5), stat).
func stopped(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(data), ") ")
	return ok && strings.HasPrefix(rest, "T")
}

// ports are the switch's ends of a node's wires.
func ports(node string) []string { return []string{"lan-" + node, "repl-" + node} }

// killNode ends a host as the loss of its power does: nothing leaves it any
// more, not even the goodbye that the kernel says for a dead process, and what
// was in its memory is gone. Its disk stays.
func (l *Lab) killNode(ctx context.Context, node string) (string, error) {
	for _, p := range ports(node) {
		if err := l.setWire(ctx, p, false); err != nil {
			return "", err
		}
	}
	if err := killAll(ctx, netnsInode(l.ns(node))); err != nil {
		return "", err
	}
	var links []string
	if err := inNetns(l.ns(node), func() error {
		ifs, err := net.Interfaces()
		for _, i := range ifs {
			links = append(links, i.Name)
		}
		return err
	}); err != nil {
		return "", err
	}
	for _, name := range links {
		if name != "lo" && name != "lan0" && name != "repl0" && name != Bridge {
			// The other end of a pair may be gone with the first.
			if err := ip(ctx, "-n", l.ns(node), "link", "del", name); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
				return "", err
			}
		}
	}
	if err := os.RemoveAll(l.runDir(node)); err != nil {
		return "", err
	}
	return "killed node " + node + ": every process, and its wires are silent", nil
}

func (l *Lab) partition(ctx context.Context, node string) (string, error) {
	cut, said := []string{"repl-" + NodeA}, "cut the wire between the nodes"
	if node != "" {
		cut, said = ports(node), "cut all wires of node "+node
	}
	for _, p := range cut {
		if err := l.setWire(ctx, p, false); err != nil {
			return "", err
		}
	}
	return said, nil
}

// Rejoin mends the wires of a node.
func (l *Lab) Rejoin(ctx context.Context, node string) error {
	for _, p := range ports(node) {
		if err := l.setWire(ctx, p, true); err != nil {
			return err
		}
	}
	return nil
}

// heal mends the wires, thaws what is frozen and starts the daemons that are
// not running. They rebuild the protection by themselves.
func (l *Lab) heal(ctx context.Context, node string) (string, error) {
	said := []string{"mended the wires"}
	for _, n := range Nodes {
		if node != "" && n != node {
			continue
		}
		if err := l.Rejoin(ctx, n); err != nil {
			return "", err
		}
		if pid, err := l.VM(n); err == nil && stopped(pid) {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				return "", fmt.Errorf("thaw node %s: %w", n, err)
			}
			said = append(said, "thawed the virtual machine of node "+n)
		}
		if l.state.Native {
			continue
		}
		if _, err := l.Daemon(n); err != nil {
			if err := l.startDaemon(ctx, n); err != nil {
				return "", err
			}
			said = append(said, "started colod on node "+n)
		}
	}
	return strings.Join(said, "; "), nil
}
