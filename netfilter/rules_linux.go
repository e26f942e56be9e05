package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	tc "github.com/florianl/go-tc"
	"github.com/florianl/go-tc/core"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Priorities of our filters: a drop goes before a redirect, so that adding it closes a hook, and taking it away opens a
// hook on which a redirect waits.
const (
	prioDrop     = 1
	prioRedirect = 2
)

// Kernel numbers: linux/pkt_cls.h, linux/tc_act/tc_mirred.h, linux/bpf_common.h.
const (
	actShot        = 2
	actStolen      = 4
	egressRedirect = 1
	u32Terminal    = 1

	bpfLoadImmediate = 0x00
	bpfReturn        = 0x06
	bpfMatch         = 0xffffffff

	clsactHandle = 0xffff0000
)

// mark is in every rule we make, so that it is known again: as a cookie of an action, and as a number which a filter
// program loads and does nothing with.
const mark = "colod"

var markNumber = binary.BigEndian.Uint32([]byte("cold"))

// verdict is what a rule does with a frame.
type verdict uint8

const (
	drop verdict = iota
	redirect
)

func (v verdict) String() string { return [...]string{"drop", "redirect"}[v] }

func (v verdict) prio() uint16 { return [...]uint16{prioDrop, prioRedirect}[v] }

// form is one way to write "every frame: verdict". All forms mean the same; which of them a kernel has differs.
type form struct {
	kind string
	make func(v verdict, target uint32) tc.Attribute
}

// forms in the order in which they are tried. Every distribution's kernel has all three; the first needs the fewest
// parts (no action for a drop) and, unlike u32, reads nothing of the frame.
var forms = []form{
	{"bpf", func(v verdict, target uint32) tc.Attribute {
		b := &tc.Bpf{}
		result := uint32(bpfMatch)
		if v == drop {
			result = actShot
			b.Flags = ptr(uint32(tc.BpfActDirect))
		} else {
			b.Action = action(v, target)
		}
		ops := program(result)
		b.Ops, b.OpsLen = &ops, ptr(uint16(len(ops)/8))
		return tc.Attribute{Kind: "bpf", BPF: b}
	}},
	{"u32", func(v verdict, target uint32) tc.Attribute {
		return tc.Attribute{Kind: "u32", U32: &tc.U32{
			Sel:     &tc.U32Sel{Flags: u32Terminal}, // no keys: nothing has to match
			Actions: &[]*tc.Action{action(v, target)},
		}}
	}},
	{"matchall", func(v verdict, target uint32) tc.Attribute {
		return tc.Attribute{Kind: "matchall", Matchall: &tc.Matchall{Actions: &[]*tc.Action{action(v, target)}}}
	}},
}

func ptr[T any](v T) *T { return &v }

// program is a classic BPF program of two instructions (struct sock_filter: code, jump true, jump false, operand).
func program(result uint32) []byte {
	b := make([]byte, 0, 16)
	b = binary.NativeEndian.AppendUint16(b, bpfLoadImmediate)
	b = append(b, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, markNumber)
	b = binary.NativeEndian.AppendUint16(b, bpfReturn)
	b = append(b, 0, 0)
	return binary.NativeEndian.AppendUint32(b, result)
}

func action(v verdict, target uint32) *tc.Action {
	cookie := []byte(mark)
	if v == drop {
		return &tc.Action{Kind: "gact", Cookie: &cookie, Gact: &tc.Gact{Parms: &tc.GactParms{Action: actShot}}}
	}
	return &tc.Action{Kind: "mirred", Cookie: &cookie, Mirred: &tc.Mirred{
		Parms: &tc.MirredParam{Action: actStolen, Eaction: egressRedirect, IfIndex: target}}}
}

// rules is a route netlink socket for tc. Its caller serialises.
type rules struct {
	tc    *tc.Tc
	forms []form
	works [2]int // by verdict: the form that has worked, so that the others are not tried again
}

func openRules() (*rules, error) {
	c, err := tc.Open(&tc.Config{})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for tc: %w", err)
	}
	if err := c.SetOption(netlink.ExtendedAcknowledge, true); err != nil {
		c.Close()
		return nil, fmt.Errorf("set NETLINK_EXT_ACK: %w", err)
	}
	return &rules{tc: c, forms: forms}, nil
}

func (r *rules) close() { r.tc.Close() }

// hook is the ingress of a device.
type hook struct {
	device string
	index  uint32
	target uint32 // where a redirect sends frames: the index of the other device
}

