package pair

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"colod/coordinator/arbiter"
)

// The scenarios in testdata/scenarios are stories of two nodes. The commands:
//
//	nodes N               there are N nodes, a, b, c ...; two if this is not said
//	config NODE k=v       sets a field of the node's Config, for its next start
//	start NODE            colod starts on the node; its VM, if any, is still there
//	protected             both start, and the pair is protected; not shown, see 01-first-start
//	settle                whatever is asked for succeeds and messages arrive, until nothing is left
//	pass TIME             time passes, and settle
//	event NODE NAME k=v   something happens on the node
//	hold NODE ACTION      the action is left unanswered; "go NODE" answers what is left
//	fail NODE ACTION TEXT the next such action fails
//	outside NODE          it is in no node's list; its colod makes a machine when it is asked for a secondary
//	away NODE, back NODE  the arbiter cannot, can be reached from the node
//	cut, heal             the nodes cannot, can talk
//	lose NODE [OTHER]     heartbeats of the other node, or of all others, are missed at NODE
//	vm NODE found|none|paused|left  whether a VM is found there at the next start, and how
//	record                show the record
//	paused                show where the guest stands still
//	held                  show what maintenance holds back
//	state                 show both nodes
//
// Shown are the actions (->) and what comes from the other node (<-).
// Checkpoint numbers and sessions are the machine's; reads of the record by
// poll are not shown.
type storyNode struct {
	name         string
	cfg          Config
	m            *Machine
	boots        uint64
	found        bool
	paused, left bool // as found
	todo         []Action
	hold         map[string]bool
	fail         map[string]string
	vm           uint64
	outside      bool // it is in no list
	away         bool // the arbiter cannot be reached from it
	maint        *Maintained
}

type story struct {
	t     *testing.T
	names []string
	nodes map[string]*storyNode
	rec   arbiter.Record
	cut   bool
	now   time.Duration
	out   strings.Builder
	mail  []mail
}

type mail struct {
	from, to *storyNode
	msg      Message
}

func newStory(t *testing.T) *story {
	s := &story{t: t}
	s.setNodes(2)
	return s
}

func (s *story) setNodes(count int) {
	s.names, s.nodes = nil, map[string]*storyNode{}
	for i := range count {
		s.names = append(s.names, string(rune('a'+i)))
	}
	for _, name := range s.names {
		n := &storyNode{name: name, hold: map[string]bool{}, fail: map[string]string{}}
		n.cfg = Config{Pair: "g", Self: name, First: name == "a", AutoProtect: true, Strict: true, Guest: "x"}
		for _, o := range s.names {
			if o != name {
				n.cfg.Peers = append(n.cfg.Peers, o)
			}
		}
		s.nodes[name] = n
	}
}

// mate is the other node of the session.
func (s *story) mate(n *storyNode) *storyNode {
	return s.nodes[n.m.with]
}

func (s *story) step(n *storyNode, ev Event) {
	for _, a := range append(n.m.Step(Tick{Now: s.now}), n.m.Step(ev)...) {
		s.took(n, a)
	}
}

// took shows an action and keeps it to be answered.
func (s *story) took(n *storyNode, a Action) {
	switch a := a.(type) {
	case ReadRecord:
	case Send:
		if _, ok := a.Msg.(Status); ok {
			break
		}
		fmt.Fprintf(&s.out, "%s -> %s: %s\n", n.name, a.To, show(a.Msg))
	case Swap: // what is expected there is what everybody knows
		fmt.Fprintf(&s.out, "%s -> Swap %s\n", n.name, a.Next)
	case Moved:
		fmt.Fprintf(&s.out, "%s is %s (%s): %s\n", n.name, a.To, a.Role, a.Reason)
	default:
		fmt.Fprintf(&s.out, "%s -> %s\n", n.name, hideOp(show(a)))
	}
	n.todo = append(n.todo, a)
}

func hideOp(line string) string {
	var kept []string
	for _, f := range strings.Split(line, " ") {
		if !strings.HasPrefix(f, "Op=") {
			kept = append(kept, f)
		}
	}
	return strings.Join(kept, " ")
}

