// Package placement decides whether a node can run the secondary of a guest,
// and which of several nodes is to.
//
// It is pure: what it knows of nodes and guest is given to it, and everything
// it says no to comes with a sentence that names the value and the need. The
// same check is made twice: by the speaker, when it chooses a node, and by the
// node itself, when it is asked for a secondary.
package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Needs are what a guest asks of the node of its secondary.
type Needs struct {
	Pair        string
	Memory      uint64   // of the guest, bytes
	SMP         int      // virtual CPUs
	Machine     string   // QEMU machine type
	CPU         string   // QEMU CPU model; may have flags behind it ("qemu64,+ssse3")
	Accel       string   // kvm or tcg, as the speaker's VM runs; "" = either
	QEMU        string   // version of the speaker's QEMU, such as 7.2.22; "" = not known
	CPUFeatures []string // flags of the host's CPU that the guest uses; may be empty
	Domain      string   // failure domain of the speaker's node; "" = none
	Listed      []string // nodes of the pair's list, in its order
	Last        []string // nodes with which protection failed lately, the latest last
}

// Facts are what a node says of itself. Lists that are empty are not known
// and not checked.
type Facts struct {
	Name, Domain string
	QEMU         string   // version
	Machines     []string // QEMU machine types
	CPUs         []string // QEMU CPU models
	Accel        []string // accelerators that work
	CPUFlags     []string // of the host, as in /proc/cpuinfo
	CPUCount     int
	MemTotal     uint64 // bytes
	MemFree      uint64 // bytes that can be had
	Maintenance  string // why the node takes nothing new; "" = it does
	Pairs        int    // pairs that have a VM there
	Spare        bool   // takes pairs that do not list it
}

// Overhead is what a secondary needs beside the guest's memory, which it
// needs twice: once for the guest and once for the state of the checkpoint
// that is arriving (bytes).
const Overhead = 256 << 20

// SecondaryMemory is what a secondary of a guest with that much memory needs
// (bytes).
func SecondaryMemory(guest uint64) uint64 { return 2*guest + Overhead }

// Check says why the node cannot run the secondary; nothing means that it can.
func Check(n Needs, f Facts) []string {
	var no []string
	refuse := func(format string, a ...any) { no = append(no, fmt.Sprintf(format, a...)) }
	if f.Maintenance != "" {
		refuse("in maintenance: %s", f.Maintenance)
	}
	listed := len(n.Listed) > 0 && slices.Contains(n.Listed, f.Name)
	if !f.Spare && len(n.Listed) > 0 && !listed {
		refuse("not in the pair's list of nodes (%s), and not a spare", strings.Join(n.Listed, ", "))
	}
	if want := SecondaryMemory(n.Memory); f.MemFree < want {
		refuse("%s of memory are free of %s, a secondary needs %s (twice the guest's %s and %s)",
			mib(f.MemFree), mib(f.MemTotal), mib(want), mib(n.Memory), mib(Overhead))
	}
	// A guest with more processors than the host has runs there, but slower. Who lists the node has chosen that.
	if !listed && n.SMP > 0 && f.CPUCount > 0 && f.CPUCount < n.SMP {
		refuse("%d CPUs, the guest has %d; a node of the pair's list may have fewer", f.CPUCount, n.SMP)
	}
	if missing(f.Machines, n.Machine) {
		refuse("QEMU there has no machine type %q; give vm.machine a versioned one that all nodes have", n.Machine)
	}
	if model, _, _ := strings.Cut(n.CPU, ","); missing(f.CPUs, model) {
		refuse("QEMU there has no CPU model %q", model)
	}
	if missing(f.Accel, n.Accel) {
		refuse("accelerator %q does not work there (it has %s), and a guest cannot change it while it runs", n.Accel, strings.Join(f.Accel, ", "))
	}
	if len(f.CPUFlags) > 0 {
		var lacking []string
		for _, flag := range n.CPUFeatures {
			if !slices.Contains(f.CPUFlags, flag) {
				lacking = append(lacking, flag)
			}
		}
		if len(lacking) > 0 {
			refuse("its CPU lacks %s, which the guest uses; give vm.cpu a model that all nodes have", strings.Join(lacking, ", "))
		}
	}
	if why := versions(n.QEMU, f.QEMU); why != "" {
		refuse("%s", why)
	}
	return no
}

// missing reports whether want is something and known not to be there.
func missing(have []string, want string) bool {
	return want != "" && len(have) > 0 && !slices.Contains(have, want)
}

// versions says why a guest cannot move between two versions of QEMU. The
// state goes to the same or a newer release (QEMU keeps that for versioned
// machine types), and, as the roles change, back again: so both have to be of
// the same major version.
func versions(speaker, node string) string {
	if speaker == "" || node == "" {
		return ""
	}
	a, aok := major(speaker)
	b, bok := major(node)
	if aok && bok && a != b {
		return fmt.Sprintf("QEMU %s there and %s at the speaker: the major versions differ, so the state cannot go both ways", node, speaker)
	}
	return ""
}

func major(version string) (int, bool) {
	s, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(s)
	return n, err == nil
}

