package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
)

// awaitRoles waits until the pair is protected with the given roles; "" stands
// for any node.
func awaitRoles(t *testing.T, l *lab.Lab, speaker, standby string) *lab.Status {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := l.Status(t.Context())
		// The speaker's own word: the other node may have read the record first.
		if err == nil && st.State == "protected" && st.Node == st.Speaker && (speaker == "" || st.Speaker == speaker) && (standby == "" || st.Standby == standby) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("not protected by %s with the speaker %s: %+v, %v\n%s", standby, speaker, st, err, l.Logs(30))
		}
	}
}

// TestSpare has three nodes: when one is lost for good, the third takes its
// place by itself, under the eyes of the same clients; a node that does not fit
// is refused with a reason.
func TestSpare(t *testing.T) {
	shared.down() // one pair at a time is enough for this machine
	l := up(t, "spare", lab.Options{Nodes: 3, Arbiter: "etcd", Members: 1, Paths: 2})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs(60))
		}
	})
	watch(t, l)
	awaitRoles(t, l, lab.NodeA, "")
	s := begin(t, l, working, ordinary()...)
	check := func(what string) {
		t.Helper()
		t.Logf("%s: clients heard nothing for %.0f ms", what, silence(unbroken(t, s, what)))
	}
	first := status(t, l)
	spare := thirdNode(first)

	// A node whose QEMU is of another major version cannot give the guest back: it is refused, and told why.
	mend := foreignQEMU(t, l, spare)
	fault(t, l, lab.KillNode, first.Standby)
	var told string
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(told, "QEMU 99.1 there"); time.Sleep(100 * time.Millisecond) {
		st, err := l.Status(t.Context())
		if err == nil {
			told = st.Reason
			if st.Standby == spare {
				t.Fatalf("a node with another QEMU was taken: %+v", st)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the refusal is not told: %q\n%s", told, l.Logs(40))
		}
	}
	t.Logf("refused: %s", told)
	check("the secondary's node lost, the spare refused")
	start := time.Now()
	mend()
	st := awaitRoles(t, l, first.Speaker, spare)
	t.Logf("node %s took the place of %s %v after it fitted: %s", spare, first.Standby, time.Since(start).Round(time.Millisecond), st.Reason)
	check("the spare taken")

	// The speaker goes too: the former spare has the guest now, and the first one that comes back protects it.
	fault(t, l, lab.KillNode, first.Speaker)
	awaitSpeaker(t, l, st)
	check("the speaker's node lost")
	fault(t, l, lab.Heal, first.Standby)
	st = awaitRoles(t, l, spare, first.Standby)
	check("a node is back")
	fault(t, l, lab.Heal, first.Speaker)

	// With all three there, the loss of the secondary's node costs no wait for its return.
	awaitPeers(t, l, first.Speaker)
	start = time.Now()
	fault(t, l, lab.KillNode, st.Standby)
	awaitRoles(t, l, spare, first.Speaker)
	t.Logf("node %s took the place of %s %v after its loss", first.Speaker, st.Standby, time.Since(start).Round(time.Millisecond))
	check("the next secondary's node lost")
	fault(t, l, lab.Heal, "")
	finished(t, s)
}

// thirdNode is the node that has no role.
func thirdNode(st *lab.Status) string {
	for _, n := range []string{lab.NodeA, lab.NodeB, lab.NodeC} {
		if n != st.Speaker && n != st.Standby {
			return n
		}
	}
	return ""
}

// foreignQEMU lets a node's QEMU say that it is of version 99.1, and returns
// what lets it speak the truth again.
func foreignQEMU(t *testing.T, l *lab.Lab, node string) (mend func()) {
	t.Helper()
	config := filepath.Join(l.Dir(), node, "colod.yaml")
	original := readFile(config)
	script := filepath.Join(l.Dir(), node, "qemu")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = -version ] && echo 'QEMU emulator version 99.1' && exit\nexec qemu-system-x86_64 \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		fault(t, l, lab.RestartColod, node)
	}
	changed := strings.Replace(original, "    vm:\n", "    vm:\n      qemu: "+script+"\n", 1)
	if changed == original {
		t.Fatalf("no vm in %s:\n%s", config, original)
	}
	write(changed)
	return func() { write(original) }
}

// awaitPeers waits until a node that was started again stands by for the pair, and the speaker knows.
func awaitPeers(t *testing.T, l *lab.Lab, node string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := l.NodeStatus(t.Context(), node)
		if err == nil && st.State == "standby" {
			if speaker, err := l.NodeStatus(t.Context(), st.Speaker); err == nil &&
				slices.ContainsFunc(speaker.Peers, func(p coordinator.Peer) bool { return p.Node == node && p.Up }) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("node %s does not stand by: %+v, %v", node, st, err)
		}
	}
}
