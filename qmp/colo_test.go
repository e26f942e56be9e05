package qmp

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"colod/qmp/qmptest"
)

// scripted is a VM whose monitor is a script; its process is a sleep.
func scripted(t *testing.T, script string) *VM {
	t.Helper()
	return vmOver(t, dialScript(t, script))
}

func vmOver(t *testing.T, m *Monitor) *VM {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(cmd.Process.Pid, func() string { _ = cmd.Wait(); return cmd.ProcessState.String() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		<-p.exited
		p.release()
	})
	return &VM{proc: p, mon: m, reg: registry{Name: "guest1"}}
}

func TestPrepareSecondary72(t *testing.T) {
	v := scripted(t, `
		> migrate-set-capabilities {"capabilities":[{"capability":"x-colo","state":true}]}
		<
		> migrate-set-parameters {"announce-rounds":0}
		<
		> migrate-incoming {"uri":"unix:/run/x/s.sock"}
		<
	`)
	if err := v.PrepareSecondary(testContext(t, 10*time.Second), "/run/x/s.sock"); err != nil {
		t.Fatal(err)
	}
}

// A QEMU that wants return-path with x-colo says so (text of QEMU 11.1).
func TestPrepareSecondaryReturnPathByBehaviour(t *testing.T) {
	v := scripted(t, `
		> migrate-set-capabilities [{"capability":"x-colo","state":true}]
		! GenericError Capability 'x-colo' requires capability 'return-path'
		> migrate-set-capabilities [{"capability":"x-colo","state":true},{"capability":"return-path","state":true}]
		<
		> migrate-set-parameters {"announce-rounds":0}
		<
		> migrate-incoming
		<
	`)
	if err := v.PrepareSecondary(testContext(t, 10*time.Second), "/run/x/s.sock"); err != nil {
		t.Fatal(err)
	}
}

func TestPrepareSecondaryWithoutColo(t *testing.T) {
	v := scripted(t, `
		> migrate-set-capabilities
		! GenericError Parameter 'capability' does not accept value 'x-colo'
	`)
	err := v.PrepareSecondary(testContext(t, 10*time.Second), "/run/x/s.sock")
	if !errors.Is(err, ErrColoBroken) || !strings.Contains(err.Error(), "QEMU 7.2.22 cannot run COLO") {
		t.Fatalf("got %v", err)
	}
}

const startScript = `
	> query-status
	< {"status": "running", "running": true}
	> query-colo-status
	< {"mode": "none", "last-mode": "none", "reason": "none"}
	> migrate-set-capabilities
	<
	> migrate-set-parameters "x-checkpoint-delay":10000000
	<
	> migrate "unix:/run/x/p.sock"
	<
`

func TestStartColo(t *testing.T) {
	v := scripted(t, startScript+`
		> query-migrate
		< {"status": "active"}
		> query-migrate
		* STOP
		* RESUME {"last": true}
		< {"status": "colo"}
	`)
	ev := v.Subscribe(0)
	at, err := v.StartColo(testContext(t, 10*time.Second), "/run/x/p.sock")
	if err != nil {
		t.Fatal(err)
	}
	<-ev.C
	if e := <-ev.C; !e.Time.Equal(at) {
		t.Errorf("resumed at %v, want %v", at, e.Time)
	}
}

// The status is colo before the guests run: only RESUME ends the start.
func TestStartColoWaitsForResume(t *testing.T) {
	queries := 0
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		switch cmd.Name {
		case "query-status":
			_ = c.Return(cmd, `{"status": "running", "running": true}`)
		case "query-colo-status":
			_ = c.Return(cmd, `{"mode": "none"}`)
		case "query-migrate":
			switch queries++; queries {
			case 1:
				_ = c.Event(time.Now(), "STOP", "")
			case 5:
				_ = c.Event(time.Now(), "RESUME", "")
			}
			_ = c.Return(cmd, `{"status": "colo"}`)
		default:
			_ = c.Return(cmd, "")
		}
	})
	m, err := Dial(testContext(t, 10*time.Second), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := vmOver(t, m).StartColo(testContext(t, 10*time.Second), "/x"); err != nil || queries < 5 {
		t.Errorf("%v after %d queries", err, queries)
	}
}

