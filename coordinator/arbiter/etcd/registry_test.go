package etcd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"colod/coordinator/arbiter"
	"colod/coordinator/registry"
)

func TestRegistry(t *testing.T) {
	c := newCluster(t, 1)
	a, b := c.open(t), c.open(t)
	ctx := within(t, longEnough)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	na := registry.Node{Name: "a", Address: "198.51.100.1:7420", Boot: 7, Updated: now, Domain: "rack1", QEMU: "10.0.2", Accel: []string{"kvm", "tcg"}, CPUs: 2, MemTotal: 1 << 35, Pairs: []string{"p"}}
	nb := registry.Node{Name: "b", Address: "198.51.100.2:7420", Boot: 8, Updated: now}
	for _, n := range []registry.Node{nb, na} {
		if err := a.RegisterNode(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	nodes := func(want ...registry.Node) {
		t.Helper()
		got, err := b.Nodes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("nodes (-want +got):\n%s", d)
		}
	}
	nodes(na, nb)
	na.MemFree = 5
	if err := a.RegisterNode(ctx, na); err != nil {
		t.Fatal(err)
	}
	nodes(na, nb)

	rp := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	must(t, a, arbiter.Record{}, record("q", 1, "b", ""))
	va := registry.View{Pair: "p", Node: "a", State: "protected", Role: "speaker", Generation: 1, Protected: true, Since: now, Updated: now}
	vb := registry.View{Pair: "p", Node: "b", State: "protected", Role: "secondary", Generation: 1, Since: now, Updated: now}
	vo := registry.View{Pair: "only-seen", Node: "b", State: "idle", Since: now, Updated: now}
	for _, some := range [][]registry.View{{vb, vo}, {va}, {}} {
		if err := b.Publish(ctx, some...); err != nil {
			t.Fatal(err)
		}
	}
	pairs := func(want ...registry.Pair) {
		t.Helper()
		got, err := a.Pairs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("pairs (-want +got):\n%s", d)
		}
	}
	q := registry.Pair{Name: "q", Record: record("q", 1, "b", "")}
	pairs(registry.Pair{Name: "only-seen", Views: []registry.View{vo}}, registry.Pair{Name: "p", Record: rp, Views: []registry.View{va, vb}}, q)

	if err := a.Forget(ctx, "p", "a"); err != nil {
		t.Fatal(err)
	}
	if err := a.ForgetNode(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	nodes(na)
	pairs(registry.Pair{Name: "p", Record: rp}, q)

	// What others wrote there is shown as far as it can be.
	c.put(t, a, a.nodeKey("z"), "?")
	c.put(t, a, a.viewKey("a", "p"), "?")
	c.put(t, a, a.recordKey("q"), "?")
	c.put(t, a, a.cfg.Prefix+"/pairs/x/else", "?")
	c.put(t, a, a.cfg.Prefix+"/views/strange", "?")
	nodes(na, registry.Node{Name: "z"})
	got, err := a.Pairs(ctx)
	if err != nil || len(got) != 2 || len(got[0].Views) != 1 || got[0].Views[0].Reason == "" || got[1].Broken == "" {
		t.Errorf("pairs with foreign entries: %+v, %v", got, err)
	}
	for name, err := range map[string]error{
		"node": a.RegisterNode(ctx, registry.Node{Name: "a/b"}), "view": a.Publish(ctx, registry.View{Pair: "p", Node: ""}),
		"view's pair": a.Publish(ctx, registry.View{Pair: "../p", Node: "a"}), "forget": a.Forget(ctx, "p", "/"),
		"forget's pair": a.Forget(ctx, "", "a"), "forget node": a.ForgetNode(ctx, ""),
		"large": a.RegisterNode(ctx, registry.Node{Name: "a", CPU: strings.Repeat("x", maxEntry)}),
	} {
		if err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	// No registry is in the way of the records.
	holds(t, b, rp)
}

// TestPublishMany: the views of a node with many pairs are few requests.
func TestPublishMany(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	ctx := within(t, longEnough)
	views := make([]registry.View, 5*maxOps/2)
	for i := range views {
		views[i] = registry.View{Pair: fmt.Sprintf("p%03d", i), Node: "a", State: "protected"}
	}
	if err := a.Publish(ctx, views...); err != nil {
		t.Fatal(err)
	}
	pairs, err := a.Pairs(ctx)
	if err != nil || len(pairs) != len(views) {
		t.Fatalf("%d pairs, %v", len(pairs), err)
	}
	revisions := map[int64]bool{}
	kvs, err := a.list(ctx, a.viewKey("a", ""))
	if err != nil {
		t.Fatal(err)
	}
	for i, kv := range kvs[0] {
		revisions[kv.ModRevision] = true
		if p := pairs[i]; len(p.Views) != 1 || p.Views[0] != views[i] {
			t.Errorf("%+v, want %+v", p.Views, views[i])
		}
	}
	if len(revisions) != 3 {
		t.Errorf("%d views are %d requests", len(views), len(revisions))
	}
	views[maxOps].Pair = "../x"
	if err := a.Publish(ctx, views...); err == nil {
		t.Error("a wrong name was taken")
	}
}

// TestSpec: the description of a pair is written by one node and read by
// another; a pair is forgotten with all views of it, and its record stays.
func TestSpec(t *testing.T) {
	c := newCluster(t, 1)
	a, b := c.open(t), c.open(t)
	ctx := within(t, longEnough)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if s, err := b.Spec(ctx, "p"); err != nil || s.Pair != "" {
		t.Fatalf("none: %+v, %v", s, err)
	}
	want := registry.Spec{Pair: "p", Node: "a", Config: []byte(`{"name":"p"}`), Updated: now}
	if err := a.PutSpec(ctx, want); err != nil {
		t.Fatal(err)
	}
	got, err := b.Spec(ctx, "p")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("description (-want +got):\n%s", d)
	}
	must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	for _, node := range []string{"a", "b"} {
		if err := a.Publish(ctx, registry.View{Pair: "p", Node: node, State: "stopped", Since: now, Updated: now}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ForgetPair(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Spec(ctx, "p"); err != nil || s.Pair != "" {
		t.Errorf("forgotten: %+v, %v", s, err)
	}
	pairs, err := a.Pairs(ctx)
	if err != nil || len(pairs) != 1 || len(pairs[0].Views) != 0 || pairs[0].Record.Generation != 1 {
		t.Errorf("pairs: %+v, %v", pairs, err)
	}
	for _, err := range []error{a.PutSpec(ctx, registry.Spec{Pair: "../x"}), a.ForgetPair(ctx, ""), func() error { _, err := a.Spec(ctx, "a/b"); return err }()} {
		if err == nil || !strings.Contains(err.Error(), "is not the name of a pair") {
			t.Errorf("wrong name: %v", err)
		}
	}
	big := registry.Spec{Pair: "p", Config: []byte(`"` + strings.Repeat("x", maxEntry) + `"`)}
	if err := a.PutSpec(ctx, big); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too large: %v", err)
	}
}
