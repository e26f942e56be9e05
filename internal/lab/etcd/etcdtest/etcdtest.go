// Package etcdtest gives a test a real etcd cluster that goes with it.
package etcdtest

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"colod/internal/lab/etcd"
	"colod/internal/netnstest"
)

// Cluster is a cluster in a namespace of the test's own.
type Cluster struct {
	*etcd.Cluster
	NS *netnstest.NS
}

// Start starts n members; change may alter what they are made of. The test fails if they cannot be removed again.
func Start(t testing.TB, n int, change ...func(*etcd.Config)) *Cluster {
	t.Helper()
	ns := netnstest.New(t, "etcd")
	cfg := etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd"), Members: etcd.Local(ns.Name(), n)}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := etcd.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Cluster{c, ns}
}

// Dial connects to an address in the cluster's namespace.
func (c *Cluster) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return c.NS.Dial(ctx, "tcp", addr)
}

// Identity returns the files of a certificate that the cluster lets in.
func (c *Cluster) Identity(t testing.TB, name string) etcd.ClientFiles {
	t.Helper()
	f, err := c.Client(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