// As seen of QEMU 10.0.2: the migration ends "completed", the guest stands in "postmigrate".
func TestStartColoBrokenIsFoundAndGuestContinued(t *testing.T) {
	v := scripted(t, startScript+`
		* STOP
		> query-migrate
		< {"status": "completed"}
		> query-migrate
		< {"status": "completed"}
		> query-status
		< {"status": "postmigrate", "running": false}
		> cont
		* RESUME
		<
	`)
	_, err := v.StartColo(testContext(t, 10*time.Second), "/run/x/p.sock")
	var broken *ColoBrokenError
	if !errors.As(err, &broken) || !errors.Is(err, ErrColoBroken) {
		t.Fatalf("got %v", err)
	}
	want := "start COLO: QEMU 7.2.22 cannot run COLO (its COLO migration ended as an ordinary one); " +
		"its guest runs on unprotected: use QEMU 7.2, 10.0.13 or 11.1 on both nodes"
	if err.Error() != want {
		t.Errorf("message %q", err)
	}
}

// As seen of QEMU 10.0.2 with return-path on: "failed", the guest runs again by itself.
func TestStartColoBrokenReturnPath(t *testing.T) {
	v := scripted(t, startScript+`
		* STOP
		* RESUME
		> query-migrate
		< {"status": "failed", "error-desc": "Received invalid message 0x0000 length 0x0000"}
		> query-migrate
		< {"status": "failed"}
		> query-status
		< {"status": "running", "running": true}
	`)
	_, err := v.StartColo(testContext(t, 10*time.Second), "/run/x/p.sock")
	if !errors.Is(err, ErrColoBroken) || !strings.Contains(err.Error(), "invalid message") {
		t.Fatalf("got %v", err)
	}
}

func TestStartColoRefusedConnectionMayBeTriedAgain(t *testing.T) {
	v := scripted(t, startScript+`
		> query-migrate
		< {"status": "failed", "error-desc": "Failed to connect to '/run/x/p.sock': Connection refused"}
		> query-migrate
		< {"status": "failed"}
		> query-status
		< {"status": "running", "running": true}
	`)
	_, err := v.StartColo(testContext(t, 10*time.Second), "/run/x/p.sock")
	var m *MigrationError
	if !errors.As(err, &m) || m.Status != "failed" || errors.Is(err, ErrColoBroken) {
		t.Fatalf("got %v", err)
	}
	if want := "start COLO: migration failed: Failed to connect to '/run/x/p.sock': Connection refused"; err.Error() != want {
		t.Errorf("message %q", err)
	}
}

// A second migrate would destroy the running session, so it is not sent.
func TestStartColoTwice(t *testing.T) {
	v := scripted(t, `
		> query-status
		< {"status": "running", "running": true}
		> query-colo-status
		< {"mode": "primary", "last-mode": "none", "reason": "none"}
	`)
	if _, err := v.StartColo(testContext(t, 10*time.Second), "/x"); err == nil || !strings.Contains(err.Error(), "in COLO already, as primary") {
		t.Fatalf("got %v", err)
	}
}

func TestStartColoOfAStoppedGuest(t *testing.T) {
	v := scripted(t, `
		> query-status
		< {"status": "paused", "running": false}
	`)
	if _, err := v.StartColo(testContext(t, 10*time.Second), "/x"); err == nil || !strings.Contains(err.Error(), "not running (paused)") {
		t.Fatalf("got %v", err)
	}
}

func TestCheckpointFails(t *testing.T) {
	v := scripted(t, `
		> migrate-set-parameters x-checkpoint-delay
		<
		* STOP
		* COLO_EXIT {"mode": "primary", "reason": "error"}
	`)
	if _, err := v.Checkpoint(testContext(t, 10*time.Second)); !errors.Is(err, ErrColoExit) {
		t.Fatalf("got %v", err)
	}
}

