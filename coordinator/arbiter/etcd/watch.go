package etcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"colod/coordinator/arbiter"
)

// watchPause is the wait before a watch that ended is begun at the next endpoint.
const watchPause = 200 * time.Millisecond

// Watch tells of changes of a pair's record until ctx ends or the arbiter is closed, which closes the channel. It is a
// hint: it may be late, and of several changes it may tell only the last. Nothing may depend on it but how soon a record
// is read.
func (a *Arbiter) Watch(ctx context.Context, pair string) (<-chan arbiter.Record, error) {
	if err := checkName("pair", pair); err != nil {
		return nil, err
	}
	if !a.begin() {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.ctx, cancel)
	out := make(chan arbiter.Record, 1)
	go func() {
		defer a.work.Done()
		defer close(out)
		defer cancel()
		defer stop()
		w := &watch{a: a, pair: pair, out: out}
		for n := int(a.preferred.Load()); ctx.Err() == nil; n++ {
			w.follow(ctx, a.endpoints[n%len(a.endpoints)])
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}()
	return out, nil
}

// watch is one watch, over all the streams that it lives through.
type watch struct {
	a    *Arbiter
	pair string
	out  chan arbiter.Record
	last arbiter.Record
}

// follow watches at one endpoint until its stream ends. It is etcd's stream itself and not clientv3's watcher, which
// would wait for this endpoint to come back and say nothing meanwhile.
func (w *watch) follow(ctx context.Context, e *endpoint) {
	// Cut off from a majority, a member would know of no change: it is to say so.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	e.wake()
	// A member that is frozen says nothing at all; later it is the connection's keepalive that finds out.
	created := time.AfterFunc(w.a.cfg.Attempt, cancel)
	defer created.Stop()
	stream, err := pb.NewWatchClient(e.client.ActiveConnection()).Watch(ctx)
	if err != nil {
		return
	}
	create := &pb.WatchCreateRequest{Key: []byte(w.a.recordKey(w.pair))}
	if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	for {
		res, err := stream.Recv()
		if err != nil || res.Canceled || !created.Stop() && res.Created {
			return
		}
		if res.Created {
			// What changed between two streams.
			if r, err := w.a.Get(ctx, w.pair); err == nil && r.Exists() {
				w.tell(r)
			}
		}
		for _, ev := range res.Events {
			if st, why := decodeRecord(ev.Kv.Value, w.pair); ev.Type == mvccpb.Event_PUT && why == "" {
				w.tell(st.Record)
			}
		}
	}
}

// tell leaves the newest record to be taken.
func (w *watch) tell(r arbiter.Record) {
	if r.Generation <= w.last.Generation {
		return
	}
	w.last = r
	for {
		select {
		case w.out <- r:
			return
		default:
		}
		select {
		case <-w.out:
		default:
		}
	}
}
