package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/qmp"
	"colod/qmp/relay"
)

// startVM starts a guest without network on a node of the lab.
func startVM(t *testing.T, l *lab.Lab, node, name string, incoming bool) *qmp.VM {
	t.Helper()
	kernel, initrd, cmdline := l.Boot()
	cfg := qmp.VMConfig{
		Name: name, Accel: qmp.TCG, Memory: 256 << 20, Kernel: kernel, Initrd: initrd, Append: cmdline,
		RunDir: filepath.Join(l.Dir(), "vm", name),
	}
	if accel, _ := l.Accel(); accel == "kvm" {
		cfg.Accel = qmp.KVM
	}
	if s := l.Shim(); s != "" {
		cfg.Env = []string{"LD_PRELOAD=" + s}
	}
	var vm *qmp.VM
	err := l.In(node, func() (err error) {
		vm, err = qmp.Launch(t.Context(), cfg, incoming)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Kill(context.Background())
		vm.Close()
	})
	return vm
}

// TestCheckpointCost measures how long an idle guest stands still in a
// checkpoint, with the state stream through colod's relay from node to node,
// beside QEMU's own migration channel over TCP between the same nodes.
func TestCheckpointCost(t *testing.T) {
	l := up(t, "cost", lab.Options{Bare: true})
	n := rounds(30, 200)
	relayed := measureCheckpoints(t, l, "relay", n, coloThroughRelay)
	own := measureCheckpoints(t, l, "tcp", n, coloOverTCP)
	t.Logf("guest stopped in a checkpoint, ms, idle guest of 256 MiB, nodes in two namespaces:")
	t.Logf("  colod's relay       %s", relayed)
	t.Logf("  QEMU's own channel  %s", own)
	if relayed.quantile(0.5) >= 2*own.quantile(0.5) {
		t.Errorf("the relay (median %.1f ms) gains nothing over QEMU's own channel (%.1f ms)", relayed.quantile(0.5), own.quantile(0.5))
	}
	if long && relayed.quantile(0.5) >= 6 {
		t.Errorf("median %.1f ms through the relay, want below 6 ms", relayed.quantile(0.5))
	}
}

func measureCheckpoints(t *testing.T, l *lab.Lab, name string, n int, join func(*testing.T, *lab.Lab, *qmp.VM, *qmp.VM)) figures {
	t.Helper()
	p := startVM(t, l, lab.NodeA, name+"-p", false)
	awaitConsole(t, p)
	s := startVM(t, l, lab.NodeB, name+"-s", true)
	join(t, l, p, s)
	var pauses figures
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		c, err := p.Checkpoint(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		pauses = append(pauses, float64(c.Pause().Microseconds())/1000)
		time.Sleep(50 * time.Millisecond)
	}
	for _, vm := range []*qmp.VM{p, s} {
		if err := vm.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
	return pauses
}

// awaitConsole returns when the guest says that it is ready.
func awaitConsole(t *testing.T, vm *qmp.VM) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(readFile(filepath.Join(vm.RunDir(), qmp.FileConsole)), "colod-guest: ready") {
		if time.Now().After(deadline) {
			t.Fatalf("guest is not ready: %s", readFile(filepath.Join(vm.RunDir(), qmp.FileConsole)))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func coloThroughRelay(t *testing.T, l *lab.Lab, p, s *qmp.VM) {
	t.Helper()
	dir := filepath.Join(l.Dir(), "vm")
	var ln net.Listener
	err := l.In(lab.NodeB, func() (err error) {
		ln, err = net.Listen("tcp", lab.NodeBIPv4+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sock := filepath.Join(dir, "s.sock")
	if err := s.PrepareSecondary(t.Context(), sock); err != nil {
		t.Fatal(err)
	}
	secondary := make(chan error, 1)
	var rs *relay.Relay
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			rs, err = relay.NewSecondary(t.Context(), conn, sock, relay.Options{})
		}
		secondary <- err
	}()
	rp, err := relay.NewPrimary(filepath.Join(dir, "p.sock"), func(ctx context.Context) (conn net.Conn, err error) {
		err = l.In(lab.NodeA, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
			return err
		})
		return conn, err
	}, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rp.Cut()
		if rs != nil {
			rs.Cut()
		}
	})
	if _, err := p.StartColo(t.Context(), filepath.Join(dir, "p.sock")); err != nil {
		t.Fatal(err)
	}
	if err := <-secondary; err != nil {
		t.Fatal(err)
	}
}

// coloOverTCP starts COLO as QEMU's documentation does, without colod.
func coloOverTCP(t *testing.T, _ *lab.Lab, p, s *qmp.VM) {
	t.Helper()
	run := func(vm *qmp.VM, command, args string) {
		t.Helper()
		if err := vm.Monitor().Run(t.Context(), command, json.RawMessage(args), nil); err != nil {
			t.Fatal(err)
		}
	}
	const colo = `{"capabilities":[{"capability":"x-colo","state":true}]}`
	uri := fmt.Sprintf(`{"uri":"tcp:%s:7499"}`, lab.NodeBIPv4)
	run(s, "migrate-set-capabilities", colo)
	run(s, "migrate-incoming", uri)
	run(p, "migrate-set-capabilities", colo)
	run(p, "migrate-set-parameters", `{"x-checkpoint-delay":10000000,"max-bandwidth":10737418240,"downtime-limit":300}`)
	events := p.Subscribe(0)
	defer events.Close()
	run(p, "migrate", uri)
	// In COLO once the guest was stopped for the last part of the copy and runs again.
	stopped := false
	timeout := time.After(3 * time.Minute)
	for {
		select {
		case e := <-events.C:
			switch {
			case e.Name == qmp.EventStop:
				stopped = true
			case e.Name == qmp.EventResume && stopped:
				if st, err := p.QueryMigrate(t.Context()); err != nil || st.Status != "colo" {
					t.Fatalf("migration is %q: %v", st.Status, err)
				}
				return
			}
		case <-timeout:
			t.Fatal("QEMU did not get into COLO over TCP")
		}
	}
}
