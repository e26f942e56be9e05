package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"colod/internal/lab"
)

// TestRegisteredSpare has a third node that is in no pair's list: only the registry in etcd knows it. It takes the place of a
// secondary that is lost, and then the speaker moves to it, as a planned act, under the eyes of the same clients.
func TestRegisteredSpare(t *testing.T) {
	shared.down()
	l := up(t, "registered", lab.Options{Nodes: 3, Registered: true, Arbiter: "etcd", Members: 3, Paths: 2})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs(60))
		}
	})
	watch(t, l)
	first := awaitRoles(t, l, lab.NodeA, lab.NodeB)
	s := begin(t, l, working, ordinary()...)
	start := time.Now()
	fault(t, l, lab.KillNode, first.Standby)
	st := awaitRoles(t, l, first.Speaker, lab.NodeC)
	t.Logf("node %s, which no list names, took the place of %s after %v: %s", lab.NodeC, first.Standby, time.Since(start).Round(time.Millisecond), st.Reason)
	if err := l.Operate(t.Context(), first.Speaker, "migrate", st.Pair, "--to", lab.NodeC, "--role", "speaker"); err != nil {
		t.Fatal(err)
	}
	st = awaitRoles(t, l, lab.NodeC, "")
	t.Logf("the speaker moved to %s: %s", lab.NodeC, st.Reason)
	fault(t, l, lab.Heal, first.Standby)
	// From there to the node that has just come back, which has no role.
	awaitPeers(t, l, first.Standby)
	if err := l.Operate(t.Context(), lab.NodeC, "migrate", st.Pair, "--to", first.Standby, "--role", "speaker"); err != nil {
		t.Fatal(err)
	}
	st = awaitRoles(t, l, first.Standby, "")
	t.Logf("the speaker moved to the third node, %s: %s", first.Standby, st.Reason)
	finished(t, s)
}

// TestForeignMigration lets somebody else migrate the guest away at QEMU's own monitor while colod does not run: the next
// colod finds what remained, takes it for no failure, and no node starts the guest a second time.
func TestForeignMigration(t *testing.T) {
	shared.down()
	l := up(t, "foreign", lab.Options{NoRestart: true, Arbiter: "etcd", Members: 1})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs(60))
		}
	})
	before := awaitRoles(t, l, "", "")
	fault(t, l, lab.KillNode, before.Standby) // the guest is to be alone: one that is being copied cannot be migrated
	awaitSpeaker(t, l, before)
	awaitNode(t, l, before.Speaker, "solo") // before that it is still being freed from its copy
	fault(t, l, lab.KillColod, before.Speaker)
	if err := migrateAway(filepath.Join(filepath.Dir(l.Socket(before.Speaker)), "vm", before.Pair, "qmp.sock"), filepath.Join(l.Dir(), "away.sock")); err != nil {
		t.Fatal(err)
	}
	fault(t, l, lab.Heal, "")
	for _, n := range lab.Nodes {
		awaitNode(t, l, n, "stopped")
	}
	after, err := l.NodeStatus(t.Context(), before.Speaker)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("generation %d -> %d: %s", before.Generation, after.Generation, after.Reason)
	time.Sleep(5 * time.Second)
	for _, n := range lab.Nodes {
		if pid, err := l.VM(n); err == nil {
			t.Errorf("process %d of node %s runs the guest that was migrated away", pid, n)
		}
	}
	if err := l.Operate(t.Context(), before.Speaker, "vm", "start", before.Pair); err != nil {
		t.Fatal(err)
	}
	again(t, l)
}

// awaitNode waits until a node's pair is in a state.
func awaitNode(t *testing.T, l *lab.Lab, node, state string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		st, err := l.NodeStatus(t.Context(), node)
		if err == nil && st.State == state {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("node %s is not %s: %+v, %v", node, state, st, err)
		}
	}
}

// migrateAway tells the QEMU at the monitor to migrate its guest to the unix socket at, where it is swallowed.
func migrateAway(monitor, at string) error {
	ln, err := net.Listen("unix", at)
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	var d net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", monitor)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	in := bufio.NewReader(c)
	ask := func(command string, args map[string]any) (json.RawMessage, error) {
		if err := json.NewEncoder(c).Encode(map[string]any{"execute": command, "arguments": args}); err != nil {
			return nil, err
		}
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return nil, err
			}
			var said struct {
				Return json.RawMessage `json:"return"`
				Error  json.RawMessage `json:"error"`
			}
			if err := json.Unmarshal(line, &said); err != nil {
				return nil, err
			}
			switch {
			case said.Error != nil:
				return nil, fmt.Errorf("%s: %s", command, said.Error)
			case said.Return != nil:
				return said.Return, nil
			}
		}
	}
	if _, err := ask("qmp_capabilities", map[string]any{}); err != nil {
		return err
	}
	// The guest was protected before, and QEMU keeps what a migration of it is to do: colod has to have taken it back.
	have, err := ask("query-migrate-capabilities", map[string]any{})
	if err != nil {
		return err
	}
	var caps []struct {
		Capability string
		State      bool
	}
	if err := json.Unmarshal(have, &caps); err != nil {
		return err
	}
	for _, c := range caps {
		if c.State && (c.Capability == "x-colo" || c.Capability == "return-path") {
			return fmt.Errorf("the migration would begin COLO: %s is on", c.Capability)
		}
	}
	if _, err := ask("migrate", map[string]any{"uri": "unix:" + at}); err != nil {
		return err
	}
	for {
		b, err := ask("query-migrate", map[string]any{})
		if err != nil {
			return err
		}
		var m struct{ Status string }
		if err := json.Unmarshal(b, &m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("migrate: %s", b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