// state of a hook, as the kernel has it.
type state struct {
	rule    [2]bool   // by verdict: ours is there
	kind    [2]string // by verdict: its form
	stale   bool      // our redirect leads to a device that is not the target
	foreign string    // a rule that is not ours, in words
}

func (r *rules) msg(index uint32, prio uint16) tc.Msg {
	return tc.Msg{Family: unix.AF_UNSPEC, Ifindex: index, Parent: core.BuildHandle(tc.HandleRoot, tc.HandleMinIngress),
		Info: core.FilterInfo(prio, unix.ETH_P_ALL)}
}

// add adds the rule for a verdict to a hook.
func (r *rules) add(h hook, v verdict) error {
	var errs []error
	for i := r.works[v]; i < len(r.forms); i++ {
		f := r.forms[i]
		o := &tc.Object{Msg: r.msg(h.index, v.prio()), Attribute: f.make(v, h.target)}
		if f.kind == "bpf" {
			o.Handle = 1
		}
		err := r.tc.Filter().Add(o)
		if err == nil {
			r.works[v] = i
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", f.kind, explain(err)))
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			break
		}
	}
	err := errors.Join(errs...)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return &Error{Op: "add filter " + v.String() + " to", Device: h.device, Err: fmt.Errorf("%w: %w", ErrUnsupported, err),
			Cure: "load the modules cls_bpf and act_mirred, or cls_u32, act_mirred and act_gact"}
	}
	return r.failed("add filter "+v.String()+" to", h, err)
}

// remove takes the rule for a verdict away; kind is its form.
func (r *rules) remove(h hook, v verdict, kind string) error {
	err := r.tc.Filter().Delete(&tc.Object{Msg: r.msg(h.index, v.prio()), Attribute: tc.Attribute{Kind: kind}})
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return r.failed("remove filter "+v.String()+" from", h, explain(err))
}

func (r *rules) failed(op string, h hook, err error) error {
	e := &Error{Op: op, Device: h.device, Err: err}
	if errors.Is(err, unix.ENODEV) {
		e.Err, e.Cure = fmt.Errorf("%w (index %d): %w", ErrGone, h.index, err), "remove the path and open it again"
	}
	return e
}

// explain brings the kernel's own sentence to the front.
func explain(err error) error {
	var oe *netlink.OpError
	if errors.As(err, &oe) {
		if oe.Message != "" {
			return fmt.Errorf("%w (kernel: %s)", oe.Err, oe.Message)
		}
		return oe.Err
	}
	return err
}

// look reads the state of a hook. A device without clsact has none of the rules.
func (r *rules) look(h hook) (state, error) {
	var s state
	list, err := r.list(h, tc.HandleMinIngress)
	if err != nil {
		return s, err
	}
	for _, o := range list {
		v, target, ours := recognise(o)
		if !ours {
			s.foreign = describe(o, "ingress")
			continue
		}
		s.rule[v], s.kind[v] = true, o.Kind
		if v == redirect && target != h.target {
			s.stale = true
		}
	}
	return s, nil
}

// foreign fails if a device carries a rule that is not ours, on either side.
func (r *rules) foreign(h hook) error {
	s, err := r.look(h)
	if err != nil {
		return err
	}
	if s.foreign == "" {
		list, err := r.list(h, tc.HandleMinEgress)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			s.foreign = describe(list[0], "egress")
		}
	}
	if s.foreign == "" {
		return nil
	}
	return &Error{Op: "take", Device: h.device, Err: fmt.Errorf("a %s %w", s.foreign, ErrForeign),
		Cure: "remove it with `tc filter del dev " + h.device + " ...`, or give the guest another tap"}
}

// list returns the rules of one side of a device, without the entries that only stand for a priority or a u32 table.
// A device without clsact has none.
func (r *rules) list(h hook, minor uint32) ([]tc.Object, error) {
	list, err := r.tc.Filter().Get(&tc.Msg{Family: unix.AF_UNSPEC, Ifindex: h.index,
		Parent: core.BuildHandle(tc.HandleRoot, minor)})
	if err != nil {
		var oe *netlink.OpError
		if errors.As(err, &oe) {
			return nil, r.failed("list filters of", h, explain(err))
		}
		return nil, &Error{Op: "read filters of", Device: h.device, Err: fmt.Errorf("%w: %w", ErrForeign, err),
			Cure: "see `tc filter show dev " + h.device + " ingress` and egress, and remove what is there"}
	}
	return slices.DeleteFunc(list, func(o tc.Object) bool {
		return o.Handle == 0 || o.Kind == "u32" && o.Handle&0xfff == 0
	}), nil
}

