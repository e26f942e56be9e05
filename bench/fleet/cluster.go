package fleet

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"colod/coordinator/arbiter/etcd"
	lab "colod/internal/lab/etcd"
	"colod/internal/netnstest"
)

// connections is the number of arbiters, each with connections of its own, that the nodes share.
const connections = 16

// Cluster starts a real etcd cluster of that many members in a namespace of its own, and opens arbiters on it. All of it
// goes with t.
func Cluster(t testing.TB, members int, change ...func(*etcd.Config)) []Arbiter {
	ns := netnstest.New(t, "fleet-etcd")
	cfg := lab.Config{Dir: filepath.Join(t.TempDir(), "etcd"), Members: lab.Local(ns.Name(), members)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := lab.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	files, err := c.Client("fleet")
	if err != nil {
		t.Fatal(err)
	}
	var all []Arbiter
	conf := etcd.Config{
		Endpoints: c.Endpoints(), TLS: etcd.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key},
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return ns.Dial(ctx, "tcp", addr) },
	}
	for _, f := range change {
		f(&conf)
	}
	for range connections {
		a, err := etcd.Open(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := a.Close(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		all = append(all, a)
	}
	return all
}
