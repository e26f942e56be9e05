package pair

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colod/coordinator/arbiter"
)

// samples is one valid message of each kind.
var samples = []Message{
	Status{Boot: 1 << 47, State: Checkpointing, Role: Speaker, Generation: 7, HasVM: true, Session: "ab-1", Reason: "protected by b"},
	Prepare{Session: "ab-1", Generation: 7, Guest: "0011", Secret: strings.Repeat("0f", 32)},
	Prepared{Session: "ab-1"},
	Refused{Session: "ab-1", Reason: "no room"},
	Armed{Session: "ab-1", Record: arbiter.Record{Pair: "g", Generation: 8, Speaker: "a", Standby: "b", Reason: "protected"}},
	Abort{Session: "ab-1", Reason: "link lost"},
	PeerVMDied{Session: "ab-1", Generation: 8, Reason: "killed"},
	PeerEnded{Generation: 8, Reason: "guest-shutdown"},
	COLOBroken{Session: "ab-1", Reason: "error"},
	Request{Op: OpStop, GraceMS: 20000},
	Request{Op: OpMigrate, Target: "c", Role: Speaker},
	Reply{Op: OpMigrate, Err: "c has no room"},
	HandOver{Session: "ab-1", Generation: 8, Reason: "switchover"},
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range samples {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMessage(m.Kind(), b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Errorf("%s changed (-sent +received):\n%s", m.Kind(), d)
		}
	}
}

func TestMessagesRefused(t *testing.T) {
	for _, c := range []struct{ kind, body, want string }{
		{"nonsense", `{}`, "not known"},
		{"status", `{`, "decode status"},
		{"status", `{}`, "state 0 is not known"},
		{"status", `{"state":"happy"}`, `state "happy" is not known`},
		{"status", `{"state":"idle","role":"king"}`, `role "king" is not known`},
		{"status", `{"state":"idle","role":"none","session":"A/../b"}`, "characters other than"},
		{"status", `{"state":"idle","role":"none","reason":"` + strings.Repeat("x", 2000) + `"}`, "reason of 2000 bytes"},
		{"prepare", `{"session":"a-1","generation":0}`, "generation 0"},
		{"prepare", `{"session":"a-1","generation":1,"guest":"` + strings.Repeat("x", 200) + `"}`, "too long"},
		{"prepared", `{"session":""}`, "session of 0 bytes"},
		{"armed", `{"session":"a-1","record":{"pair":"g","generation":3,"speaker":"a","standby":"a"}}`, "both speaker and standby"},
		{"request", `{"op":"explode"}`, `operation "explode"`},
		{"request", `{"op":"stop","grace_ms":-1}`, "out of range"},
		{"abort", `{"session":"a-1"} {"session":"a-2"}`, "something follows"},
	} {
		if _, err := DecodeMessage(c.kind, []byte(c.body)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want one with %q", c.kind, c.body, err, c.want)
		}
	}
}

// FuzzDecodeMessage: what is accepted is within bounds and survives being
// sent again.
func FuzzDecodeMessage(f *testing.F) {
	for _, m := range samples {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Kind(), b)
	}
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		m, err := DecodeMessage(kind, body)
		if (err == nil) == (m == nil) {
			t.Fatalf("message %v with error %v", m, err)
		}
		if err != nil {
			return
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeMessage(kind, b)
		if err != nil || !cmp.Equal(m, again) {
			t.Fatalf("%s became %v, %v", b, again, err)
		}
	})
}

// FuzzMachine gives a machine events in any order: it must never make an
// illegal move, whatever the world does.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := New(Config{Pair: "g", Self: "a", Peers: []string{"b", "c"}, First: true, AutoProtect: true, Strict: true, Fencing: len(script)&1 != 0, FencingRequired: len(script)&2 != 0, Outside: len(script)&4 != 0})
		m.Step(Start{Boot: 1})
		for i := 0; i+1 < len(script); i += 2 {
			m.Step(Tick{Now: m.now + 1<<(script[i+1]%36)})
			if ev := anyEvent(m, script[i], script[i+1]); ev != nil {
				m.Step(ev)
			}
		}
	})
}

