package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The kinds of faults.
const (
	KillVM       = "kill-vm"
	KillNode     = "kill-node"
	KillColod    = "kill-colod"
	RestartColod = "restart-colod"
	FreezeVM     = "freeze-vm"
	ThawVM       = "thaw-vm"
	MuteVM       = "mute-vm"
	UnmuteVM     = "unmute-vm"
	FreezeColod  = "freeze-colod"
	ThawColod    = "thaw-colod"
	Partition    = "partition"
	Isolate      = "isolate"
	CutPath      = "cut-path"
	CutLAN       = "cut-lan"
	CutArbiter   = "cut-arbiter"
	Blip         = "blip"
	StopArbiter  = "stop-arbiter"
	StartArbiter = "start-arbiter"
	Heal         = "heal"
)

// FaultKinds are all faults, and the ways to mend them.
var FaultKinds = []string{KillVM, KillNode, KillColod, RestartColod, FreezeVM, ThawVM, MuteVM, UnmuteVM, FreezeColod, ThawColod,
	Partition, Isolate, CutPath, CutLAN, CutArbiter, Blip, StopArbiter, StartArbiter, Heal}

// AllPaths as Fault.Path means every path between the nodes.
const AllPaths = -1

// Fault is one thing to break or to mend.
type Fault struct {
	Kind string
	// Node that it hits. Empty means the speaker's; for heal, the thaws and unmute-vm every node; for partition none in
	// particular.
	Node string
	// From and To of a partition: nothing from one reaches the other; To empty means every other node.
	From, To string
	// Path of cut-path and blip: its number, or AllPaths.
	Path int
	// Member of the arbiter, m1 to m3; empty means all.
	Member string
	// For is how long a blip lasts; 1 s if it is 0.
	For time.Duration
}

// Fault breaks something, or mends it, and says what it did.
func (l *Lab) Fault(ctx context.Context, kind, node string) (string, error) {
	return l.Break(ctx, Fault{Kind: kind, Node: node, Path: AllPaths})
}

// Break breaks something, or mends it, and says what it did.
func (l *Lab) Break(ctx context.Context, f Fault) (string, error) {
	if err := l.checkFault(f); err != nil {
		return "", err
	}
	if f.Node == "" && slices.Contains([]string{KillVM, KillNode, KillColod, RestartColod, FreezeVM, MuteVM, FreezeColod, Isolate, CutLAN}, f.Kind) {
		st, err := l.Status(ctx)
		if err != nil {
			return "", fmt.Errorf("make fault %s: find the speaker: %w (name a node with --node)", f.Kind, err)
		}
		f.Node = st.Speaker
	}
	said, err := l.do(ctx, f)
	if err != nil {
		return "", fmt.Errorf("make fault %s: %w", f.Kind, err)
	}
	return said, nil
}

