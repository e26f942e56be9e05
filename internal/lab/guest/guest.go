// Package guest is the program inside the lab's virtual machine: it brings the
// machine up and offers the services that clients talk to. Two copies of it run
// side by side in a protected pair, so what it sends depends on what it was
// sent and on nothing else, except where a service exists to be different
// (/random, /time, everything encrypted).
//
// It runs in the guest only, started by busybox's init as "colod lab guest".
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the services that this package offers itself.
const (
	PortEcho  = 7
	PortHTTP  = 80
	PortHTTPS = 443
)

// Service is one of the guest's services.
type Service struct {
	Name string `json:"name"`
	Port int    `json:"port"`
	Net  string `json:"net"` // "tcp" or "udp"
}

// Services are all services of the guest.
var Services = []Service{
	{"echo", PortEcho, "tcp"}, {"echo", PortEcho, "udp"}, {"ssh", 22, "tcp"}, {"http", PortHTTP, "tcp"},
	{"https", PortHTTPS, "tcp"}, {"iperf3", 5201, "tcp"}, {"redis", 6379, "tcp"},
}

// Ready is the line that the guest prints on its console when every service
// listens.
const Ready = "colod-guest: ready"

// Main brings the guest up and serves until it is told to end.
func Main() error {
	if _, err := os.Stat("/lib/modules/order"); err != nil || os.Getppid() != 1 {
		return errors.New("run guest program: this is not a lab guest (the lab runs this command inside its virtual machines)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := boot(); err != nil {
		return err
	}
	for _, s := range daemons {
		go s.onDisk().supervise(ctx)
	}
	go powerButton()
	go dirty(cmdline()["colod.dirty"])
	errs := make(chan error, 2)
	var listening sync.WaitGroup
	listening.Add(2)
	go func() { errs <- serveHTTP(&listening) }()
	go func() {
		for _, s := range daemons {
			s.await()
		}
		// Last, so that an answered echo means that everything serves.
		errs <- serveEcho(&listening)
	}()
	go func() {
		listening.Wait()
		fmt.Printf("%s after %s\n", Ready, uptime())
	}()
	select {
	case err := <-errs:
		return err
	case <-ctx.Done():
		return nil
	}
}

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()).Round(time.Millisecond)
}

// daemon is a real server from Debian.
type daemon struct {
	name string
	argv []string
	port int
}

var daemons = []daemon{
	{"sshd", []string{"/usr/sbin/sshd", "-D", "-e"}, 22},
	{"redis", []string{"/usr/bin/redis-server", "--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--loglevel", "warning"}, 6379},
	{"iperf3", []string{"/usr/bin/iperf3", "-s", "-p", "5201"}, 5201},
}

// dataDir is where the servers keep what they keep: in memory, or on the disk that the guest was given.
const dataDir = "/data"

// onDisk makes redis keep its data on the disk, with each write there before it is answered.
func (d daemon) onDisk() daemon {
	if d.name != "redis" || cmdline()["colod.disk"] == "" {
		return d
	}
	d.argv = slices.Clone(d.argv)
	for i, a := range d.argv {
		if a == "--appendonly" {
			d.argv[i+1] = "yes"
		}
	}
	// Without fork: a rewrite of the file is a second process that dirties memory.
	d.argv = append(d.argv, "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
	return d
}

// supervise keeps the daemon running.
func (d daemon) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, d.argv[0], d.argv[1:]...)
		cmd.Dir = dataDir
		cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root"}
		if d.name == "sshd" {
			cmd.Stderr = os.Stderr
		}
		err := cmd.Run()
		if ctx.Err() == nil {
			fmt.Printf("colod-guest: %s ended: %v; starting it again\n", d.name, err)
			time.Sleep(time.Second)
		}
	}
}

// await returns when the daemon listens, read from the kernel's socket table:
// a test connection would show in the daemon's own counters.
func (d daemon) await() {
	want := fmt.Sprintf(":%04X ", d.port)
	for range 600 {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			data, _ := os.ReadFile(table)
			for _, line := range strings.Split(string(data), "\n") {
				f := strings.Fields(line)
				if len(f) > 3 && strings.HasSuffix(f[1]+" ", want) && f[3] == "0A" {
					return
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// powerButton ends the guest in order when its power button is pressed
// (ACPI, QEMU's system_powerdown).
func powerButton() {
	devs, _ := filepath.Glob("/dev/input/event*")
	for _, dev := range devs {
		f, err := os.Open(dev)
		if err != nil {
			continue
		}
		go func() {
			defer f.Close()
			// struct input_event: time (16 bytes), type, code (16 bits each), value (32 bits).
			var ev [24]byte
			for {
				if n, err := f.Read(ev[:]); err != nil || n != len(ev) {
					return
				}
				const evKey, keyPower = 1, 116
				if ev[16] == evKey && ev[18] == keyPower && ev[20] == 1 {
					fmt.Println("colod-guest: power button: shutting down")
					unix.Sync()
					unix.Kill(1, unix.SIGUSR2) // busybox init: power off
				}
			}
		}()
	}
}
