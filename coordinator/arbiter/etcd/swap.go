package etcd

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"colod/coordinator/arbiter"
)

// Get reads the record of pair.
func (a *Arbiter) Get(ctx context.Context, pair string) (arbiter.Record, error) {
	s, err := a.get(ctx, pair)
	return s.record, named("read record of pair "+pair, false, err)
}

// Swap replaces the record of a pair. See the package's comment for what happens to a swap whose answer is lost.
func (a *Arbiter) Swap(ctx context.Context, prev, next arbiter.Record) (arbiter.Record, error) {
	op := "swap record of pair " + next.Pair
	if err := checkSwap(prev, next); err != nil {
		return arbiter.Record{}, fmt.Errorf("%s: %w", op, err)
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	// What is known of prev's key; a swap that follows a read or a swap needs no further one.
	base, ok := a.newest(next.Pair)
	if !ok || base.record != prev {
		var err error
		if base, err = a.get(ctx, next.Pair); err != nil {
			return arbiter.Record{}, named(op, false, err)
		}
	}
	unknown := false
	for {
		if base.record != prev {
			return base.record, arbiter.ErrLost
		}
		writer := newToken()
		value, err := encodeRecord(next, writer)
		if err != nil {
			return arbiter.Record{}, fmt.Errorf("%s: %w", op, err)
		}
		now, left, err := a.put(ctx, base, value, next.Pair)
		unknown = unknown || left
		switch {
		case err != nil:
			return arbiter.Record{}, named(op, unknown, err)
		case now.writer == writer:
			return next, nil
		}
		// The key has another revision than base, so this swap is not applied, nor will it ever be: revisions only
		// grow. The same record under another revision was removed and written again by somebody's hand.
		base, unknown = now, false
	}
}

// put asks etcd to write value if the key is still as in base. It returns what the key holds after it.
func (a *Arbiter) put(ctx context.Context, base state, value []byte, pair string) (now state, left bool, err error) {
	identity, err := a.pin(ctx)
	if err != nil {
		return state{}, false, err
	}
	key := a.recordKey(pair)
	conditions := []clientv3.Cmp{
		clientv3.Compare(clientv3.Value(a.identityKey()), "=", identity),
		clientv3.Compare(clientv3.ModRevision(key), "=", base.revision),
	}
	if base.revision != 0 {
		// Revisions start anew where a backup of etcd is restored.
		conditions = append(conditions, clientv3.Compare(clientv3.Value(key), "=", string(base.raw)))
	}
	now, left, err = ask(ctx, a, func(ctx context.Context, e *endpoint) (state, error) {
		res, err := e.kv.Txn(ctx).If(conditions...).
			Then(clientv3.OpPut(key, string(value))).
			Else(clientv3.OpGet(a.identityKey()), clientv3.OpGet(key)).Commit()
		if err != nil {
			return state{}, err
		}
		if res.Succeeded {
			kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: res.Header.Revision}
			return stateOf(kv, key, pair)
		}
		if len(res.Responses) != 2 {
			return state{}, fmt.Errorf("transaction answered with %d parts, not 2", len(res.Responses))
		}
		if err := sameIdentity(identity, only(res.Responses[0].GetResponseRange())); err != nil {
			return state{}, err
		}
		return stateOf(only(res.Responses[1].GetResponseRange()), key, pair)
	})
	if err == nil {
		err = a.note(pair, base.record, now)
	}
	return now, left, err
}

// get reads the key of a pair.
func (a *Arbiter) get(ctx context.Context, pair string) (state, error) {
	if err := checkName("pair", pair); err != nil {
		return state{}, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	identity, err := a.pin(ctx)
	if err != nil {
		return state{}, err
	}
	before, _ := a.newest(pair)
	key := a.recordKey(pair)
	s, _, err := ask(ctx, a, func(ctx context.Context, e *endpoint) (state, error) {
		// A transaction, so that both keys are of one cluster and one moment. Its reads are linearizable.
		res, err := e.kv.Txn(ctx).Then(clientv3.OpGet(a.identityKey()), clientv3.OpGet(key)).Commit()
		if err != nil {
			return state{}, err
		}
		if len(res.Responses) != 2 {
			return state{}, fmt.Errorf("transaction answered with %d parts, not 2", len(res.Responses))
		}
		if err := sameIdentity(identity, only(res.Responses[0].GetResponseRange())); err != nil {
			return state{}, err
		}
		return stateOf(only(res.Responses[1].GetResponseRange()), key, pair)
	})
	if err == nil {
		err = a.note(pair, before.record, s)
	}
	return s, err
}

// only is the key-value of an answer to a question for one key; nil if there is none.
func only(r *pb.RangeResponse) *mvccpb.KeyValue {
	if r == nil || len(r.Kvs) == 0 {
		return nil
	}
	return r.Kvs[0]
}

func stateOf(kv *mvccpb.KeyValue, key, pair string) (state, error) {
	if kv == nil {
		return state{}, nil
	}
	st, why := decodeRecord(kv.Value, pair)
	if why != "" {
		return state{}, &CorruptError{Key: key, Why: why}
	}
	return state{record: st.Record, raw: kv.Value, revision: kv.ModRevision, writer: st.Writer}, nil
}

// newest is the newest state of a pair's key that was seen.
func (a *Arbiter) newest(pair string) (state, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.seen[pair]
	return s, ok
}

// note keeps the newest state. before was known when the question was put, so the answer must not be older.
func (a *Arbiter) note(pair string, before arbiter.Record, s state) error {
	if s.record.Generation < before.Generation {
		return &WentBackError{Key: a.recordKey(pair), Seen: before, Now: s.record}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.seen[pair]; !ok || s.record.Generation >= known.record.Generation {
		a.seen[pair] = s
	}
	return nil
}

// named gives an error of ask its operation.
func named(op string, unknown bool, err error) error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		e.Op, e.Unknown = op, unknown
		return e
	case unknown:
		return fmt.Errorf("%s: %w: %w", op, arbiter.ErrUnknown, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
