// Package lab makes hosts, guests, clients and faults on one Linux machine:
// network namespaces as hosts, real QEMU virtual machines with a real guest, one
// real colod daemon per node, and real clients. The demo, the end-to-end tests
// and the benchmarks stand on it.
//
// Everything a lab makes is named after it and found again by that name, so
// Down clears up whatever an earlier process of the lab left, however it ended.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"colod/internal/lab/guest"
	"colod/internal/lab/image"
)

// baseDir holds one directory for each lab.
const baseDir = "/run/colod-lab"

// defaultTimeout is colod's own default of heartbeat.timeout.
const defaultTimeout = 250 * time.Millisecond

// DefaultName is the lab's name when none is given.
const DefaultName = "lab"

// Options say what lab to make. The zero value of each field means its default.
type Options struct {
	Name   string // letters, digits and -, at most 15; DefaultName
	Mode   string // mode of protection; "lockstep"
	Native bool   // one unprotected guest instead of a pair
	Bare   bool   // the hosts only, without guest and daemons
	SMP    int    // processors of the guest; 1
	Memory string // memory of the guest, as QEMU takes it; "256M"
	Disk   string // size of a replicated disk with an ext4 file system for redis' data, such as "64M"; "": none
	// Images are the paths of the disk on the nodes that do not have it in their own directory of the lab.
	Images    map[string]string
	MoreDisks []Disk
	QEMU      string // binary of the pair\'s VMs; "qemu-system-x86_64"
	Accel     string // "kvm", "tcg", or "auto": the first that works; "auto"
	Program   string // the colod binary for nodes and guest; this process's own
	LogLevel  string // of the daemons; "info"
	// Encryption of the state stream between the nodes, "tls" or "plain". The
	// lab's wire never leaves the machine; "plain".
	Encryption string
	// Interval of periodic checkpoints, and LatencyBound of output, in the modes epoch and adaptive; 0: colod's defaults.
	Interval, LatencyBound time.Duration
	// Nodes is 2, or 3: then node c is a spare of the pair.
	Nodes int
	// Registered leaves node c out of the pair's list: only the registry in etcd knows of it.
	Registered bool
	// Paths between the nodes: 1, or 2 with a second wire for heartbeats.
	Paths int
	// Arbiter is "file", a directory, or "etcd"; Members of etcd are 1 or 3.
	Arbiter string
	Members int
	// Timeout of heartbeats: colod's default if it is 0.
	Timeout time.Duration
	// Hold is the lower bound of the hold budget: with a long one differences are
	// found before the slower copy's silence. 0: as usual.
	Hold time.Duration
	// NoRestart leaves a daemon that ended; else it is started again as systemd does.
	NoRestart bool
	Progress  func(string) // told of each step
}

// Lab is a lab that exists.
type Lab struct {
	Name     string
	dir      string
	state    state
	progress func(string)
}

// state is what is kept of a lab in its directory.
type state struct {
	Name       string            `json:"name"`
	PID        int               `json:"pid"` // of the process that brings it up
	Boot       string            `json:"boot"`
	Program    string            `json:"program"`
	Mode       string            `json:"mode"`
	Native     bool              `json:"native"`
	Bare       bool              `json:"bare,omitempty"`
	SMP        int               `json:"smp"`
	Memory     string            `json:"memory"`
	Disk       string            `json:"disk,omitempty"`
	Images     map[string]string `json:"images,omitempty"`
	MoreDisks  []Disk            `json:"more_disks,omitempty"`
	QEMU       string            `json:"qemu,omitempty"`
	LogLevel   string            `json:"log_level"`
	Encryption string            `json:"encryption"`
	Interval   string            `json:"interval,omitempty"`
	Bound      string            `json:"latency_bound,omitempty"`
	Nodes      int               `json:"nodes"`
	Registered bool              `json:"registered,omitempty"`
	Paths      int               `json:"paths"`
	Members    int               `json:"members,omitempty"` // of etcd; 0 with the file arbiter
	NoRestart  bool              `json:"no_restart,omitempty"`
	Timeout    string            `json:"heartbeat_timeout"`
	// Hold as Options has it, "" when it is not given; Tolerances as SetTolerances has them.
	Hold       string   `json:"hold,omitempty"`
	Tolerances []string `json:"tolerances,omitempty"`
	Accel      string   `json:"accel"`
	Why        string   `json:"why"` // of the accelerator
	Kernel     string   `json:"kernel"`
	Initrd     string   `json:"initrd"`
	Append     string   `json:"append"`
	SSHKey     string   `json:"ssh_key"`
	Known      string   `json:"known_hosts"`
	CACert     string   `json:"ca_cert"`
	Shim       string   `json:"shim,omitempty"`
	// Networks are the namespaces' identities, to find processes that hold one
	// whose name is gone.
	Networks []uint64 `json:"networks"`
	Ready    bool     `json:"ready"`
}

