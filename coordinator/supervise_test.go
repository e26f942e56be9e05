package coordinator

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"colod/coordinator/heartbeat"
)

// hangRun runs a judge with looks of the usual distance; it returns when the VM
// was found to hang, and what was said last.
func hangRun(t *testing.T, looks int, look func(i int) vitals) (after time.Duration, reason string) {
	t.Helper()
	var j hangJudge
	now := time.Duration(0)
	for i := range looks {
		now += hangLook
		r, hung := j.look(now, look(i))
		if hung {
			return now - hangLook, r // since the first, which knows nothing of before
		}
		reason = r
	}
	return 0, reason
}

func TestHangJudge(t *testing.T) {
	const looks = 600
	for name, c := range map[string]struct {
		look  func(i int) vitals
		after time.Duration // 0: it does not hang
		says  string
	}{
		"idle":              {func(i int) vitals { return vitals{Answered: true, CPU: 7} }, 0, ""},
		"stopped, answered": {func(i int) vitals { return vitals{Answered: i%5 == 0, Stopped: true} }, 0, ""},
		"stopped":           {func(i int) vitals { return vitals{Stopped: true} }, hangStopped, "its process is stopped since 2s"},
		"stopped, waiting":  {func(i int) vitals { return vitals{Stopped: true, Waits: true} }, hangStopped, "its process is stopped"},
		"dead lock":         {func(i int) vitals { return vitals{CPU: 99} }, hangAfter, "has used no processor for 4s"},
		"busy":              {func(i int) vitals { return vitals{CPU: uint64(i)} }, 0, "its monitor is silent for 1m59.8s"},
		"now and then busy": {func(i int) vitals { return vitals{CPU: uint64(i / 19)} }, 0, "silent"},
		"starved":           {func(i int) vitals { return vitals{Runnable: true} }, 0, "silent"},
		"waits":             {func(i int) vitals { return vitals{Waits: true} }, 0, "it waits for the other node"},
		"waits and stalls":  {func(i int) vitals { return vitals{Waits: i < 100} }, 100*hangLook + hangAfter - hangLook, "no processor"},
		"one answer": {func(i int) vitals { return vitals{Answered: i == 15, CPU: 99} },
			15*hangLook + hangAfter, "no processor"},
		"stopped for a moment": {func(i int) vitals { return vitals{Stopped: i%10 != 0, CPU: uint64(i)} }, 0, "silent"},
	} {
		after, says := hangRun(t, looks, c.look)
		if after != c.after || !strings.Contains(says, c.says) || c.says == "" && says != "" {
			t.Errorf("%s: after %v, %q; want %v, %q", name, after, says, c.after, c.says)
		}
	}
}

// TestHangJudgeSlept: a look after a long sleep of ours is one look.
func TestHangJudgeSlept(t *testing.T) {
	var j hangJudge
	j.look(time.Second, vitals{Answered: true})
	if r, hung := j.look(time.Hour, vitals{Stopped: true}); hung {
		t.Error(r)
	}
	if r, hung := j.look(2*time.Hour, vitals{Answered: true, Stopped: true}); hung || r != "" {
		t.Error(r)
	}
}

func TestDeafJudge(t *testing.T) {
	deaf := func(look func(i uint64) outputs) bool {
		var j deafJudge
		for i := range uint64(200) {
			if _, d := j.look(time.Duration(i)*500*time.Millisecond, look(i)); d {
				return true
			}
		}
		return false
	}
	for name, c := range map[string]struct {
		look func(i uint64) outputs
		want bool
	}{
		"alone":               {func(i uint64) outputs { return outputs{} }, false},
		"idle":                {func(i uint64) outputs { return outputs{Session: "s"} }, false},
		"well":                {func(i uint64) outputs { return outputs{Session: "s", Heard: i, Said: i} }, false},
		"slow":                {func(i uint64) outputs { return outputs{Session: "s", Silences: i, Heard: i / 3, Said: i} }, false},
		"deaf":                {func(i uint64) outputs { return outputs{Session: "s", Silences: i, Heard: 7, Said: i} }, true},
		"deaf, seldom asked":  {func(i uint64) outputs { return outputs{Session: "s", Silences: i / 10, Heard: 7, Said: i} }, true},
		"a burst, then quiet": {func(i uint64) outputs { return outputs{Session: "s", Silences: min(i, 4), Heard: 7, Said: i} }, false},
		"nobody talks":        {func(i uint64) outputs { return outputs{Session: "s", Silences: i, Heard: 7, Said: 9} }, false},
		"sessions change":     {func(i uint64) outputs { return outputs{Session: string(rune('a' + i/4)), Silences: i, Said: i} }, false},
		"boots slowly": {func(i uint64) outputs {
			o := outputs{Session: "s", Boots: 1, Silences: i, Heard: 7, Said: i}
			if i >= 90 { // it is there 45 s after its reset
				o.Heard += i
			}
			if i == 0 {
				o.Boots = 0
			}
			return o
		}, false},
		"resets again and again": {func(i uint64) outputs { return outputs{Session: "s", Boots: 1 + i/50, Silences: i, Heard: 7, Said: i} }, false},
		"deaf after a reset":     {func(i uint64) outputs { return outputs{Session: "s", Boots: min(i, 1), Silences: i, Heard: 7, Said: i} }, true},
		"a reset during deafness": {func(i uint64) outputs {
			return outputs{Session: "s", Boots: i / 4, Silences: min(i, 8), Heard: 7, Said: i}
		}, false},
		"colod counts anew": {func(i uint64) outputs { return outputs{Session: "s", Silences: i % 4, Said: i} }, false},
	} {
		if got := deaf(c.look); got != c.want {
			t.Errorf("%s: deaf %v", name, got)
		}
	}
}

