package coordinator

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/arbiter"
	"colod/coordinator/pair"
	"colod/coordinator/registry"
)

func newLog(w *logBuffer) zerolog.Logger { return zerolog.New(w) }

// hangUpSelf sends this process SIGHUP; all nodes in it read their files again.
func hangUpSelf(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// TestThreeNodes: two of three run the guest, the third takes the place of
// whichever is lost.
func TestThreeNodes(t *testing.T) {
	p := newTestPair(t)
	p.bare = true
	p.list = []string{"a", "b", "c"}
	for _, n := range p.list {
		p.start(n)
	}
	st := p.await("a", "protection", func(s PairStatus) bool { return s.State == "protected" })
	if len(st.Peers) != 2 || st.Peer.Node != st.Standby {
		t.Errorf("peers %+v, peer %+v", st.Peers, st.Peer)
	}
	second := st.Standby
	third := map[string]string{"b": "c", "c": "b"}[second]
	p.awaitState(third, "standby", "none")
	guest := p.vm("a")
	p.nodes[second].stop(t)
	p.await("a", "protection by the third node", func(s PairStatus) bool { return s.State == "protected" && s.Standby == third })
	p.awaitState(third, "protected", "secondary")
	if p.vm("a") != guest {
		t.Error("the guest was started anew")
	}
	copied := p.vm(third)
	p.crash("a")
	p.await(third, "service alone", func(s PairStatus) bool { return s.State == "solo" && s.Speaker == third })
	p.start(second)
	p.await(third, "protection by the second node", func(s PairStatus) bool { return s.State == "protected" && s.Standby == second })
	if p.vm(third) != copied {
		t.Error("the guest was started anew")
	}
	p.start("a")
	p.awaitState("a", "standby", "none")
	cl, err := p.nodes["a"].client.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cl.Source != "links" || len(cl.Nodes) != 3 || len(cl.Pairs) != 1 || cl.Pairs[0].Record.Speaker != third {
		t.Errorf("cluster: %+v", cl)
	}
}

// TestSpare: a node that no list names protects the guest when no listed one
// can, becomes its speaker, is restarted with it, and is let go.
func TestSpare(t *testing.T) {
	p := newTestPair(t)
	p.bare = true
	p.startEtcd()
	c := p.start("c")
	p.start("a")
	p.awaitState("a", "solo", "speaker")
	p.await("a", "protection by the spare node", func(s PairStatus) bool { return s.State == "protected" && s.Standby == "c" })
	p.awaitState("c", "protected", "secondary")
	copied := p.vm("c")
	p.crash("a")
	p.await("c", "service by the spare node", func(s PairStatus) bool { return s.State == "solo" && s.Speaker == "c" })

	// It takes the guest up again.
	c.stop(t)
	c = p.start("c")
	p.await("c", "service by the spare node", func(s PairStatus) bool { return s.State == "solo" && s.Speaker == "c" })
	if p.vm("c") != copied || !copied.lives() {
		t.Error("the guest was started anew")
	}

	// A listed node protects it, from another node's list.
	p.start("b")
	p.await("c", "protection by b", func(s PairStatus) bool { return s.State == "protected" && s.Standby == "b" })
	p.awaitState("b", "protected", "secondary")
	cl, err := p.nodes["b"].client.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cl.Source != "registry" || len(cl.Nodes) != 3 || len(cl.Pairs) != 1 || cl.Pairs[0].Record.Speaker != "c" {
		t.Errorf("cluster: %+v", cl)
	}
	for _, n := range cl.Nodes {
		if n.Up != (n.Name != "a") || n.Spare != (n.Name == "c") {
			t.Errorf("node %+v", n)
		}
	}
	// A node that is gone for good is forgotten, one that runs is not.
	if _, err := p.nodes["b"].client.ForgetNode(t.Context(), "c"); err == nil || !strings.Contains(err.Error(), "stop colod there first") {
		t.Errorf("forget a running node: %v", err)
	}
	cl, err = p.nodes["b"].client.ForgetNode(t.Context(), "a")
	if err != nil || len(cl.Nodes) != 2 {
		t.Errorf("forget: %+v, %v", cl, err)
	}

	// A file that is torn is told of and keeps nothing else from starting.
	c.stop(t)
	file := filepath.Join(p.dir, "c", "state", "guests", "g")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	c = p.start("c")
	eventually(t, "a word about the torn file", func() bool { return strings.Contains(c.log.String(), "cut short") })
}

// TestNoRoom: a node that a guest does not fit on refuses, with the reason.
func TestNoRoom(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.awaitState("a", "solo", "speaker")
	n := p.prepare("b")
	n.plat.facts = HostFacts{Machines: []string{"q35"}, Accel: []string{"tcg"}}
	p.launch(n)
	p.await("a", "the reason", func(s PairStatus) bool {
		return s.State == "solo" && strings.Contains(s.Reason, `QEMU there has no machine type "pc"`)
	})
}

// TestMaintenance holds takeovers, and is kept over a restart of colod; a torn
// file counts as maintenance.
func TestMaintenance(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	if _, err := p.nodes["b"].client.Maintenance(t.Context(), true, "new switch"); err != nil {
		t.Fatal(err)
	}
	held := func(s PairStatus) bool { return s.Maintenance != nil && s.Maintenance.Why == "new switch" }
	p.await("a", "maintenance", held)
	p.nodes["b"].stop(t)
	p.awaitState("a", "solo", "speaker")
	p.start("b")
	p.await("b", "maintenance after a restart", held)
	p.awaitState("b", "standby", "none")
	time.Sleep(100 * time.Millisecond)
	p.awaitState("a", "solo", "speaker") // not protected by itself
	if _, err := p.nodes["a"].client.Do(t.Context(), "g", pair.OpMaintenance, OpRequest{}); err != nil {
		t.Fatal(err)
	}
	p.protected("a", "b")
	p.await("b", "the end of the maintenance", func(s PairStatus) bool { return s.Maintenance == nil })

	p.nodes["b"].stop(t)
	file := filepath.Join(p.dir, "b", "state", "pairs", "g", "maintenance")
	if err := os.WriteFile(file, []byte("colod-maintenance-1\n{\"on\":fal"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := p.start("b") // until a tells it that the maintenance is over
	eventually(t, "a word about the torn file", func() bool { return strings.Contains(b.log.String(), "the pair is taken to be in maintenance") })
	p.protected("a", "b")
}

// TestForce: without the arbiter nobody speaks, until an operator says so; it
// is on record.
func TestForce(t *testing.T) {
	p := newTestPair(t)
	p.bare = true
	file, err := arbiter.OpenFile(filepath.Join(p.dir, "arbiter"))
	if err != nil {
		t.Fatal(err)
	}
	arb := &awayArbiter{Arbiter: file}
	p.arbiter = arb
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	if _, err := p.nodes["b"].client.Do(t.Context(), "g", pair.OpForce, OpRequest{}); err == nil {
		t.Error("a protected pair is forced")
	}
	arb.away.Store(true)
	p.crash("a")
	p.awaitState("b", "claiming", "secondary")
	eventually(t, "force", func() bool {
		_, err := p.nodes["b"].client.Do(t.Context(), "g", pair.OpForce, OpRequest{})
		return err == nil
	})
	p.awaitState("b", "solo", "speaker")
	if role := p.nodes["b"].role(); role != "solo" {
		t.Errorf("data path of b is %s", role)
	}
	all, err := p.nodes["b"].client.Audit(t.Context(), 100, "g")
	if err != nil || len(all) < 3 {
		t.Fatalf("audit: %+v, %v", all, err)
	}
	begun, done := all[len(all)-2], all[len(all)-1]
	if begun.What != "force" || begun.Outcome != "begun" || done.What != "force" || done.Outcome != "done" ||
		done.Who.UID == nil || *done.Who.UID != uint32(os.Getuid()) || done.Who.PID != int32(os.Getpid()) || done.Node != "b" {
		t.Errorf("audit: %+v", all)
	}
	arb.away.Store(false)
	p.await("b", "the record", func(s PairStatus) bool { return s.Speaker == "b" })
}

// TestFencing: the command runs before the guest speaks; with required, a
// failure keeps it mute.
func TestFencing(t *testing.T) {
	p := newTestPair(t)
	p.bare = true
	ran, ok := filepath.Join(p.dir, "ran"), filepath.Join(p.dir, "ok")
	p.extra = "    fencing: {command: [/bin/sh, -c, 'echo {node} {pair} >> " + ran + "; echo no answer from {node}; test -e " + ok + "'], required: true}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	if text, err := os.ReadFile(ran); err == nil {
		t.Fatalf("fenced too early: %s", text)
	}
	p.crash("a")
	p.await("b", "the wait for fencing", func(s PairStatus) bool { return s.State == "claiming" })
	eventually(t, "the command", func() bool { _, err := os.Stat(ran); return err == nil })
	eventually(t, "the failure in the audit log", func() bool {
		all, err := p.nodes["b"].client.Audit(t.Context(), 10, "g")
		return err == nil && len(all) > 0 && all[0].What == "fence" && all[0].Outcome == "failed" && strings.Contains(all[0].Error, "no answer from a")
	})
	if role := p.nodes["b"].role(); role != "secondary" {
		t.Errorf("data path of b is %s before the fencing has worked", role)
	}
	if err := os.WriteFile(ok, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.awaitState("b", "solo", "speaker")
	text, err := os.ReadFile(ran)
	if err != nil || !strings.HasPrefix(string(text), "a g\n") {
		t.Errorf("command: %q, %v", text, err)
	}
}

// TestPlannedOperations at the API: each with its outcome, none a failover.
func TestPlannedOperations(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	guest := p.vm("a")
	do := func(node string, op pair.Op, req OpRequest) *PairStatus {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		st, err := p.nodes[node].client.Do(ctx, "g", op, req)
		if err != nil {
			t.Fatalf("%s at %s: %v\nlog of a:\n%s", op, node, err, p.nodes["a"].log)
		}
		return st
	}
	if st := do("a", pair.OpPause, OpRequest{}); !st.Paused {
		t.Errorf("paused: %+v", st)
	}
	time.Sleep(50 * time.Millisecond)
	do("a", pair.OpCont, OpRequest{})
	p.await("a", "the guest going on", func(s PairStatus) bool { return !s.Paused && s.State == "protected" })
	do("a", pair.OpReboot, OpRequest{})
	p.protected("a", "b")
	if p.vm("a") != guest {
		t.Error("the guest was started anew")
	}
	for req, want := range map[OpRequest]string{
		{Target: "z z"}:                               "is not the name of a node",
		{Target: "b", Role: "none"}:                   "is neither speaker nor secondary",
		{Target: "b", Grace: "soon"}:                  "is not a duration",
		{Target: "b", Why: strings.Repeat("x", 1000)}: "at most 500",
	} {
		if _, err := p.nodes["a"].client.Do(t.Context(), "g", pair.OpMigrate, req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	do("a", pair.OpDelete, OpRequest{Grace: "0s"})
	p.awaitState("a", "stopped", "none")
	p.awaitState("b", "stopped", "none")
	eventually(t, "the removal of the VM's directory", func() bool {
		_, err := os.Stat(vmDir(p.nodes["a"].cfg.RunDir, "g"))
		return os.IsNotExist(err)
	})
	if _, err := p.nodes["a"].client.Do(t.Context(), "g", pair.OpStart, OpRequest{}); err == nil || !strings.Contains(err.Error(), "create") {
		t.Errorf("start of a deleted guest: %v", err)
	}
	do("a", pair.OpStart, OpRequest{On: true})
	p.protected("a", "b")
}

// TestSwitchover: the speaker's VM lives until the other node speaks.
func TestSwitchover(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	copied := p.vm("b")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := p.nodes["a"].client.Do(ctx, "g", pair.OpSwitchover, OpRequest{}); err != nil {
		t.Fatalf("switchover: %v\n%s\n%s", err, p.nodes["a"].log, p.nodes["b"].log)
	}
	p.protected("b", "a")
	if p.vm("b") != copied {
		t.Error("the guest was started anew")
	}
}

// TestCertificatesRenewed: new files are used for new connections, those that
// exist go on; what cannot be used changes nothing.
func TestCertificatesRenewed(t *testing.T) {
	p := newTestPair(t)
	a := p.start("a")
	p.start("b")
	p.protected("a", "b")
	p.writeCerts("a", "z", p.ca) // another node's
	hangUpSelf(t)
	eventually(t, "a word about the wrong certificate", func() bool {
		return strings.Contains(a.log.String(), "the new certificates cannot be used") && strings.Contains(a.log.String(), `not for node \"a\"`)
	})
	p.writeCerts("a", "a", p.ca)
	hangUpSelf(t)
	eventually(t, "a word about the new certificate", func() bool { return strings.Contains(a.log.String(), "new certificates are in use") })
	p.protected("a", "b")
	if st := p.await("a", "status", func(PairStatus) bool { return true }); st.Generation != 2 {
		t.Errorf("generation %d: the renewal broke something", st.Generation)
	}
	p.nodes["b"].stop(t)
	p.awaitState("a", "solo", "speaker")
	p.start("b") // over connections with the new certificate
	p.protected("a", "b")
}

// TestAuditTorn: a line that a crash has torn is left out and swallows no
// other one.
func TestAuditTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := &logBuffer{}
	a := openAudit(path, "a", newLog(l))
	if all, err := a.last(10, ""); err != nil || len(all) != 0 {
		t.Fatalf("no file: %v, %v", all, err)
	}
	for i := range 3 {
		a.write(AuditEntry{What: "stop", Pair: []string{"g", "h", "g"}[i], TookMS: int64(i)})
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	a.write(AuditEntry{What: "start", Pair: "g"})
	all, err := a.last(10, "")
	if err != nil || len(all) != 4 || all[3].What != "start" || all[0].Node != "a" {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err = a.last(2, "g"); err != nil || len(all) != 2 || all[0].TookMS != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", st.Mode(), err)
	}
	os.Remove(path)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	a.write(AuditEntry{What: "start"})
	if !strings.Contains(l.String(), "write audit log") {
		t.Errorf("a failure is not told: %s", l)
	}
}

// TestFacts: what QEMU and the kernel say is understood.
func TestFacts(t *testing.T) {
	if v := qemuVersion([]byte("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright\n")); v != "7.2.22" {
		t.Error(v)
	}
	if v := qemuVersion([]byte("QEMU emulator version 11.1.0\n")); v != "11.1.0" {
		t.Error(v)
	}
	if m := strings.Join(firstWords([]byte("Supported machines are:\npc    Standard PC\nq35   x\n\n")), ","); m != "pc,q35" {
		t.Error(m)
	}
	old := "Available CPUs:\nx86 486                   (alias)\nx86 qemu64  x\n\nRecognized CPUID flags:\n  3dnow\n"
	now := "Available CPUs:\n  486                   (alias)\n  qemu64\n\nRecognized CPUID flags:\n  3dnow\n"
	for _, text := range []string{old, now} {
		if m := strings.Join(cpuModels([]byte(text)), ","); m != "486,qemu64" {
			t.Error(m)
		}
	}
	model, flags := cpuInfo([]byte("processor\t: 0\nmodel name\t: A B\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel name\t: C\n"))
	if model != "A B" || strings.Join(flags, ",") != "fpu,vme" {
		t.Error(model, flags)
	}
	if total, free := memory(); total == 0 || free == 0 || free > total {
		t.Error(total, free)
	}
	f := factsOf(&registry.Node{Name: "n", CPUs: 3, Models: []string{"m"}, Running: 2, Spare: true})
	if f.Name != "n" || f.CPUCount != 3 || f.CPUs[0] != "m" || f.Pairs != 2 || !f.Spare {
		t.Errorf("%+v", f)
	}
}
