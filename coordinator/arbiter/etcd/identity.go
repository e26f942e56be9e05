package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A cluster's identity is a random value that the first node to come writes beside the records. Every transaction
// checks it, so endpoints of two clusters, which would be two arbiters, are found out before they do harm. etcd's own
// cluster ID does not serve: clusters with default settings all have the same one.

// Identity is the identity of the cluster. Two nodes of a pair must see the same one.
func (a *Arbiter) Identity(ctx context.Context) (string, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	id, err := a.pin(ctx)
	return id, named("read identity of etcd", false, err)
}

// pin returns the identity, which at the first contact is read, or written if there is none.
func (a *Arbiter) pin(ctx context.Context) (string, error) {
	a.mu.Lock()
	id := a.identity
	a.mu.Unlock()
	if id != "" {
		return id, nil
	}
	fresh := newToken()
	id, _, err := ask(ctx, a, func(ctx context.Context, e *endpoint) (string, error) {
		res, err := e.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(a.identityKey()), "=", 0)).
			Then(clientv3.OpPut(a.identityKey(), fresh)).Else(clientv3.OpGet(a.identityKey())).Commit()
		if err != nil {
			return "", err
		}
		if res.Succeeded {
			return fresh, nil
		}
		if len(res.Responses) == 1 {
			if kv := only(res.Responses[0].GetResponseRange()); kv != nil && len(kv.Value) > 0 {
				return string(kv.Value), nil
			}
		}
		return "", &CorruptError{Key: a.identityKey(), Why: "it is empty"}
	})
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.identity == "" {
		a.identity = id
	}
	return a.identity, nil
}

// sameIdentity checks the identity that came with an answer.
func sameIdentity(want string, kv *mvccpb.KeyValue) error {
	var have string
	if kv != nil {
		have = string(kv.Value)
	}
	if have != want {
		return &OtherClusterError{Want: want, Have: have}
	}
	return nil
}

// Check asks every endpoint once, each within Config.Attempt or ctx, and returns what is wrong with them, joined;
// nil if all are well and of one cluster. A cluster works with a majority of its members, so an error is a warning
// as long as Get works.
func (a *Arbiter) Check(ctx context.Context) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	type answer struct {
		e    *endpoint
		have string
		err  error
	}
	answers := make(chan answer, len(a.endpoints))
	for _, e := range a.endpoints {
		go func() {
			actx, acancel := context.WithTimeout(ctx, a.cfg.Attempt)
			defer acancel()
			e.wake()
			res, err := e.kv.Get(actx, a.identityKey())
			ans := answer{e: e, err: err}
			if err == nil && len(res.Kvs) > 0 {
				ans.have = string(res.Kvs[0].Value)
			}
			answers <- ans
		}()
	}
	want, _ := a.pin(ctx) // its failure is told by the endpoints, below
	problems := make([]error, len(a.endpoints))
	for range a.endpoints {
		ans := <-answers
		err := ans.err
		if err == nil && want != "" && ans.have != want {
			// Asked once more if the question came before the first node's identity.
			err = a.checkIdentity(ctx, ans.e, want)
		}
		if err != nil {
			ep := a.explain(ans.e.url, err)
			problems[ans.e.index] = &ep
		}
	}
	return errors.Join(problems...)
}

func (a *Arbiter) checkIdentity(ctx context.Context, e *endpoint, want string) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Attempt)
	defer cancel()
	res, err := e.kv.Get(ctx, a.identityKey())
	if err != nil {
		return err
	}
	var kv *mvccpb.KeyValue
	if len(res.Kvs) > 0 {
		kv = res.Kvs[0]
	}
	return sameIdentity(want, kv)
}