// validName bounds names so that the paths of the sockets inside a lab stay
// below the length that unix(7) allows.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$`)

func newLab(name string, progress func(string)) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: want at most 15 lower-case letters, digits and hyphens", name)
	}
	if progress == nil {
		progress = func(string) {}
	}
	return &Lab{Name: name, dir: filepath.Join(baseDir, name), progress: progress}, nil
}

func (l *Lab) nodeDir(node string) string { return filepath.Join(l.dir, node) }
func (l *Lab) stateFile() string          { return filepath.Join(l.dir, "lab.json") }

// imagesInUse are the initial file systems of the labs in a directory.
func imagesInUse(dir string) []string {
	var used []string
	files, _ := filepath.Glob(filepath.Join(dir, "*", "lab.json"))
	for _, name := range files {
		var st state
		if data, err := os.ReadFile(name); err == nil && json.Unmarshal(data, &st) == nil && st.Initrd != "" {
			used = append(used, st.Initrd)
		}
	}
	return used
}

// Dir is the lab's directory: configuration, logs and consoles of its nodes.
func (l *Lab) Dir() string { return l.dir }

// SSHKey and the following are the files that clients of the guest need.
func (l *Lab) SSHKey() string     { return l.state.SSHKey }
func (l *Lab) KnownHosts() string { return l.state.Known }
func (l *Lab) CACert() string     { return l.state.CACert }

// Boot returns what QEMU needs to start the lab's guest.
func (l *Lab) Boot() (kernel, initrd, cmdline string) {
	return l.state.Kernel, l.state.Initrd, l.state.Append
}

// Shim is the library that QEMU has to preload on this machine; empty with KVM.
func (l *Lab) Shim() string { return l.state.Shim }

// In runs fn on a thread inside a host's network namespace, in which fn may
// open sockets and start programs.
func (l *Lab) In(host string, fn func() error) error { return inNetns(l.ns(host), fn) }

// Accel is the accelerator that the guests run under, and why.
func (l *Lab) Accel() (accel, why string) { return l.state.Accel, l.state.Why }

// Native tells whether the guest is unprotected.
func (l *Lab) Native() bool { return l.state.Native }

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return err
	}
	tmp := l.stateFile() + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("keep lab state: %w", err)
	}
	return os.Rename(tmp, l.stateFile())
}

// ErrNoLab says that there is no lab of the name.
var ErrNoLab = errors.New("there is no such lab")

// Open returns the lab of that name.
func Open(name string) (*Lab, error) {
	l, err := newLab(name, nil)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(l.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open lab %s: %w (colod lab up makes it)", l.Name, ErrNoLab)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", l.Name, err)
	}
	if err := json.Unmarshal(data, &l.state); err != nil {
		return nil, fmt.Errorf("open lab %s: %s: %w (colod lab down clears it up)", l.Name, l.stateFile(), err)
	}
	return l, nil
}

// requirements names everything missing on this machine at once.
func requirements() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root (network namespaces, taps and tc need it: use sudo)")
	}
	for _, tool := range []struct{ name, pkg string }{{"ip", "iproute2"}, {qemuBinary, "qemu-system-x86"}} {
		if _, err := exec.LookPath(tool.name); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s: make setup installs it)", tool.name, tool.pkg))
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing = append(missing, "/dev/net/tun (modprobe tun)")
	}
	if len(missing) > 0 {
		return fmt.Errorf("bring lab up: this machine lacks %s", strings.Join(missing, "; "))
	}
	return nil
}