func actionName(a Action) string { return reflect.TypeOf(a).Name() }

// settle answers everything until nothing is left to be answered.
func (s *story) settle() {
	for range 10_000 {
		if !s.settleOne() {
			return
		}
	}
	s.t.Fatalf("does not settle:\n%s", s.out.String())
}

func (s *story) settleOne() bool {
	if len(s.mail) > 0 {
		m := s.mail[0]
		s.mail = s.mail[1:]
		if m.to.m == nil && m.to.outside && !s.cut {
			if _, ok := m.msg.(Prepare); ok {
				s.line("start " + m.to.name)
			}
		}
		if m.to.m != nil && !s.cut {
			s.step(m.to, Received{From: m.from.name, Msg: m.msg})
		}
		return true
	}
	for _, name := range s.names {
		n := s.nodes[name]
		for i, a := range n.todo {
			if n.hold[actionName(a)] {
				continue
			}
			n.todo = append(n.todo[:i:i], n.todo[i+1:]...)
			s.answer(n, a)
			return true
		}
	}
	for _, name := range s.names { // timers that have run out by now
		n := s.nodes[name]
		if n.m != nil && n.m.Deadline() != 0 && n.m.Deadline() <= max(s.now, 1) {
			for _, a := range n.m.Step(Tick{Now: max(s.now, 1)}) {
				s.took(n, a)
			}
			return true
		}
	}
	return false
}

func (s *story) answer(n *storyNode, a Action) {
	err := n.fail[actionName(a)]
	delete(n.fail, actionName(a))
	o := s.mate(n)
	switch a := a.(type) {
	case ReadRecord:
		if n.away {
			err = "the arbiter does not answer"
		}
		s.step(n, RecordRead{Op: a.Op, Record: s.rec, Err: err})
	case Swap:
		ev := Swapped{Op: a.Op, Outcome: SwapWon, Err: err}
		switch {
		case err == "failed", n.away:
			ev.Outcome = SwapFailed
		case s.rec != a.Prev:
			ev.Outcome, ev.Record = SwapLost, s.rec
		default:
			s.rec = a.Next
			ev.Record = s.rec
			if err != "" {
				ev.Outcome, ev.Record = SwapUnknown, arbiter.Record{}
			}
		}
		s.step(n, ev)
	case FindVM:
		if n.found {
			n.vm = a.Op
		}
		s.step(n, VMFound{Op: a.Op, Found: n.found, Paused: n.paused, Left: n.left})
	case LaunchVM:
		if err == "" {
			n.vm, n.found = a.Op, true
		}
		s.step(n, VMLaunched{Op: a.Op, Err: err})
	case EndVM:
		n.found = false
		s.step(n, VMGone{Op: a.Op, Err: err})
	case CheckVM:
		s.step(n, VMChecked{Op: a.Op, Err: err})
	case FreeVM:
		s.step(n, VMFreed{Op: a.Op, Err: err})
	case Copy:
		s.step(n, Copied{Session: a.Session, Err: err, Permanent: strings.Contains(err, "broken")})
	case Trigger:
		s.step(n, Triggered{N: a.N, Err: err})
		if err == "" && !n.hold["STOP"] && o != nil {
			s.step(o, VMStopped{VM: o.vm})
			s.step(n, VMStopped{VM: n.vm})
			s.step(o, VMResumed{VM: o.vm})
			s.step(n, VMResumed{VM: n.vm})
		}
	case Mute:
		s.step(n, Muted{Op: a.Op, Err: err})
	case Speak:
		s.step(n, Speaking{Op: a.Op, Err: err})
	case Link:
		if err == "" && o != nil && o.m != nil {
			s.step(o, Linked{Session: a.Session})
		}
		s.step(n, Linked{Session: a.Session, Err: err})
	case Hold:
		s.step(n, Held{N: a.N, Err: err})
	case Cover:
		s.step(n, Covered{N: a.N, Err: err})
	case Send:
		s.mail = append(s.mail, mail{n, s.nodes[a.To], a.Msg})
	case Choose:
		ev := Chosen{Op: a.Op, Err: err}
		if err == "" && len(a.Ready) == 0 {
			ev.Err = "no other node"
			for _, name := range s.names {
				if s.nodes[name].outside {
					ev.Peer, ev.Err, ev.Reason = name, "", "a spare with room"
					s.step(n, PeerUp{Peer: name})
				}
			}
		} else if err == "" {
			ev.Peer = a.Ready[0]
			for _, name := range a.Ready {
				if !slices.Contains(a.Last, name) {
					ev.Peer = name
					break
				}
			}
		}
		s.step(n, ev)
	case PauseVM:
		s.step(n, VMPaused{Op: a.Op, Err: err})
		if err == "" {
			s.step(n, VMStopped{VM: n.vm})
		}
	case ContVM:
		s.step(n, VMContinued{Op: a.Op, Err: err})
		if err == "" {
			s.step(n, VMResumed{VM: n.vm})
		}
	case ResetVM:
		s.step(n, VMReset{Op: a.Op, Err: err})
		if err == "" {
			s.step(n, GuestReset{VM: n.vm, Reason: "host-qmp-system-reset"})
		}
	case Fence:
		s.step(n, FencedNode{Op: a.Op, Err: err})
	case Maintained:
		n.maint = &a
	}
}