// recognise says whether a rule is ours, what it does, and for a redirect where it leads.
func recognise(o tc.Object) (v verdict, target uint32, ours bool) {
	var a *tc.Action
	actions := func(list *[]*tc.Action) {
		if list != nil && len(*list) == 1 {
			a = (*list)[0]
		}
	}
	switch {
	case o.BPF != nil:
		if o.BPF.Ops == nil {
			return 0, 0, false
		}
		if slices.Equal(*o.BPF.Ops, program(actShot)) && o.BPF.Flags != nil && *o.BPF.Flags == tc.BpfActDirect {
			return drop, 0, uint16(o.Info>>16) == prioDrop
		}
		if !slices.Equal(*o.BPF.Ops, program(bpfMatch)) {
			return 0, 0, false
		}
		a = o.BPF.Action
	case o.U32 != nil:
		actions(o.U32.Actions)
	case o.Matchall != nil:
		actions(o.Matchall.Actions)
	}
	if a == nil || a.Cookie == nil || string(*a.Cookie) != mark {
		return 0, 0, false
	}
	switch prio := uint16(o.Info >> 16); {
	case a.Gact != nil && prio == prioDrop:
		return drop, 0, true
	case a.Mirred != nil && a.Mirred.Parms != nil && prio == prioRedirect:
		return redirect, a.Mirred.Parms.IfIndex, true
	}
	return 0, 0, false
}

func describe(o tc.Object, side string) string {
	return fmt.Sprintf("filter %s with priority %d on %s", o.Kind, o.Info>>16, side)
}

// clsact makes sure that a device has the clsact qdisc, which carries the filters. made is true if it had none.
func (r *rules) clsact(h hook) (made bool, err error) {
	o := &tc.Object{Msg: tc.Msg{Family: unix.AF_UNSPEC, Ifindex: h.index, Handle: clsactHandle, Parent: tc.HandleIngress},
		Attribute: tc.Attribute{Kind: "clsact"}}
	err = r.tc.Qdisc().Add(o)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, &Error{Op: "add clsact to", Device: h.device, Err: fmt.Errorf("%w: %w", ErrUnsupported, explain(err)),
			Cure: "load the module sch_ingress (CONFIG_NET_SCH_INGRESS)"}
	case !errors.Is(err, unix.EEXIST):
		return false, r.failed("add clsact to", h, explain(err))
	}
	// Something is there. A change without options does nothing, and fails if it is of another kind.
	if err := r.tc.Qdisc().Change(o); err != nil {
		return false, &Error{Op: "add clsact to", Device: h.device, Err: fmt.Errorf("%w: another ingress qdisc is there", ErrForeign),
			Cure: "remove it: tc qdisc del dev " + h.device + " ingress"}
	}
	return false, nil
}

// dropClsact takes clsact with all filters away.
func (r *rules) dropClsact(h hook) error {
	err := r.tc.Qdisc().Delete(&tc.Object{Msg: tc.Msg{Family: unix.AF_UNSPEC, Ifindex: h.index, Handle: clsactHandle,
		Parent: tc.HandleIngress}, Attribute: tc.Attribute{Kind: "clsact"}})
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return r.failed("remove clsact from", h, explain(err))
}

// setOpen redirects a hook's frames. The redirect is put behind a drop that is there, and works from the instant at
// which the drop is taken away: no frame finds neither rule, and none finds both at work.
func (r *rules) setOpen(h hook) error {
	s, err := r.look(h)
	if err != nil {
		return err
	}
	if s.rule[redirect] && s.stale {
		if !s.rule[drop] {
			if err := r.add(h, drop); err != nil {
				return err
			}
			if s, err = r.look(h); err != nil {
				return err
			}
		}
		if err := r.remove(h, redirect, s.kind[redirect]); err != nil {
			return err
		}
		s.rule[redirect] = false
	}
	if !s.rule[redirect] {
		if err := r.add(h, redirect); err != nil {
			return err
		}
	}
	if !s.rule[drop] {
		return nil
	}
	return r.remove(h, drop, s.kind[drop])
}

// setClosed drops a hook's frames. It works from the instant at which the drop is put before the redirect.
func (r *rules) setClosed(h hook) error {
	s, err := r.look(h)
	if err != nil {
		return err
	}
	if !s.rule[drop] {
		if err := r.add(h, drop); err != nil {
			return err
		}
	}
	if !s.rule[redirect] {
		return nil
	}
	return r.remove(h, redirect, s.kind[redirect])
}
