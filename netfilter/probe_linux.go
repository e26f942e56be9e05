package netfilter

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

// Feature is one thing a path needs of the kernel.
type Feature struct {
	Name   string
	Needed bool   // false: another feature can do the same
	Err    error  // nil if it works
	Cure   string // what to do if it does not
}

// Report is what Probe found.
type Report struct{ Features []Feature }

// Missing lists the needed features which do not work.
func (r Report) Missing() []Feature {
	var out []Feature
	for _, f := range r.Features {
		if f.Needed && f.Err != nil {
			out = append(out, f)
		}
	}
	return out
}

// Err is nil if a path can be made, and otherwise names what is missing, with its cure.
func (r Report) Err() error {
	var errs []error
	for _, f := range r.Missing() {
		errs = append(errs, &Error{Op: "use", Device: f.Name, Err: f.Err, Cure: f.Cure})
	}
	return errors.Join(errs...)
}

// Probe tries every kernel feature of a path in a network namespace of its own, which is gone afterwards: nothing on the
// machine is changed, except that the kernel may load modules. The error says that it could not be tried.
func Probe() (Report, error) {
	var r Report
	err := osthread.Throwaway(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return &Error{Op: "probe in", Device: "a network namespace", Err: err,
				Cure: "run as root, on a kernel with CONFIG_NET_NS"}
		}
		return r.probe(forms)
	})
	return r, err
}

// probe fills in the report, in the calling thread's namespace, which it leaves littered.
func (r *Report) probe(all []form) error {
	l, err := openLinks()
	if err != nil {
		return err
	}
	defer l.close()
	rules, err := openRules()
	if err != nil {
		return err
	}
	defer rules.close()
	try := func(name, cure string, err error) bool {
		r.Features = append(r.Features, Feature{Name: name, Needed: true, Err: err, Cure: cure})
		return err == nil
	}
	const tap, uplink = "probe0", "probe1"
	c := Config{Bridge: "probe2", Tap: tap, Uplink: uplink, Owner: "probe"}

	try("tap with virtio-net header", "load the module: modprobe tun", l.makeTap(tap))
	try("veth pair", "load the module: modprobe veth", l.makeUplink(uplink, c.PortName(), 1500))
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: c.Bridge, TxQLen: -1}}
	err = l.nl.LinkAdd(br)
	if err == nil {
		var port netlink.Link
		if port, err = l.find(c.PortName()); port != nil {
			err = l.nl.LinkSetMasterByIndex(port, br.Index)
		}
	}
	try("bridge", "load the module: modprobe bridge", err)

	from, err := l.find(uplink)
	if from == nil && err == nil {
		from, err = l.find("lo") // no veth: any device does
	}
	if err != nil {
		return err
	}
	h := hook{device: from.Attrs().Name, index: uint32(from.Attrs().Index), target: uint32(from.Attrs().Index)}
	_, err = rules.clsact(h)
	if !try("tc clsact", "load the module: modprobe sch_ingress (CONFIG_NET_SCH_INGRESS)", err) {
		return nil
	}
	for _, v := range []verdict{drop, redirect} {
		var works []string
		var errs []error
		for _, f := range all {
			rules.forms, rules.works = []form{f}, [2]int{}
			err := rules.add(h, v)
			if err == nil {
				works = append(works, f.kind)
				err = rules.remove(h, v, f.kind)
			}
			if err != nil {
				errs = append(errs, err)
			}
			r.Features = append(r.Features, Feature{Name: fmt.Sprintf("tc %v with %s", v, f.kind), Err: err, Cure: modules(f, v)})
		}
		err := errors.Join(errs...)
		if len(works) > 0 {
			err = nil
		}
		try(fmt.Sprintf("tc %v of every frame", v), "load one of: "+strings.Join(cures(all, v), "; "), err)
	}
	return nil
}

// modules names what a form needs.
func modules(f form, v verdict) string {
	names := "cls_" + f.kind
	a := f.make(v, 1)
	if a.BPF == nil || a.BPF.Action != nil {
		names += " act_" + map[verdict]string{drop: "gact", redirect: "mirred"}[v]
	}
	return "modprobe -a " + names
}

func cures(all []form, v verdict) []string {
	var out []string
	for _, f := range all {
		out = append(out, modules(f, v))
	}
	return out
}
