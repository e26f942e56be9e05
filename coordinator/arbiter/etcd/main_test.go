package etcd

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colod/coordinator/arbiter"
	lab "colod/internal/lab/etcd"
	"colod/internal/lab/etcd/etcdtest"
	"colod/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// cluster is a real etcd cluster. The arbiters that are opened on it must leave no goroutine behind.
type cluster struct{ *etcdtest.Cluster }

func newCluster(t *testing.T, n int, change ...func(*lab.Config)) *cluster {
	t.Helper()
	verifyLeaks(t)
	return &cluster{etcdtest.Start(t, n, change...)}
}

// watched are the tests that are checked at their end already.
var watched sync.Map

// verifyLeaks checks after everything that the test opens later is closed.
func verifyLeaks(t *testing.T) {
	if _, again := watched.LoadOrStore(t, true); again {
		return
	}
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// config is what a node is configured with.
func (c *cluster) config(t *testing.T) Config {
	t.Helper()
	f := c.Identity(t, "a")
	return Config{Endpoints: c.Endpoints(), TLS: TLS{CA: f.CA, Cert: f.Cert, Key: f.Key}, Dial: c.Dial}
}

// open opens an arbiter, until the test ends.
func (c *cluster) open(t *testing.T, change ...func(*Config)) *Arbiter {
	t.Helper()
	cfg := c.config(t)
	for _, f := range change {
		f(&cfg)
	}
	a, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// within is a context for one operation of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

const longEnough = 30 * time.Second

func record(pair string, generation uint64, speaker, standby string) arbiter.Record {
	return arbiter.Record{Pair: pair, Generation: generation, Speaker: speaker, Standby: standby, Reason: fmt.Sprintf("generation %d", generation)}
}

// must makes a swap that has to be won.
func must(t *testing.T, a *Arbiter, prev, next arbiter.Record) arbiter.Record {
	t.Helper()
	got, err := a.Swap(within(t, longEnough), prev, next)
	if err != nil {
		t.Fatal(err)
	}
	if got != next {
		t.Fatalf("won swap returned %v, want %v", got, next)
	}
	return got
}

func holds(t *testing.T, a *Arbiter, want arbiter.Record) {
	t.Helper()
	got, err := a.Get(within(t, longEnough), want.Pair)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("record is %v, want %v", got, want)
	}
}

// leader is the index of the member that leads.
func (c *cluster) leader(t *testing.T, a *Arbiter) int {
	t.Helper()
	// On a busy machine the members may be about to elect another one.
	for deadline := time.Now().Add(longEnough); ; time.Sleep(20 * time.Millisecond) {
		for i, e := range a.endpoints {
			ctx := within(t, 5*time.Second)
			st, err := e.client.Status(ctx, c.Endpoints()[i])
			if err == nil && st.Leader == st.Header.MemberId {
				return i
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no member leads")
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