func mib(bytes uint64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// Choose takes the node that is to run the secondary, out of those whose
// facts are given, with the reason for it. node is "" if none can; refused
// says for each that cannot why not.
//
// In this order a node is preferred: with which protection has not failed
// lately (then the longest ago); in another failure domain than the speaker;
// in the pair's list, the first there. Of two equals it is the one with fewer
// pairs; then with more free memory; then the first by name. Of more than two,
// two are drawn by lot, and the one with clearly fewer pairs is taken, else
// the first drawn. The lot depends on the pair and its attempts alone, so the
// same facts give the same answer.
//
// Two are drawn, and not the best of all taken, because facts are seconds old
// and many pairs choose at once when a node is lost: all would take the same
// one. The better of two keeps the load even all the same
// (M. Mitzenmacher, "How useful is old information?", 2000).
func Choose(n Needs, all []Facts) (node, reason string, refused map[string]string) {
	refused = map[string]string{}
	var fit []*Facts
	for i := range all {
		f := &all[i]
		if no := Check(n, *f); len(no) > 0 {
			refused[f.Name] = strings.Join(no, "; ")
			continue
		}
		fit = append(fit, f)
	}
	switch {
	case len(fit) == 0:
		return "", "", refused
	case len(fit) == 1 && len(all) == 1:
		return fit[0].Name, "the only node that is ready", refused
	case len(fit) == 1:
		return fit[0].Name, "the only node that fits", refused
	}
	best := slices.MinFunc(fit, func(a, b *Facts) int { d, _ := rank(n, a, b); return d })
	var equals, rest []*Facts
	for _, f := range fit {
		if d, _ := rank(n, f, best); d == 0 {
			equals = append(equals, f)
		} else {
			rest = append(rest, f)
		}
	}
	switch {
	case len(equals) == 1:
		equals = append(equals, slices.MinFunc(rest, func(a, b *Facts) int { d, _ := compare(n, a, b); return d }))
	case len(equals) > 2:
		two := draw(n, equals)
		why := "as loaded as %s"
		if a, b := two[0].Pairs, two[1].Pairs; max(a, b)-min(a, b) > max(a, b)/near {
			why = "fewer pairs than %s"
			if b < a {
				two[0], two[1] = two[1], two[0]
			}
		}
		return two[0].Name, fmt.Sprintf(why+"; the two were drawn out of %d equals", two[1].Name, len(equals)), refused
	}
	a, b := equals[0], equals[1]
	d, why := compare(n, a, b)
	if d > 0 {
		a, b = b, a
	}
	return a.Name, fmt.Sprintf(why, b.Name), refused
}

// near: numbers of pairs that differ by less than this part of the greater
// one are equal. In a burst of choices small differences are chance, and to
// follow them doubles the burst on the nodes that were ahead by one.
const near = 8

// draw takes two by lot.
func draw(n Needs, from []*Facts) [2]*Facts {
	base := hash(offset64, n.Pair+"/"+strconv.Itoa(len(n.Last))+"/")
	var two [2]*Facts
	var lots [2]uint64
	for _, f := range from {
		lot := mix(hash(base, f.Name))
		switch {
		case two[0] == nil || lot < lots[0]:
			two[1], lots[1] = two[0], lots[0]
			two[0], lots[0] = f, lot
		case two[1] == nil || lot < lots[1]:
			two[1], lots[1] = f, lot
		}
	}
	return two
}

// FNV-1a of 64 bits, which goes on from h.
const offset64, prime64 = 14695981039346656037, 1099511628211

func hash(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * prime64
	}
	return h
}

// mix lets every bit of h change every bit of the result: names that differ
// in their last letter alone hardly differ in the upper bits of their hashes.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// rank is negative if a is to be preferred to b whatever their load is, with
// the reason why the preferred one is, as a format with a place for the
// other's name.
func rank(n Needs, a, b *Facts) (int, string) {
	failed := func(f *Facts) int { return slices.Index(n.Last, f.Name) + 1 }
	sameDomain := func(f *Facts) int {
		if n.Domain != "" && f.Domain == n.Domain {
			return 1
		}
		return 0
	}
	listed := func(f *Facts) int {
		if i := slices.Index(n.Listed, f.Name); i >= 0 {
			return i
		}
		return len(n.Listed)
	}
	if d := failed(a) - failed(b); d != 0 {
		return d, "failed less lately than %s"
	}
	if d := sameDomain(a) - sameDomain(b); d != 0 {
		return d, "in another failure domain than the speaker, other than %s"
	}
	return listed(a) - listed(b), "earlier in the pair's list than %s"
}

// compare is rank, and between equals by their load.
func compare(n Needs, a, b *Facts) (int, string) {
	if d, why := rank(n, a, b); d != 0 {
		return d, why
	}
	if d := a.Pairs - b.Pairs; d != 0 {
		return d, "fewer pairs than %s"
	}
	if a.MemFree != b.MemFree {
		if a.MemFree > b.MemFree {
			return -1, "more free memory than %s"
		}
		return 1, "more free memory than %s"
	}
	return strings.Compare(a.Name, b.Name), "as good as %s, and first by name"
}

// Refusals is one sentence for those that Choose refused, in the order of the names.
func Refusals(refused map[string]string) string {
	var parts []string
	for name, why := range refused {
		parts = append(parts, name+": "+why)
	}
	slices.Sort(parts)
	return strings.Join(parts, ". ")
}
