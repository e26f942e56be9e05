package placement

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const gib = 1 << 30

func needs() Needs {
	return Needs{
		Pair: "g", Memory: gib, SMP: 2, Machine: "pc-i440fx-7.2", CPU: "qemu64,+ssse3", Accel: "kvm", QEMU: "7.2.22",
		CPUFeatures: []string{"ssse3"}, Domain: "rack1", Listed: []string{"a", "b"},
	}
}

func fits(name string) Facts {
	return Facts{
		Name: name, Domain: "rack2", QEMU: "7.2.9", Machines: []string{"pc-i440fx-7.2", "q35"}, CPUs: []string{"qemu64"},
		Accel: []string{"kvm", "tcg"}, CPUFlags: []string{"fpu", "ssse3"}, CPUCount: 4, MemTotal: 8 * gib, MemFree: 4 * gib, Spare: true,
	}
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Needs, *Facts)
		want   string // "" = fits
	}{
		"fits":                 {func(*Needs, *Facts) {}, ""},
		"maintenance":          {func(_ *Needs, f *Facts) { f.Maintenance = "new disks" }, "in maintenance: new disks"},
		"not a spare":          {func(_ *Needs, f *Facts) { f.Name, f.Spare = "z", false }, "not in the pair's list of nodes (a, b), and not a spare"},
		"memory":               {func(_ *Needs, f *Facts) { f.MemFree = gib }, "1024 MiB of memory are free of 8192 MiB, a secondary needs 2304 MiB (twice the guest's 1024 MiB and 256 MiB)"},
		"memory, just enough":  {func(n *Needs, f *Facts) { f.MemFree = SecondaryMemory(n.Memory) }, ""},
		"memory, a byte short": {func(n *Needs, f *Facts) { f.MemFree = SecondaryMemory(n.Memory) - 1 }, "of memory are free"},
		"processors":           {func(_ *Needs, f *Facts) { f.Name, f.CPUCount = "z", 1 }, "1 CPUs, the guest has 2"},
		"processors, listed":   {func(_ *Needs, f *Facts) { f.CPUCount = 1 }, ""},
		"machine":              {func(_ *Needs, f *Facts) { f.Machines = []string{"q35"} }, `no machine type "pc-i440fx-7.2"`},
		"machines not known":   {func(_ *Needs, f *Facts) { f.Machines = nil }, ""},
		"model":                {func(_ *Needs, f *Facts) { f.CPUs = []string{"EPYC"} }, `no CPU model "qemu64"`},
		"accelerator":          {func(_ *Needs, f *Facts) { f.Accel = []string{"tcg"} }, `accelerator "kvm" does not work there (it has tcg)`},
		"flags":                {func(_ *Needs, f *Facts) { f.CPUFlags = []string{"fpu"} }, "lacks ssse3"},
		"major version":        {func(_ *Needs, f *Facts) { f.QEMU = "9.0.1" }, "QEMU 9.0.1 there and 7.2.22 at the speaker"},
		"version not known":    {func(_ *Needs, f *Facts) { f.QEMU = "" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n, f := needs(), fits("b")
			c.change(&n, &f)
			got := strings.Join(Check(n, f), "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("refused with %q, want %q", got, c.want)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	c, d := fits("c"), fits("d")
	for name, x := range map[string]struct {
		change    func(n *Needs, b, c, d *Facts)
		node, why string
	}{
		"the list's first":         {func(*Needs, *Facts, *Facts, *Facts) {}, "b", "earlier in the pair's list than c"},
		"another domain":           {func(_ *Needs, b, _, _ *Facts) { b.Domain = "rack1" }, "c", "as good as d, and first by name"},
		"another domain, by order": {func(_ *Needs, b, _, d *Facts) { b.Domain, d.MemFree = "rack1", 0 }, "c", "in another failure domain than the speaker, other than b"},
		"a failed one is last":     {func(n *Needs, _, _, _ *Facts) { n.Last = []string{"b"} }, "c", ""},
		"failed the longest ago": {func(n *Needs, _, _, _ *Facts) { n.Last = []string{"d", "c", "b"} }, "d",
			"failed less lately than c"},
		"fewer pairs": {func(_ *Needs, b, c, _ *Facts) { b.Accel = []string{"tcg"}; c.Pairs = 3 }, "d", "fewer pairs than c"},
		"more memory": {func(_ *Needs, b, _, d *Facts) { b.MemFree = 0; d.MemFree++ }, "d", "more free memory than c"},
		"by name":     {func(_ *Needs, b, _, _ *Facts) { b.MemFree = 0 }, "c", "as good as d"},
		"the only one": {func(_ *Needs, b, c, _ *Facts) { b.MemFree, c.MemFree = 0, 0 }, "d",
			"the only node that fits"},
		"none": {func(_ *Needs, b, c, d *Facts) { b.MemFree, c.MemFree, d.MemFree = 0, 0, 0 }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n, b, c, d := needs(), fits("b"), c, d
			x.change(&n, &b, &c, &d)
			node, why, refused := Choose(n, []Facts{d, b, c})
			if node != x.node || !strings.Contains(why, x.why) {
				t.Errorf("%q: %q, want %q: %q; refused %v", node, why, x.node, x.why, refused)
			}
			if node == "" && len(refused) != 3 {
				t.Errorf("refused %v", refused)
			}
		})
	}
}

// TestChooseAny: whatever the facts are, the choice does not depend on their
// order, is one that fits, and every node is either fit or refused.
func TestChooseAny(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		n := needs()
		var all []Facts
		fit := 0
		for i := range 1 + rnd.IntN(6) {
			f := fits(fmt.Sprint("n", i))
			f.Pairs, f.MemFree = rnd.IntN(3), uint64(rnd.IntN(6))*gib
			f.Domain = fmt.Sprint("rack", rnd.IntN(3))
			if rnd.IntN(4) == 0 {
				n.Last = append(n.Last, f.Name)
			}
			if rnd.IntN(3) == 0 {
				n.Listed = append(n.Listed, f.Name)
			}
			all = append(all, f)
		}
		for _, f := range all {
			if len(Check(n, f)) == 0 {
				fit++
			}
		}
		node, why, refused := Choose(n, all)
		if len(refused)+fit != len(all) || (node == "") != (fit == 0) || (why == "") != (fit == 0) || refused[node] != "" {
			t.Fatalf("%d of %d fit; chose %q (%s), refused %v", fit, len(all), node, why, refused)
		}
		rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if again, _, _ := Choose(n, all); again != node {
			t.Fatalf("chose %q, and %q from the same in another order", node, again)
		}
		if got := Refusals(refused); strings.Count(got, "MiB of memory are free") != len(refused) {
			t.Fatalf("%d refused: %s", len(refused), got)
		}
	}
}

// TestChooseMany: pairs that choose at once, from the same old facts, do not all choose the same node. With the better of
// two, the node with the fewest pairs is drawn twice as often as the average.
func TestChooseMany(t *testing.T) {
	const nodes, pairs = 100, 4000
	var all []Facts
	for i := range nodes {
		f := fits(fmt.Sprintf("n%02d", i))
		f.Pairs = 20 + i%7
		all = append(all, f)
	}
	all[50].Pairs = 0 // one that has just been added
	got := map[string]int{}
	for i := range pairs {
		n := needs()
		n.Pair, n.Listed = fmt.Sprint("pair", i), []string{"lost1", "lost2"}
		node, why, _ := Choose(n, all)
		if !strings.Contains(why, "drawn out of 100 equals") {
			t.Fatal(why)
		}
		got[node]++
		n.Last = []string{node} // it refused
		if again, _, _ := Choose(n, all); again == node {
			t.Fatalf("%s chosen again for pair%d although it refused", node, i)
		}
	}
	most, mean := 0, pairs/nodes
	for _, n := range got {
		most = max(most, n)
	}
	if most > 3*mean || got["n50"] < mean {
		t.Errorf("of %d pairs %d chose one node, %d the empty one; on the average it is %d", pairs, most, got["n50"], mean)
	}
	if len(got) < nodes*3/4 {
		t.Errorf("only %d of %d nodes were chosen", len(got), nodes)
	}
}

func BenchmarkChoose(b *testing.B) {
	var all []Facts
	for i := range 1000 {
		all = append(all, fits(fmt.Sprintf("n%03d", i)))
	}
	n := needs()
	for b.Loop() {
		Choose(n, all)
	}
}
