package pair

import (
	"slices"
	"testing"

	"colod/coordinator/arbiter"
)

// standby makes a machine that is a standby of a, and ready.
func standby(t *testing.T) *Machine {
	t.Helper()
	m := New(Config{Pair: "g", Self: "b", Peers: []string{"a", "c"}, Strict: true})
	m.Step(Start{Boot: 1})
	m.Step(PeerUp{Peer: "a"})
	m.Step(PeerUp{Peer: "c"})
	m.Step(VMFound{Op: m.finding})
	m.Step(RecordRead{Op: m.reading, Record: arbiter.Record{Pair: "g", Generation: 3, Speaker: "a"}})
	m.Step(Muted{Op: m.muting})
	if m.State() != Standby || !m.ready() {
		t.Fatalf("%s, %s", m.State(), m.Reason())
	}
	return m
}

// sent are the messages of a kind among the actions, by receiver.
func sent[M Message](acts []Action) map[string]M {
	got := map[string]M{}
	for _, a := range acts {
		if s, ok := a.(Send); ok {
			if msg, ok := s.Msg.(M); ok {
				got[s.To] = msg
			}
		}
	}
	return got
}

// TestPrepareOfAnotherThanTheSpeaker: who is not the record's speaker gets no
// secondary, however new it says the record is.
func TestPrepareOfAnotherThanTheSpeaker(t *testing.T) {
	m := standby(t)
	acts := m.Step(Received{From: "c", Msg: Prepare{Session: "c-1", Generation: 3}})
	if _, ok := sent[Refused](acts)["c"]; !ok || m.State() != Standby {
		t.Fatalf("the same generation: %v", acts)
	}
	acts = m.Step(Received{From: "c", Msg: Prepare{Session: "c-2", Generation: 4}})
	if len(sent[Refused](acts)) != 0 || m.State() != Standby {
		t.Fatalf("a newer generation is to be looked at: %v", acts)
	}
	acts = m.Step(RecordRead{Op: m.reading, Record: arbiter.Record{Pair: "g", Generation: 4, Speaker: "a", Standby: "d"}})
	if _, ok := sent[Refused](acts)["c"]; !ok || m.State() != Standby {
		t.Fatalf("the record does not name it: %v", acts)
	}
	acts = m.Step(Received{From: "a", Msg: Prepare{Session: "a-1", Generation: 4}})
	if m.State() != Syncing || m.Partner() != "a" {
		t.Fatalf("the speaker is refused: %v", acts)
	}
	// Another one's messages do not count in the session, nor does its loss.
	m.Step(VMLaunched{Op: m.launching})
	if acts := m.Step(Received{From: "a", Msg: Prepare{Session: "a-1", Generation: 4}}); len(sent[Prepared](acts)) != 1 {
		t.Fatalf("the same request again: %v", acts)
	}
	if acts := m.Step(Received{From: "c", Msg: Prepare{Session: "a-1", Generation: 4}}); len(sent[Prepared](acts)) != 0 {
		t.Fatalf("another one's request with the speaker's session: %v", acts)
	}
	m.Step(Received{From: "c", Msg: Abort{Session: "a-1", Reason: "not yours"}})
	m.Step(Received{From: "c", Msg: PeerEnded{Generation: 4, Reason: "not yours"}})
	m.Step(PeerDown{Peer: "c", Reason: "silent"})
	if m.State() != Syncing || m.Session() != "a-1" {
		t.Fatalf("%s: %s", m.State(), m.Reason())
	}
}

// TestPrepareWithoutArbiter: a node that cannot read the record could not
// take over, so it does not become a secondary.
func TestPrepareWithoutArbiter(t *testing.T) {
	m := standby(t)
	m.Step(Received{From: "a", Msg: Prepare{Session: "a-1", Generation: 4}})
	acts := m.Step(RecordRead{Op: m.reading, Err: "no answer"})
	if _, ok := sent[Refused](acts)["a"]; !ok || m.State() != Standby {
		t.Fatalf("%v", acts)
	}
}

// TestWishOfAnotherNode: the speaker answers the node that passed it on.
func TestWishOfAnotherNode(t *testing.T) {
	m := standby(t)
	acts := m.Step(Ask{ID: 7, Op: OpMigrate, Target: "c", Role: Speaker})
	want := Request{Op: OpMigrate, Target: "c", Role: Speaker}
	if got := sent[Request](acts)["a"]; got != want {
		t.Fatalf("%v", acts)
	}
	acts = m.Step(Received{From: "a", Msg: Reply{Op: OpMigrate, Err: "c has no room"}})
	if !slices.Contains(acts, Action(Answer{ID: 7, Err: "c has no room"})) {
		t.Fatalf("%v", acts)
	}
	m.Step(Ask{ID: 8, Op: OpReboot})
	acts = m.Step(PeerDown{Peer: "a", Reason: "silent"})
	if len(acts) == 0 {
		t.Fatal("nobody answers when the speaker is lost")
	}
}