func (s *story) node(name string) *storyNode {
	n := s.nodes[name]
	if n == nil {
		s.t.Fatalf("there is no node %q", name)
	}
	return n
}

func (s *story) line(text string) {
	f := strings.Fields(text)
	switch f[0] {
	case "start":
		n := s.node(f[1])
		n.boots++
		n.todo = nil
		n.m = New(n.cfg)
		s.step(n, Start{Boot: n.boots})
		if n.maint != nil {
			s.step(n, Ask{Op: OpMaintenance, On: n.maint.On, Why: n.maint.Why, Rev: n.maint.Rev})
		}
		for _, name := range s.names {
			if o := s.nodes[name]; o != n && o.m != nil && !s.cut {
				s.step(n, PeerUp{Peer: o.name})
				s.step(o, PeerUp{Peer: n.name})
			}
		}
	case "stop":
		s.node(f[1]).m = nil
		s.node(f[1]).todo = nil
	case "settle":
		s.settle()
	case "protected":
		for _, name := range s.names {
			s.line("start " + name)
		}
		s.settle()
		s.out.Reset()
	case "pass":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		end := s.now + d
		for s.now < end {
			s.now = min(s.now+50*time.Millisecond, end)
			for _, name := range s.names {
				if n := s.nodes[name]; n.m != nil {
					for _, a := range n.m.Step(Tick{Now: s.now}) {
						s.took(n, a)
					}
				}
			}
			s.settle()
		}
	case "event":
		s.step(s.node(f[1]), s.parseEvent(s.node(f[1]), f[2], f[3:]))
	case "hold":
		s.node(f[1]).hold[f[2]] = true
	case "go":
		s.node(f[1]).hold = map[string]bool{}
	case "fail":
		s.node(f[1]).fail[f[2]] = strings.Join(f[3:], " ")
	case "outside":
		s.node(f[1]).outside = true
		for _, n := range s.nodes {
			n.cfg.Outside = true
			n.cfg.Peers = slices.DeleteFunc(n.cfg.Peers, func(p string) bool { return p == f[1] })
		}
	case "away":
		s.node(f[1]).away = true
	case "back":
		s.node(f[1]).away = false
	case "nodes":
		count, err := strconv.Atoi(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.setNodes(count)
	case "config":
		s.configure(s.node(f[1]), f[2:])
	case "cut":
		s.cut = true
		s.mail = nil
	case "heal":
		s.cut = false
		for _, name := range s.names {
			for _, other := range s.names {
				if n, o := s.nodes[name], s.nodes[other]; n != o && n.m != nil && o.m != nil {
					s.step(n, PeerUp{Peer: other})
				}
			}
		}
	case "lose":
		for _, name := range s.names {
			if name != f[1] && (len(f) < 3 || f[2] == name) {
				s.step(s.node(f[1]), PeerDown{Peer: name, Reason: "heartbeats missed"})
			}
		}
	case "vm":
		n := s.node(f[1])
		n.found, n.paused, n.left = f[2] != "none", f[2] == "paused", f[2] == "left"
	case "paused":
		for _, name := range s.names {
			if m := s.nodes[name].m; m != nil {
				fmt.Fprintf(&s.out, "%s: paused %v\n", name, m.Paused())
			}
		}
	case "held":
		for _, name := range s.names {
			if m := s.nodes[name].m; m != nil {
				on, why := m.Maintenance()
				fmt.Fprintf(&s.out, "%s: maintenance %v %q, held %q\n", name, on, why, m.Held())
			}
		}
	case "record":
		fmt.Fprintf(&s.out, "%s\n", s.rec)
	case "state":
		for _, name := range s.names {
			if m := s.nodes[name].m; m != nil {
				fmt.Fprintf(&s.out, "%s: %s, %s: %s\n", name, m.State(), m.Role(), m.Reason())
			} else {
				fmt.Fprintf(&s.out, "%s: colod does not run\n", name)
			}
		}
	default:
		s.t.Fatalf("unknown command %q", text)
	}
}

// parseEvent makes an event from its name and its fields. VM events are of
// the node's VM unless they say otherwise.
func (s *story) parseEvent(n *storyNode, name string, args []string) Event {
	for _, proto := range []Event{
		VMDied{VM: n.vm}, VMShutdown{VM: n.vm}, VMStopped{VM: n.vm}, VMResumed{VM: n.vm}, COLOExit{VM: n.vm},
		Diverged{}, LinkLost{Session: n.m.Session()}, Quit{}, Ask{ID: 1},
		GuestReset{VM: n.vm}, VMHung{VM: n.vm}, VMMigration{VM: n.vm}, SecondaryDeaf{}, PeerUp{}, PeerDown{},
	} {
		t := reflect.TypeOf(proto)
		if t.Name() != name {
			continue
		}
		v := reflect.New(t).Elem()
		v.Set(reflect.ValueOf(proto))
		s.fields(v, args)
		return v.Interface().(Event)
	}
	s.t.Fatalf("event %s cannot be written here", name)
	return nil
}

// configure sets fields of a node's configuration.
func (s *story) configure(n *storyNode, args []string) {
	s.fields(reflect.ValueOf(&n.cfg).Elem(), args)
}

// fields sets a struct's fields, each written name=value.
func (s *story) fields(v reflect.Value, args []string) {
	for _, arg := range args {
		k, val, _ := strings.Cut(arg, "=")
		field := v.FieldByName(k)
		if !field.IsValid() {
			s.t.Fatalf("%s has no field %s", v.Type().Name(), k)
		}
		switch field.Interface().(type) {
		case string, Op:
			field.SetString(val)
		case bool:
			field.SetBool(val == "true")
		case time.Duration:
			d, err := time.ParseDuration(val)
			if err != nil {
				s.t.Fatal(err)
			}
			field.SetInt(int64(d))
		case uint64:
			x, err := strconv.ParseUint(val, 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			field.SetUint(x)
		case Role:
			var r Role
			if err := r.UnmarshalText([]byte(val)); err != nil {
				s.t.Fatal(err)
			}
			field.SetUint(uint64(r))
		default:
			s.t.Fatalf("field %s of %s cannot be written here", k, v.Type().Name())
		}
	}
}

// TestScenarios runs the stories. -rewrite writes what comes out into the
// files; read the difference.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := newStory(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			s.out.Reset()
			if d.Cmd != "do" {
				d.Fatalf(t, "unknown directive %s", d.Cmd)
			}
			for line := range strings.Lines(d.Input) {
				if line = strings.TrimSpace(line); line != "" {
					s.line(line)
				}
			}
			return s.out.String()
		})
	})
}