// anyEvent is the event number k, with results for what is awaited.
func anyEvent(m *Machine, k, arg byte) Event {
	err := ""
	if arg&1 != 0 {
		err = "failed"
	}
	rec := arbiter.Record{Pair: "g", Generation: m.rec.Generation + uint64(arg>>6), Speaker: "a"}
	if arg&2 != 0 {
		rec.Speaker = "b"
	}
	if arg&4 != 0 {
		rec.Standby = map[string]string{"a": "b", "b": "a"}[rec.Speaker]
	}
	rec.Ended = arg&8 != 0 && rec.Standby == ""
	peer := "b"
	if arg&32 != 0 {
		peer = "c"
	}
	switch k % 45 {
	case 0:
		return RecordRead{Op: m.reading, Record: rec, Err: err}
	case 1:
		return Swapped{Op: m.swapping, Outcome: SwapWon, Record: m.next}
	case 2:
		return Swapped{Op: m.swapping, Outcome: SwapLost, Record: rec}
	case 3:
		return Swapped{Op: m.swapping, Outcome: SwapUnknown}
	case 4:
		return VMFound{Op: m.finding, Found: arg&1 != 0}
	case 5:
		return VMLaunched{Op: m.launching, Err: err}
	case 6:
		return VMDied{VM: m.vm, Reason: "killed"}
	case 7:
		return VMShutdown{VM: m.vm, Planned: arg&1 != 0}
	case 8:
		return VMStopped{VM: m.vm}
	case 9:
		return VMResumed{VM: m.vm}
	case 10:
		return COLOExit{VM: m.vm}
	case 11:
		return VMChecked{Op: m.checking, Err: err}
	case 12:
		return VMFreed{Op: m.freeing, Err: err}
	case 13:
		return VMGone{Op: m.ending, Err: err}
	case 14:
		return Copied{Session: m.session, Err: err}
	case 15:
		return Triggered{N: m.n, Err: err}
	case 16:
		return Muted{Op: m.muting, Err: err}
	case 17:
		return Speaking{Op: m.speaking, Err: err}
	case 18:
		return Linked{Session: m.session, Err: err}
	case 19:
		return LinkLost{Session: m.session}
	case 20:
		return Diverged{Reason: "payload"}
	case 21:
		return Held{N: m.n, Err: err}
	case 22:
		return Covered{N: m.n, Err: err}
	case 23:
		return PeerUp{Peer: peer}
	case 24:
		return PeerDown{Peer: peer, Reason: "silent"}
	case 25:
		return Received{From: peer, Msg: Status{Boot: uint64(arg & 1), State: State(1 + arg%10), HasVM: arg&16 != 0, Ready: arg&32 != 0, Generation: rec.Generation}}
	case 26:
		return Received{From: peer, Msg: Prepare{Session: "s-1", Generation: 1 + uint64(arg)}}
	case 27:
		return Received{From: peer, Msg: Prepared{Session: m.session}}
	case 28:
		return Received{From: peer, Msg: Armed{Session: m.session, Record: rec}}
	case 29:
		return Received{From: peer, Msg: Abort{Session: m.session}}
	case 30:
		return Received{From: peer, Msg: PeerVMDied{Session: m.session, Generation: m.rec.Generation}}
	case 31:
		return Received{From: peer, Msg: PeerEnded{Generation: m.rec.Generation}}
	case 32:
		return Ask{ID: uint64(arg), Op: Ops[int(arg)%len(Ops)], Target: peer, Role: Role(arg % 3), On: arg&64 != 0}
	case 33:
		if arg == 0 {
			return Quit{}
		}
		return Received{From: peer, Msg: COLOBroken{Session: m.session}}
	case 34:
		return Chosen{Op: m.choice.op, Peer: peer, Err: err}
	case 35:
		return Received{From: peer, Msg: HandOver{Session: m.session, Generation: m.rec.Generation}}
	case 36:
		return VMHung{VM: m.vm, Reason: "no CPU time"}
	case 37:
		return SecondaryDeaf{Reason: "silent"}
	case 38:
		return GuestReset{VM: m.vm, Reason: "guest-reset"}
	case 39:
		return VMMigration{VM: m.vm, Status: []string{"setup", "completed", "failed"}[arg%3]}
	case 40:
		if arg&2 != 0 {
			return VMPaused{Op: m.pausing, Err: err}
		}
		return VMPaused{Op: m.plan.pausing, Err: err}
	case 41:
		return VMContinued{Op: m.conting, Err: err}
	case 42:
		return FencedNode{Op: m.claim.fencing, Err: err}
	case 43:
		return VMReset{Op: m.resetting, Err: err}
	case 44:
		return Received{From: peer, Msg: Status{Boot: uint64(arg & 1), State: Standby, Ready: true, MaintenanceRev: uint64(arg >> 4), Maintenance: arg&8 != 0}}
	}
	return nil
}