// Up makes a lab and waits until its guest serves and, unless it is native, is
// protected. When it fails, nothing is left.
func Up(ctx context.Context, opt Options) (_ *Lab, err error) {
	l, err := newLab(opt.Name, opt.Progress)
	if err != nil {
		return nil, err
	}
	if err := requirements(); err != nil {
		return nil, err
	}
	if opt.Mode == "" {
		opt.Mode = "lockstep"
	}
	if opt.SMP == 0 {
		opt.SMP = 1
	}
	if opt.Memory == "" {
		opt.Memory = "256M"
	}
	if opt.LogLevel == "" {
		opt.LogLevel = "info"
	}
	if opt.Encryption == "" {
		opt.Encryption = "plain"
	}
	if err := opt.complete(); err != nil {
		return nil, err
	}
	if opt.Program == "" {
		if opt.Program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("bring lab up: find own program: %w", err)
		}
	}
	if err := l.claim(opt); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			clear, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(l.explain(err), l.Down(clear))
		}
	}()
	img, err := image.Builder{Program: opt.Program, Progress: l.progress, InUse: imagesInUse(filepath.Dir(l.dir))}.Build(ctx)
	if err != nil {
		return nil, err
	}
	verdict := accelVerdict{Accel: opt.Accel, Why: "asked for"}
	if opt.Accel == "" || opt.Accel == "auto" {
		if verdict, err = detectAccel(ctx, img, l.progress); err != nil {
			return nil, err
		}
	}
	seed := make([]byte, 32)
	rand.Read(seed)
	l.state.Accel, l.state.Why = verdict.Accel, verdict.Why
	l.state.Kernel, l.state.Initrd, l.state.Append = img.Kernel, img.Initrd, img.Append(seed)
	if l.state.Disk != "" {
		l.state.Append += " colod.disk=vda"
	}
	if err := l.makeDisks(ctx); err != nil {
		return nil, err
	}
	l.state.SSHKey, l.state.Known, l.state.CACert = img.SSHKey, img.Known, img.CACert
	if l.state.Accel == "tcg" {
		l.state.Append += hostTSC()
	}
	if l.state.Accel == "tcg" && !l.state.Native {
		if l.state.Shim, err = buildShim(ctx); err != nil {
			return nil, err
		}
		l.progress("no KVM (" + gist(l.state.Why) + "): QEMU emulates, with the TCG shim " + l.state.Shim)
	}
	if err := l.save(); err != nil {
		return nil, err
	}
	l.progress("making the hosts " + strings.Join(l.Hosts(), ", "))
	if err := l.createNetwork(ctx); err != nil {
		return nil, err
	}
	for _, ns := range l.namespaces() {
		l.state.Networks = append(l.state.Networks, netnsInode(ns))
	}
	if err := l.save(); err != nil {
		return nil, err
	}
	if l.state.Bare {
		l.state.Ready = true
		return l, l.save()
	}
	if l.state.Native {
		l.progress("starting the guest, unprotected")
		if err := l.startNative(ctx); err != nil {
			return nil, err
		}
	} else if err := l.startPair(ctx); err != nil {
		return nil, err
	}
	if err := l.awaitGuest(ctx); err != nil {
		return nil, err
	}
	if !l.state.Native {
		if err := l.AwaitState(ctx, "protected"); err != nil {
			return nil, err
		}
	}
	l.state.Ready = true
	return l, l.save()
}

// claim takes the name, before anything is made that has to be cleared up.
func (l *Lab) claim(opt Options) error {
	if err := os.MkdirAll(baseDir, 0o755); err != nil {
		return fmt.Errorf("bring lab up: %w", err)
	}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("bring lab up: there is a lab %q already: use it, or end it with 'colod lab down --name %s'", l.Name, l.Name)
		}
		return fmt.Errorf("bring lab up: %w", err)
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	l.state = state{
		Name: l.Name, PID: os.Getpid(), Boot: strings.TrimSpace(string(boot)), Program: opt.Program,
		Mode: opt.Mode, Native: opt.Native, Bare: opt.Bare, SMP: opt.SMP, Memory: opt.Memory, Disk: opt.Disk, Images: opt.Images, MoreDisks: opt.MoreDisks, QEMU: opt.QEMU,
		LogLevel: opt.LogLevel, Encryption: opt.Encryption, Nodes: opt.Nodes, Registered: opt.Registered, Paths: opt.Paths, NoRestart: opt.NoRestart, Timeout: opt.Timeout.String(),
	}
	if opt.Arbiter == "etcd" {
		l.state.Members = opt.Members
	}
	if opt.Interval != 0 {
		l.state.Interval = opt.Interval.String()
	}
	if opt.LatencyBound != 0 {
		l.state.Bound = opt.LatencyBound.String()
	}
	if opt.Hold > 0 {
		l.state.Hold = opt.Hold.String()
	}
	return l.save()
}

