package fleet

import (
	"context"
	"errors"
	"testing"

	"colod/coordinator/arbiter/etcd"
	"colod/internal/lab/etcd/etcdtest"
)

// connections is the number of arbiters, each with connections of its own, that the nodes share.
const connections = 16

// Cluster starts a real etcd cluster of that many members in a namespace of its own, and opens arbiters on it. All of it
// goes with t.
func Cluster(t testing.TB, members int, change ...func(*etcd.Config)) []Arbiter {
	c := etcdtest.Start(t, members)
	id := c.Identity(t, "fleet")
	conf := etcd.Config{Endpoints: c.Endpoints(), TLS: etcd.TLS{CA: id.CA, Cert: id.Cert, Key: id.Key}, Dial: c.Dial}
	for _, f := range change {
		f(&conf)
	}
	var all []Arbiter
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
