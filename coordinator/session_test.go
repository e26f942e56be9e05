package coordinator

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"colod/qmp/relay"
)

// fakeRelay shows what it is told to.
type fakeRelay struct{ st relay.Stats }

func (r *fakeRelay) Cut()                  {}
func (r *fakeRelay) Done() <-chan struct{} { return nil }
func (r *fakeRelay) Err() error            { return nil }
func (r *fakeRelay) Stats() relay.Stats    { return r.st }

// TestCheckpointThatArrivedWhole: at a takeover in the middle of a checkpoint
// the data path has to know from which state the guest goes on.
func TestCheckpointThatArrivedWhole(t *testing.T) {
	s, err := freshSession("s-1", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	if _, yes := s.untold(); yes || s.quiet() {
		t.Error("a session without a relay")
	}
	r := &fakeRelay{st: relay.Stats{Phase: relay.Idle}}
	s.setRelay(r)
	at := time.Unix(100, 0)
	expect := func(what string, untold, quiet bool) {
		t.Helper()
		if stop, yes := s.untold(); yes != untold || s.quiet() != quiet || yes && !stop.Equal(at) {
			t.Errorf("%s: untold %v, quiet %v, want %v, %v", what, yes, s.quiet(), untold, quiet)
		}
	}
	expect("before any checkpoint", false, true)
	s.tellStopped(at)
	r.st.Phase = relay.Transferring
	expect("the state is on its way", false, false)
	r.st.Phase = relay.Loading
	expect("the state is there, the guest is not told to run yet", true, false)
	s.tellResumed()
	expect("the guest runs, the stream has not said so yet", false, false)
	r.st = relay.Stats{Phase: relay.Idle, Checkpoints: 1}
	expect("all is said", false, true)
	s.tellStopped(at)
	s.tellResumed() // an operator's stop and cont
	expect("an operator's pause", false, true)
	r.st.Checkpoints = 2
	expect("a checkpoint whose RESUME was not read", true, false)

	// The stream's words are read late: RESUME is here before the word that the state was received.
	r.st = relay.Stats{Phase: relay.Idle, Checkpoints: 2}
	s.tellStopped(at)
	r.st.Phase = relay.Transferring
	s.tellResumed()
	expect("the guest runs, and the stream is behind", false, false)
	r.st = relay.Stats{Phase: relay.Idle, Checkpoints: 3}
	expect("the stream has caught up", false, true)
	s.tellStopped(at)
	r.st.Phase = relay.Transferring
	expect("the primary dies before the next state is there", false, false)
}

func TestStateGreeting(t *testing.T) {
	s, err := freshSession("s-1", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	good := stateGreeting{pair: "g", session: "s-1", token: s.token()}
	var b bytes.Buffer
	if err := good.write(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("state follows")
	got, err := readStateGreeting(&b)
	if err != nil || *got != good || b.String() != "state follows" {
		t.Fatalf("%+v, %v, rest %q", got, err, b.String())
	}
	if err := s.admits(got, "g"); err != nil {
		t.Error(err)
	}
	for want, g := range map[string]stateGreeting{
		`session "s-2" of pair "g"`: {pair: "g", session: "s-2", token: s.token()},
		`session "s-1" of pair "h"`: {pair: "h", session: "s-1", token: s.token()},
		"the token is wrong":        {pair: "g", session: "s-1"},
	} {
		if err := s.admits(&g, "g"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", g, err)
		}
	}
	for _, text := range []string{"", "\x01", "\x00\x01x", "\xff\xffx", "\x01\x01gs", "\x01\x01gs" + strings.Repeat("t", 31)} {
		if _, err := readStateGreeting(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken for a greeting", text)
		}
	}
	if k := s.digestKey(); bytes.Equal(k[:], good.token[:16]) || bytes.Equal(k[:], s.secret[:16]) {
		t.Error("the keys are not independent")
	}
	if _, err := parseSecret("xyz"); err == nil {
		t.Error("a bad secret is accepted")
	}
	if k, err := parseSecret(s.encoded()); err != nil || k != s.secret {
		t.Errorf("secret changed: %v", err)
	}
}

func TestStateAnswer(t *testing.T) {
	for _, refusal := range []string{"", "no", strings.Repeat("x", 1000)} {
		c, srv := net.Pipe()
		go func() {
			if _, err := readStateGreeting(srv); err != nil {
				t.Error(err)
			}
			var err error
			if refusal != "" {
				err = context.DeadlineExceeded
			}
			if werr := writeStateAnswer(srv, err); werr != nil {
				t.Error(werr)
			}
		}()
		err := greetState(c, &stateGreeting{pair: "g", session: "s"}, 10*time.Second)
		if (err != nil) != (refusal != "") || err != nil && !strings.Contains(err.Error(), "the other node refused: context deadline") {
			t.Errorf("%q: %v", refusal, err)
		}
		c.Close()
		srv.Close()
	}
}

func TestExitCode(t *testing.T) {
	line := "123 (a ) (b)) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 9\n"
	if code, ok := exitCode([]byte(line)); !ok || code != 9 {
		t.Errorf("exit code %d, %v", code, ok)
	}
	for _, bad := range []string{"", "1 (x) S 1 2", "no parenthesis"} {
		if _, ok := exitCode([]byte(bad)); ok {
			t.Errorf("%q has an exit code", bad)
		}
	}
}

// TestKilledBySignal: the kernel tells a killed process from one that ended.
func TestKilledBySignal(t *testing.T) {
	start := func(name string, arg ...string) *exec.Cmd {
		cmd := exec.Command(name, arg...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	cmd := start("sleep", "1000")
	if killedBySignal(cmd.Process.Pid) {
		t.Error("a running process")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !killedBySignal(cmd.Process.Pid) {
		if time.Now().After(deadline) {
			t.Fatal("a killed process is not known as such")
		}
		time.Sleep(time.Millisecond)
	}
	if killedBySignal(start("true").Process.Pid) {
		t.Error("a process that ends by itself")
	}
	if killedBySignal(1 << 30) {
		t.Error("no process at all")
	}
}
