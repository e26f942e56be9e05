package netfilter

import (
	"errors"
	"strings"
	"testing"

	tc "github.com/florianl/go-tc"
	"golang.org/x/sys/unix"

	"colod/internal/netnstest"
)

// bench is a namespace with a device to put rules on.
func bench(t *testing.T) (*netnstest.NS, *rules, hook) {
	t.Helper()
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	netnstest.Veth(a, "wa", b, "wb")
	var r *rules
	a.Must(func() (err error) { r, err = openRules(); return err })
	t.Cleanup(r.close)
	h := hook{device: "va", index: uint32(a.Device("va").Attrs().Index), target: uint32(a.Device("wa").Attrs().Index)}
	if made, err := r.clsact(h); !made || err != nil {
		t.Fatalf("clsact: %v, %v", made, err)
	}
	if made, err := r.clsact(h); made || err != nil {
		t.Fatalf("clsact once more: %v, %v", made, err)
	}
	return a, r, h
}

// absent is a form which kernels have not had since 6.3 (cls_rsvp was removed).
var absent = form{"rsvp", func(verdict, uint32) tc.Attribute {
	return tc.Attribute{Kind: "rsvp", Rsvp: &tc.Rsvp{ClassID: ptr(uint32(1))}}
}}

// TestForms works every form that this kernel has, alone and behind one that it does not have: the same states come out,
// and opening and closing twice is no error.
func TestForms(t *testing.T) {
	worked := map[string]bool{}
	for _, f := range forms {
		for _, list := range [][]form{{f}, {absent, f}, {f, forms[0]}} {
			ns, r, h := bench(t)
			r.forms = list
			for _, v := range []verdict{drop, redirect} {
				for range 2 {
					err := r.add(h, v)
					if err != nil && !errors.Is(err, ErrUnsupported) {
						t.Fatalf("%v with %s: %v", v, f.kind, err)
					}
					if err != nil {
						if !strings.Contains(err.Error(), f.kind) || !strings.Contains(err.Error(), "load the modules") {
							t.Errorf("the error names neither the form nor a cure: %v", err)
						}
						continue
					}
					worked[v.String()+" "+f.kind] = true
					s, err := r.look(h)
					if err != nil || !s.rule[v] || s.foreign != "" || s.stale || s.kind[v] == "" {
						t.Fatalf("%v with %s: state %+v, %v\n%s", v, f.kind, s, err, ns.Dump())
					}
					if err := r.remove(h, v, s.kind[v]); err != nil {
						t.Fatal(err)
					}
					if s, err := r.look(h); err != nil || s != (state{}) {
						t.Fatalf("%v with %s: after removal %+v, %v", v, f.kind, s, err)
					}
				}
			}
		}
	}
	for _, name := range []string{"drop bpf", "redirect bpf", "redirect u32"} {
		if !worked[name] {
			t.Errorf("%s did not work, which this kernel has", name)
		}
	}
}

// TestMixedForms opens and closes a hook whose drop and redirect are of different forms, from every state that a killed
// process can leave.
func TestMixedForms(t *testing.T) {
	for _, first := range []string{"bpf", "u32"} {
		_, r, h := bench(t)
		if first == "u32" {
			r.works[redirect] = 1
		}
		for _, left := range [][]verdict{nil, {drop}, {redirect}, {drop, redirect}, {redirect, drop}} {
			for _, open := range []bool{true, false, true, true, false, false} {
				for _, v := range left {
					if s, _ := r.look(h); !s.rule[v] {
						if err := r.add(h, v); err != nil {
							t.Fatal(err)
						}
					}
				}
				f := r.setClosed
				if open {
					f = r.setOpen
				}
				if err := f(h); err != nil {
					t.Fatal(err)
				}
				s, err := r.look(h)
				if err != nil || !s.settled(open) {
					t.Fatalf("from %v, open %v: %v, %v", left, open, s, err)
				}
				if open && s.kind[redirect] != first {
					t.Errorf("redirect is of form %s, want %s", s.kind[redirect], first)
				}
			}
		}
	}
}

// TestStaleRedirect replaces a redirect which leads elsewhere, and never lets a frame through meanwhile: the drop is put
// before it first.
func TestStaleRedirect(t *testing.T) {
	_, r, h := bench(t)
	wrong := h
	wrong.target = h.index
	if err := r.setOpen(wrong); err != nil {
		t.Fatal(err)
	}
	s, err := r.look(h)
	if err != nil || !s.stale || s.settled(true) {
		t.Fatalf("state %v, %v", s, err)
	}
	if err := r.setOpen(h); err != nil {
		t.Fatal(err)
	}
	if s, err = r.look(h); err != nil || !s.settled(true) {
		t.Errorf("state %v, %v", s, err)
	}
}

// TestForeignRulesAreNotOurs holds recognise to rules that look like ours in all but the mark.
func TestForeignRulesAreNotOurs(t *testing.T) {
	_, r, h := bench(t)
	cookie := []byte("other")
	mirror := &tc.Action{Kind: "mirred", Mirred: &tc.Mirred{Parms: &tc.MirredParam{Action: actStolen, Eaction: egressRedirect, IfIndex: h.target}}}
	marked := *mirror
	marked.Cookie = &cookie
	ops := program(actShot)
	ops = append(ops[8:], ops[:8]...)
	for name, a := range map[string]tc.Attribute{
		"no cookie":            {Kind: "u32", U32: &tc.U32{Sel: &tc.U32Sel{Flags: u32Terminal}, Actions: &[]*tc.Action{mirror}}},
		"other cookie":         {Kind: "u32", U32: &tc.U32{Sel: &tc.U32Sel{Flags: u32Terminal}, Actions: &[]*tc.Action{&marked}}},
		"no action":            {Kind: "u32", U32: &tc.U32{Sel: &tc.U32Sel{Flags: u32Terminal}, ClassID: ptr(uint32(1))}},
		"other program":        {Kind: "bpf", BPF: &tc.Bpf{Ops: &ops, OpsLen: ptr(uint16(2)), Flags: ptr(uint32(tc.BpfActDirect))}},
		"ours, but not direct": {Kind: "bpf", BPF: &tc.Bpf{Ops: ptr(program(actShot)), OpsLen: ptr(uint16(2))}},
	} {
		o := &tc.Object{Msg: r.msg(h.index, prioRedirect), Attribute: a}
		if a.BPF != nil {
			o.Handle = 1
		}
		if err := r.tc.Filter().Add(o); err != nil {
			if name == "other program" && errors.Is(err, unix.EINVAL) {
				continue // the kernel wants a return at the end
			}
			t.Fatal(name, err)
		}
		s, err := r.look(h)
		if err != nil || s.foreign == "" || s.rule != [2]bool{} {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if err := r.foreign(h); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.remove(h, redirect, a.Kind); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProbeNamesWhatIsMissing probes for forms that no kernel has.
func TestProbeNamesWhatIsMissing(t *testing.T) {
	var r Report
	netnstest.New(t, "scratch").Must(func() error { return r.probe([]form{absent}) })
	var missing []string
	for _, f := range r.Missing() {
		missing = append(missing, f.Name)
	}
	if got := strings.Join(missing, ", "); got != "tc drop of every frame, tc redirect of every frame" {
		t.Errorf("missing: %s", got)
	}
	if err := r.Err(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "modprobe -a cls_rsvp") {
		t.Errorf("error: %v", err)
	}
}