func TestReadProcess(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do read line || exit; done")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	until := func(what string, fn func(vitals) bool) (last vitals) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			v, ok := readProcess(pid)
			if ok && fn(v) {
				return v
			}
			if time.Now().After(limit) {
				t.Fatalf("never: %s; %+v %v", what, v, ok)
			}
		}
	}
	idle := until("it is idle", func(v vitals) bool { return !v.Runnable && !v.Stopped && v.CPU > 0 })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := until("it is stopped", func(v vitals) bool { return v.Stopped })
	if _, err := in.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if v, _ := readProcess(pid); v.CPU != stopped.CPU || v.CPU < idle.CPU {
		t.Errorf("%d, %d, %d", idle.CPU, stopped.CPU, v.CPU)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until("it has run", func(v vitals) bool { return v.CPU > stopped.CPU && !v.Stopped })
	in.Close()
	cmd.Wait()
	if _, ok := readProcess(pid); ok {
		t.Error("a process that is gone is read")
	}
	for _, text := range []string{"", "1 (x", "1 (x) S 2", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a 12 13"} {
		path := t.TempDir() + "/stat"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := statOf(path); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// TestSupervision: the parts of a node and its pair are watched, and said to be
// well; a loop that does not answer is found, and systemd is not told a lie.
func TestSupervision(t *testing.T) {
	p := newTestPair(t)
	a := p.start("a").node
	p.start("b")
	p.protected("a", "b")
	d := a.driverOf("g")
	part := func(name string) (p SupervisedPart) {
		for _, p := range a.Status().Supervision {
			if p.Part == name {
				return p
			}
		}
		return p
	}
	until := func(what string, fn func() bool) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); !fn(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("never: %s; %+v", what, a.sup.status())
			}
		}
	}
	loop := pairPart("g", partLoop)
	names := []string{"arbiter", "node/b", loop, pairPart("g", partProxy), pairPart("g", "output")}
	if a.hb != nil { // the UDP ports of the test were free
		names = append(names, "heartbeats", "node/b/path/0")
	}
	for _, name := range names {
		until("part "+name+" is well", func() bool { return part(name).State == "ok" })
	}
	if dead := a.sup.vital(); len(dead) > 0 {
		t.Errorf("%v do not answer", dead)
	}
	block := make(chan struct{})
	d.box.post(func() { <-block })
	until("the loop is missed", func() bool { return len(a.sup.vital()) == 1 })
	if dead := a.sup.vital(); len(dead) != 1 || dead[0] != loop {
		t.Errorf("%v do not answer", dead)
	}
	close(block)
	until("the loop is back", func() bool { return len(a.sup.vital()) == 0 && part(loop).State == "ok" })
	p.nodes["b"].stop(t)
	until("the other node is missed", func() bool { return part("node/b").State == "failed" })
}

func TestPathTrouble(t *testing.T) {
	paths := []heartbeat.PathStatus{
		{Up: true}, {Local: "192.0.2.1:1", Addr: "192.0.2.2:1", LastHeard: -1},
		{Local: "192.0.2.1:1", Addr: "192.0.2.2:1", LastHeard: 1500 * time.Millisecond}, {LastHeard: -1, Err: "network is unreachable"},
	}
	for i, want := range []string{"", "does a firewall keep UDP out?", "nothing was heard for 1.5s", "unreachable", ""} {
		err := pathTrouble(paths, i)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("path %d: %v, want %q", i, err, want)
		}
	}
}
