package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"colod/coordinator/registry"
)

// Keys of the registry:
//
//	<prefix>/nodes/<node>               registry.Node
//	<prefix>/views/<node>/<pair>        registry.View
//	<prefix>/specs/<pair>               registry.Spec
//	<prefix>/pairs/<pair>/record        the record

const (
	// maxEntry bounds an entry, in bytes.
	maxEntry = 16 << 10
	// maxEntries bounds what a list reads: far more than one cluster serves.
	maxEntries = 10000
)

func (a *Arbiter) nodeKey(node string) string { return a.cfg.Prefix + "/nodes/" + node }

func (a *Arbiter) viewKey(node, pair string) string {
	return a.cfg.Prefix + "/views/" + node + "/" + pair
}

// RegisterNode writes a node's entry.
func (a *Arbiter) RegisterNode(ctx context.Context, n registry.Node) error {
	op := "register node " + n.Name
	if err := checkName("node", n.Name); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return a.write(ctx, op, a.nodeKey(n.Name), n)
}

// maxOps bounds the operations of one transaction: half of what etcd takes (server/embed/config.go, DefaultMaxTxnOps = 128).
const maxOps = 64

// Publish writes what a node sees of its pairs: up to maxOps of them at a time, of which all or none are there.
func (a *Arbiter) Publish(ctx context.Context, views ...registry.View) error {
	for some := range slices.Chunk(views, maxOps) {
		op := "publish pair " + some[0].Pair
		if len(some) > 1 {
			op = fmt.Sprintf("publish %d pairs", len(some))
		}
		var ops []clientv3.Op
		for _, v := range some {
			if err := checkName("node", v.Node); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			if err := checkName("pair", v.Pair); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			put, err := put(a.viewKey(v.Node, v.Pair), v)
			if err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			ops = append(ops, put)
		}
		if err := a.change(ctx, op, ops...); err != nil {
			return err
		}
	}
	return nil
}

func (a *Arbiter) write(ctx context.Context, op, key string, entry any) error {
	put, err := put(key, entry)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return a.change(ctx, op, put)
}

// put is the writing of an entry.
func put(key string, entry any) (clientv3.Op, error) {
	value, err := json.Marshal(entry)
	if err != nil {
		return clientv3.Op{}, err
	}
	if len(value) > maxEntry {
		return clientv3.Op{}, fmt.Errorf("entry of %d bytes, at most %d allowed", len(value), maxEntry)
	}
	return clientv3.OpPut(key, string(value)), nil
}

// ForgetNode removes a node's entry and views.
func (a *Arbiter) ForgetNode(ctx context.Context, name string) error {
	op := "forget node " + name
	if err := checkName("node", name); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return a.change(ctx, op, clientv3.OpDelete(a.nodeKey(name)), clientv3.OpDelete(a.viewKey(name, ""), clientv3.WithPrefix()))
}

// Forget removes a node's view of a pair.
func (a *Arbiter) Forget(ctx context.Context, pair, node string) error {
	op := "forget pair " + pair
	if err := checkName("node", node); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := checkName("pair", pair); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return a.change(ctx, op, clientv3.OpDelete(a.viewKey(node, pair)))
}

func (a *Arbiter) specKey(pair string) string { return a.cfg.Prefix + "/specs/" + pair }

// PutSpec writes the description of a pair.
func (a *Arbiter) PutSpec(ctx context.Context, s registry.Spec) error {
	op := "write description of pair " + s.Pair
	if err := checkName("pair", s.Pair); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return a.write(ctx, op, a.specKey(s.Pair), s)
}

// Spec reads the description of a pair.
func (a *Arbiter) Spec(ctx context.Context, pair string) (registry.Spec, error) {
	op := "read description of pair " + pair
	if err := checkName("pair", pair); err != nil {
		return registry.Spec{}, fmt.Errorf("%s: %w", op, err)
	}
	s, _, err := ask(ctx, a, func(ctx context.Context, e *endpoint) (registry.Spec, error) {
		res, err := e.kv.Get(ctx, a.specKey(pair))
		if err != nil || len(res.Kvs) == 0 {
			return registry.Spec{}, err
		}
		var s registry.Spec
		if err := json.Unmarshal(res.Kvs[0].Value, &s); err != nil || s.Pair != pair {
			return registry.Spec{}, &CorruptError{Key: a.specKey(pair), Why: "it is not the description of the pair"}
		}
		return s, nil
	})
	return s, named(op, false, err)
}