// The RESUME of a checkpoint that ends just before the command must not be taken for the takeover's.
func TestLostHeartbeatWaitsForItsOwnResume(t *testing.T) {
	v := scripted(t, `
		> x-colo-lost-heartbeat
		* RESUME
		* STOP
		<
		> query-colo-status
		< {"mode": "secondary", "last-mode": "none", "reason": "processing"}
		> query-colo-status
		< {"mode": "none", "last-mode": "secondary", "reason": "request"}
		> query-status
		< {"status": "colo", "running": false}
		> query-colo-status
		* RESUME {"own": true}
		< {"mode": "none", "last-mode": "secondary", "reason": "request"}
		> query-status
		< {"status": "running", "running": true}
	`)
	ev := v.Subscribe(0)
	at, err := v.LostHeartbeat(testContext(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var own time.Time
	for len(ev.C) > 0 {
		if e := <-ev.C; e.Data != nil {
			own = e.Time
		}
	}
	if !at.Equal(own) {
		t.Errorf("resumed at %v, want %v", at, own)
	}
}

func TestForgetColo(t *testing.T) {
	v := scripted(t, `
		> migrate-set-capabilities [{"capability":"x-colo","state":false},{"capability":"return-path","state":false}]
		<
	`)
	if err := v.ForgetColo(testContext(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
}

func TestLostHeartbeatOutsideColo(t *testing.T) {
	v := scripted(t, `
		> x-colo-lost-heartbeat
		! GenericError The feature 'colo' is not enabled
		> query-colo-status
		< {"mode": "none", "last-mode": "primary", "reason": "request"}
		> query-status
		< {"status": "running", "running": true}
	`)
	if at, err := v.LostHeartbeat(testContext(t, 10*time.Second)); err != nil || !at.IsZero() {
		t.Fatalf("%v, %v", at, err)
	}
}

// A main loop that hangs on a frozen peer is freed out of band.
func TestLostHeartbeatYanksAHangingQEMU(t *testing.T) {
	var hanging *qmptest.Command
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		switch cmd.Name {
		case "x-colo-lost-heartbeat":
			hanging = &cmd
		case "yank":
			if !cmd.OOB || !strings.Contains(string(cmd.Args), `"type":"migration"`) {
				t.Errorf("yank: %+v", cmd)
			}
			_ = c.Return(cmd, "")
			_ = c.Event(time.Now(), "STOP", "")
			_ = c.Return(*hanging, "")
			_ = c.Event(time.Now(), "RESUME", "")
		case "query-colo-status":
			_ = c.Return(cmd, `{"mode": "none", "last-mode": "secondary", "reason": "request"}`)
		case "query-status":
			_ = c.Return(cmd, `{"status": "running", "running": true}`)
		default:
			t.Errorf("unexpected %s", cmd.Name)
		}
	})
	m, err := Dial(testContext(t, 10*time.Second), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if at, err := vmOver(t, m).LostHeartbeat(testContext(t, 10*time.Second)); err != nil || at.IsZero() {
		t.Fatalf("%v, %v", at, err)
	}
}

func TestLostHeartbeatSaysWhereItStands(t *testing.T) {
	v := scripted(t, `
		> x-colo-lost-heartbeat
		<
		> query-colo-status
	`)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // the first answer must have come
	defer cancel()
	_, err := v.LostHeartbeat(ctx)
	if !errors.Is(err, ErrNoReply) || !strings.HasPrefix(err.Error(), "leave COLO: run query-colo-status") {
		t.Fatalf("got %v", err)
	}
}

func TestLostHeartbeatOfACrashedGuest(t *testing.T) {
	v := scripted(t, `
		> x-colo-lost-heartbeat
		<
		> query-colo-status
		< {"mode": "none", "last-mode": "secondary", "reason": "request"}
		> query-status
		< {"status": "internal-error", "running": false}
	`)
	if _, err := v.LostHeartbeat(testContext(t, 10*time.Second)); err == nil || !strings.Contains(err.Error(), "guest cannot run: internal-error") {
		t.Fatalf("got %v", err)
	}
}