// complete fills in and checks what hosts the lab is to have.
func (opt *Options) complete() error {
	if opt.Arbiter == "" {
		opt.Arbiter = "file"
	}
	if opt.Timeout == 0 {
		opt.Timeout = defaultTimeout
	}
	for _, f := range []struct {
		name     string
		v        *int
		def, top int
	}{{"nodes", &opt.Nodes, 2, maxNodes}, {"paths", &opt.Paths, 1, maxPaths}, {"members of the arbiter", &opt.Members, 1, maxMembers}} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.def || *f.v > f.top {
			return fmt.Errorf("bring lab up: %d %s: want %d to %d", *f.v, f.name, f.def, f.top)
		}
	}
	if opt.Arbiter != "file" && opt.Arbiter != "etcd" {
		return fmt.Errorf("bring lab up: arbiter %q: want file or etcd", opt.Arbiter)
	}
	if opt.Native {
		opt.Arbiter = "file"
	}
	if opt.Registered && (opt.Nodes < 3 || opt.Arbiter != "etcd") {
		return errors.New("bring lab up: a registered spare needs a third node and etcd (--nodes 3 --arbiter etcd)")
	}
	if opt.Members == 2 {
		return errors.New("bring lab up: 2 members of the arbiter: want 1 or 3, since two fail as soon as one does")
	}
	return nil
}

// explain adds the end of the logs to an error, since they are removed with the lab.
func (l *Lab) explain(err error) error {
	if logs := l.Logs(12); logs != "" {
		return fmt.Errorf("%w%s", err, logs)
	}
	return err
}

// Logs returns the last lines of each log of the lab's nodes.
func (l *Lab) Logs(lines int) string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(l.dir, "*", "*.log"))
	for _, name := range logs {
		data, _ := os.ReadFile(name)
		if end := tail(string(data), lines); end != "" {
			rel, _ := filepath.Rel(l.dir, name)
			fmt.Fprintf(&b, "\n--- end of %s\n%s", rel, end)
		}
	}
	return b.String()
}

// gist is the beginning of a long error: what was done, and what came of it.
func gist(s string) string {
	parts := strings.SplitN(s, ": ", 3)
	return strings.Join(parts[:min(len(parts), 2)], ": ")
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// awaitGuest returns when the guest answers on its echo port.
func (l *Lab) awaitGuest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	start := time.Now()
	for {
		if err := l.echoOnce(); err == nil {
			l.progress(fmt.Sprintf("the guest serves after %.1f s", time.Since(start).Seconds()))
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("wait for the guest: no answer within %.0f s: %w", time.Since(start).Seconds(), err)
		}
		if len(pidsIn(l.state.Networks...)) == 0 {
			return errors.New("wait for the guest: no process is left in the lab")
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// AwaitGuest returns when the guest answers on its echo port.
func (l *Lab) AwaitGuest(ctx context.Context) error { return l.awaitGuest(ctx) }

func (l *Lab) echoOnce() error {
	return inNetns(l.ns(Client), func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", image.GuestIPv4, guest.PortEcho), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write([]byte("colod")); err != nil {
			return err
		}
		var b [5]byte
		_, err = c.Read(b[:])
		return err
	})
}

// Command prepares a program that runs on one of the lab's hosts.
func (l *Lab) Command(ctx context.Context, host string, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.ns(host)}, argv...)...)
}

// checkHost refuses what is not one of the hosts allowed.
func checkHost(host string, allowed []string) error {
	for _, h := range allowed {
		if h == host {
			return nil
		}
	}
	return fmt.Errorf("unknown host %q: want one of %s", host, strings.Join(allowed, ", "))
}

// Down ends the lab and removes everything it made. It may be called at any
// time, by any process, and again.
func (l *Lab) Down(ctx context.Context) error {
	// The process that is still bringing it up must not go on making things.
	if p := l.state.PID; p != 0 && p != os.Getpid() && !l.state.Ready && isColod(p) {
		syscall.Kill(p, syscall.SIGKILL)
		for isColod(p) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
	inodes := append([]uint64(nil), l.state.Networks...)
	for _, ns := range l.namespaces() {
		inodes = append(inodes, netnsInode(ns))
	}
	if err := killAll(ctx, inodes...); err != nil {
		return err
	}
	for _, ns := range l.namespaces() {
		if err := deleteNetns(ns); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove lab directory: %w", err)
	}
	os.Remove(baseDir) // if this was the last lab
	// A process that was killed lets go of its sockets a little later.
	for deadline := time.Now().Add(10 * time.Second); ; {
		left := Leaks(l.Name)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end lab %s: these are left: %s", l.Name, strings.Join(left, "; "))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// isColod tells whether the process is one of this program, by its name.
func isColod(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	self, _ := os.Executable()
	return err == nil && (exe == self || strings.TrimSuffix(filepath.Base(exe), " (deleted)") == filepath.Base(self))
}

// Down ends the lab of that name, also one whose state cannot be read.
func Down(ctx context.Context, name string) error {
	l, err := Open(name)
	if err != nil {
		l, nerr := newLab(name, nil)
		if nerr != nil {
			return nerr
		}
		if len(Leaks(l.Name)) == 0 {
			return err
		}
		return l.Down(ctx)
	}
	return l.Down(ctx)
}