func (l *Lab) checkFault(f Fault) error {
	if !slices.Contains(FaultKinds, f.Kind) {
		return fmt.Errorf("unknown fault %q: want one of %s", f.Kind, strings.Join(FaultKinds, ", "))
	}
	for _, node := range []string{f.Node, f.From, f.To} {
		if node != "" {
			if err := checkHost(node, l.Nodes()); err != nil {
				return err
			}
		}
	}
	if l.state.Native && (f.Kind == KillColod || f.Kind == RestartColod || f.Kind == FreezeColod || f.Node == NodeB) {
		return fmt.Errorf("make fault %s: this lab has one unprotected guest, on node a", f.Kind)
	}
	if f.Path < AllPaths || f.Path >= len(l.paths()) {
		return fmt.Errorf("make fault %s: there is no path %d: this lab has %d between its nodes, counted from 0 (lab up --paths)", f.Kind, f.Path, len(l.paths()))
	}
	if f.Kind == StopArbiter || f.Kind == StartArbiter || f.Kind == CutArbiter {
		if len(l.Members()) == 0 {
			return fmt.Errorf("make fault %s: the arbiter of this lab is a directory: lab up --arbiter etcd makes one that can fail", f.Kind)
		}
		if f.Member != "" {
			if err := checkHost(f.Member, l.Members()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) do(ctx context.Context, f Fault) (string, error) {
	switch f.Kind {
	case KillVM:
		return l.signalVM(f.Node, syscall.SIGKILL, "killed")
	case FreezeVM:
		return l.signalVM(f.Node, syscall.SIGSTOP, "froze")
	case ThawVM:
		return l.thaw(f.Node, "virtual machine", l.VM)
	case MuteVM:
		return fmt.Sprintf("unplugged the guest's device of node %s, whose VM runs on", f.Node), l.setTap(ctx, f.Node, false)
	case UnmuteVM:
		var said []string
		for _, n := range l.Nodes() {
			if f.Node == "" || n == f.Node {
				if err := l.setTap(ctx, n, true); err != nil {
					return "", err
				}
				said = append(said, n)
			}
		}
		return "plugged in the guest's device of " + strings.Join(said, ", "), nil
	case KillColod:
		return l.signalColod(f.Node, syscall.SIGKILL, "killed")
	case FreezeColod:
		return l.signalColod(f.Node, syscall.SIGSTOP, "froze")
	case ThawColod:
		return l.thaw(f.Node, "colod", l.Daemon)
	case RestartColod:
		return l.restartColod(ctx, f.Node)
	case KillNode:
		return l.killNode(ctx, f.Node)
	case Partition:
		if f.Node != "" {
			return l.isolate(ctx, f.Node)
		}
		return l.partition(ctx, f.From, f.To)
	case Isolate:
		return l.isolate(ctx, f.Node)
	case CutPath:
		return l.cutPath(ctx, f.Path, true)
	case CutLAN:
		return fmt.Sprintf("cut node %s's wire to the clients", f.Node), l.setWire(ctx, lanNet, f.Node, false)
	case CutArbiter:
		return l.cutArbiter(ctx, f.Node, f.Member)
	case Blip:
		return l.blip(ctx, f.Path, f.For)
	case StopArbiter:
		return l.stopArbiter(f.Member)
	case StartArbiter:
		return l.startArbiter(ctx, f.Member)
	default:
		return l.heal(ctx, f.Node)
	}
}

func (l *Lab) signalVM(node string, sig syscall.Signal, did string) (string, error) {
	pid, err := l.VM(node)
	if err != nil {
		return "", err
	}
	if err := sendSignal(pid, sig); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s the virtual machine (process %d) of node %s", did, pid, node), nil
}

// guestTap is the tap of the guest on each node.
const guestTap = "vm0"

// setTap makes the guest's tap carry frames, or none: the VM runs on, is copied to and takes checkpoints.
func (l *Lab) setTap(ctx context.Context, node string, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return ip(ctx, "-n", l.ns(node), "link", "set", guestTap, state)
}

func (l *Lab) signalColod(node string, sig syscall.Signal, did string) (string, error) {
	pid, err := l.Daemon(node)
	if err != nil {
		return "", err
	}
	if err := sendSignal(pid, sig); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s colod (process %d) of node %s; its guest goes on", did, pid, node), nil
}

// sendSignal sends a signal and, if it is the one that stops, returns when the process is stopped.
func sendSignal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil {
		return err
	}
	for i := 0; sig == syscall.SIGSTOP && !stopped(pid) && i < 1000; i++ {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// thaw lets what was frozen go on, on one node or on all.
func (l *Lab) thaw(node, what string, find func(node string) (int, error)) (string, error) {
	var said []string
	for _, n := range l.Nodes() {
		if node != "" && n != node {
			continue
		}
		if pid, err := find(n); err == nil && stopped(pid) {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				return "", err
			}
			said = append(said, fmt.Sprintf("thawed the %s (process %d) of node %s", what, pid, n))
		}
	}
	if len(said) == 0 {
		return "", errors.New("no " + what + " is frozen")
	}
	return strings.Join(said, "; "), nil
}

// killNode ends a host as the loss of its power does: nothing leaves it any
// more, not even the goodbye that the kernel says for a dead process, and what
// was in its memory is gone. Its disk stays.
func (l *Lab) killNode(ctx context.Context, node string) (string, error) {
	keep := []string{"lo", Bridge}
	for _, n := range l.nodeNetworks() {
		keep = append(keep, n.end)
	}
	// All stand still at once; nobody is to see that wires and processes go one after the other.
	for _, pid := range pidsIn(netnsInode(l.ns(node))) {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // it may have ended
	}
	if err := l.cutAll(ctx, node); err != nil {
		return "", err
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
		if slices.Contains(keep, name) {
			continue
		}
		// The other end of a pair may be gone with the first.
		if err := ip(ctx, "-n", l.ns(node), "link", "del", name); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			return "", err
		}
	}
	if err := os.RemoveAll(l.runDir(node)); err != nil {
		return "", err
	}
	return "killed node " + node + ": every process, and its wires are silent", nil
}

// partition lets nothing of one node reach another on any path between them;
// without names no node reaches any other. Clients and the arbiter are reached
// as before.
func (l *Lab) partition(ctx context.Context, from, to string) (string, error) {
	for _, n := range l.paths() {
		for _, f := range l.Nodes() {
			for _, t := range l.Nodes() {
				if f == t || from != "" && f != from || to != "" && t != to {
					continue
				}
				if err := l.block(ctx, n, f, t, true); err != nil {
					return "", err
				}
			}
		}
	}
	switch {
	case from == "" && to == "":
		return "cut the nodes from each other", nil
	case to == "":
		return fmt.Sprintf("nothing from node %s reaches another node", from), nil
	case from == "":
		return fmt.Sprintf("nothing from another node reaches node %s", to), nil
	}
	return fmt.Sprintf("nothing from node %s reaches node %s", from, to), nil
}

// isolate cuts all wires of a node.
func (l *Lab) isolate(ctx context.Context, node string) (string, error) {
	return "cut all wires of node " + node, l.cutAll(ctx, node)
}

func (l *Lab) cutPath(ctx context.Context, path int, cut bool) (string, error) {
	did := "cut"
	if !cut {
		did = "mended"
	}
	for i, n := range l.paths() {
		if path != AllPaths && path != i {
			continue
		}
		for _, node := range l.Nodes() {
			if err := l.setWire(ctx, n, node, !cut); err != nil {
				return "", err
			}
		}
	}
	if path == AllPaths {
		return did + " every path between the nodes", nil
	}
	return fmt.Sprintf("%s path %d between the nodes", did, path), nil
}

// blip cuts a path for a while.
func (l *Lab) blip(ctx context.Context, path int, long time.Duration) (string, error) {
	if long == 0 {
		long = time.Second
	}
	said, err := l.cutPath(ctx, path, true)
	if err != nil {
		return "", err
	}
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	// Mended also when the wait was given up.
	_, err = l.cutPath(context.WithoutCancel(ctx), path, false)
	return fmt.Sprintf("%s for %s", said, long), err
}

// cutArbiter cuts wires to the arbiter: a member's, a node's, or with neither
// those of all nodes.
func (l *Lab) cutArbiter(ctx context.Context, node, member string) (string, error) {
	hosts := l.Nodes()
	if node != "" {
		hosts = []string{node}
	}
	if member != "" {
		hosts = []string{member}
	}
	for _, h := range hosts {
		if err := l.setWire(ctx, arbiterNet, h, false); err != nil {
			return "", err
		}
	}
	return "cut the wires to the arbiter of " + strings.Join(hosts, ", "), nil
}

// Rejoin mends the wires of a node.
func (l *Lab) Rejoin(ctx context.Context, node string) error {
	for _, n := range l.nodeNetworks() {
		if err := l.setWire(ctx, n, node, true); err != nil {
			return err
		}
		for _, from := range l.networks()[n] {
			for _, way := range [][2]string{{from, node}, {node, from}} {
				if way[0] == way[1] || way[0] == Client || way[1] == Client {
					continue
				}
				if err := l.block(ctx, n, way[0], way[1], false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// heal mends the wires, thaws what is frozen and starts what is not running,
// the arbiter's members too. The daemons rebuild the protection by themselves.
func (l *Lab) heal(ctx context.Context, node string) (string, error) {
	said := []string{"mended the wires"}
	for _, m := range l.Members() {
		if err := l.setWire(ctx, arbiterNet, m, true); err != nil {
			return "", err
		}
	}
	if len(l.Members()) > 0 && node == "" {
		started, err := l.startArbiter(ctx, "")
		if err != nil {
			return "", err
		}
		if started != "" {
			said = append(said, started)
		}
	}
	for _, n := range l.Nodes() {
		if node != "" && n != node {
			continue
		}
		if err := l.Rejoin(ctx, n); err != nil {
			return "", err
		}
		for _, find := range []func(string) (int, error){l.VM, l.Daemon} {
			if pid, err := find(n); err == nil && stopped(pid) {
				if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
					return "", fmt.Errorf("thaw node %s: %w", n, err)
				}
				said = append(said, fmt.Sprintf("thawed process %d of node %s", pid, n))
			}
		}
		if l.state.Native || l.state.Bare {
			continue
		}
		started, err := l.ensureDaemon(ctx, n)
		if err != nil {
			return "", err
		}
		if started {
			said = append(said, "started colod on node "+n)
		}
	}
	return strings.Join(said, "; "), nil
}