// ForgetPair removes what the registry has of a pair. Its record stays.
func (a *Arbiter) ForgetPair(ctx context.Context, pair string) error {
	op := "forget pair " + pair
	if err := checkName("pair", pair); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	all, err := a.Pairs(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	ops := []clientv3.Op{clientv3.OpDelete(a.specKey(pair))}
	for _, p := range all {
		if p.Name == pair {
			for _, v := range p.Views {
				ops = append(ops, clientv3.OpDelete(a.viewKey(v.Node, pair)))
			}
		}
	}
	return a.change(ctx, op, ops...)
}

// change carries out operations that may be carried out twice. One that arrives late can undo a newer one of the same
// node, until the node's next.
func (a *Arbiter) change(ctx context.Context, op string, ops ...clientv3.Op) error {
	_, _, err := ask(ctx, a, func(ctx context.Context, e *endpoint) (struct{}, error) {
		_, err := e.kv.Txn(ctx).Then(ops...).Commit()
		return struct{}{}, err
	})
	return named(op, false, err)
}

// Nodes lists the nodes.
func (a *Arbiter) Nodes(ctx context.Context) ([]registry.Node, error) {
	const op = "list nodes"
	kvs, err := a.list(ctx, a.nodeKey(""))
	if err != nil {
		return nil, named(op, false, err)
	}
	var nodes []registry.Node
	for _, kv := range kvs[0] {
		var n registry.Node
		name := strings.TrimPrefix(string(kv.Key), a.nodeKey(""))
		if err := json.Unmarshal(kv.Value, &n); err != nil || n.Name != name {
			// Somebody else's, or of a newer colod: it is shown that there is something.
			n = registry.Node{Name: name}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// Pairs lists the pairs.
func (a *Arbiter) Pairs(ctx context.Context) ([]registry.Pair, error) {
	const op = "list pairs"
	kvs, err := a.list(ctx, a.cfg.Prefix+"/pairs/", a.viewKey("", "")[:len(a.cfg.Prefix+"/views/")])
	if err != nil {
		return nil, named(op, false, err)
	}
	pairs := map[string]*registry.Pair{}
	at := func(name string) *registry.Pair {
		if pairs[name] == nil {
			pairs[name] = &registry.Pair{Name: name}
		}
		return pairs[name]
	}
	for _, kv := range kvs[0] {
		name, ok := strings.CutSuffix(strings.TrimPrefix(string(kv.Key), a.cfg.Prefix+"/pairs/"), "/record")
		if !ok || checkName("pair", name) != nil {
			continue
		}
		st, why := decodeRecord(kv.Value, name)
		p := at(name)
		if p.Broken = why; why == "" {
			p.Record = st.Record
		}
	}
	for _, kv := range kvs[1] {
		node, pair, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), a.cfg.Prefix+"/views/"), "/")
		if !ok || checkName("pair", pair) != nil || checkName("node", node) != nil {
			continue
		}
		var v registry.View
		if err := json.Unmarshal(kv.Value, &v); err != nil || v.Pair != pair || v.Node != node {
			v = registry.View{Pair: pair, Node: node, Reason: "its entry cannot be read"}
		}
		at(pair).Views = append(at(pair).Views, v) // in the keys' order: by node
	}
	var all []registry.Pair
	for _, p := range pairs {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(x, y registry.Pair) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// list reads all keys with the prefixes, at one moment.
func (a *Arbiter) list(ctx context.Context, prefixes ...string) ([][]*mvccpb.KeyValue, error) {
	var ops []clientv3.Op
	for _, p := range prefixes {
		ops = append(ops, clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithLimit(maxEntries)))
	}
	kvs, _, err := ask(ctx, a, func(ctx context.Context, e *endpoint) ([][]*mvccpb.KeyValue, error) {
		res, err := e.kv.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, err
		}
		if len(res.Responses) != len(ops) {
			return nil, fmt.Errorf("transaction answered with %d parts, not %d", len(res.Responses), len(ops))
		}
		var all [][]*mvccpb.KeyValue
		for _, r := range res.Responses {
			all = append(all, r.GetResponseRange().GetKvs())
		}
		return all, nil
	})
	return kvs, err
}
