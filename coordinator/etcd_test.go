package coordinator

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"colod/internal/lab/etcd"
)

// startEtcd starts a real etcd of one member for the pair, and makes it the
// arbiter of its nodes. prepare runs before.
func (p *testPair) startEtcd() *etcd.Cluster {
	p.t.Helper()
	ports := [2]int{}
	for i := range ports {
		_, port, err := net.SplitHostPort(freeAddr(p.t))
		if err != nil {
			p.t.Fatal(err)
		}
		ports[i], _ = strconv.Atoi(port)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	c, err := etcd.Start(ctx, etcd.Config{
		Dir: filepath.Join(p.dir, "etcd"), Authority: p.ca,
		Members: []etcd.Member{{Name: "m1", ClientPort: ports[0], PeerPort: ports[1]}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		for _, n := range p.nodes {
			n.stop(p.t)
		}
		if err := c.Close(); err != nil {
			p.t.Error(err)
		}
	})
	p.arbiterText = fmt.Sprintf("{etcd: {endpoints: [%q], timeout: 2s}}", c.Endpoints()[0])
	return c
}

// TestEtcd: the record in a real etcd; a node starts while it is away, a
// protected pair goes on without it, and who loses its peer then is mute
// until etcd is back.
func TestEtcd(t *testing.T) {
	p := newTestPair(t)
	c := p.startEtcd()
	if err := c.Kill(0); err != nil {
		t.Fatal(err)
	}
	a := p.start("a")
	p.await("a", "idle without a record", func(s PairStatus) bool { return s.State == "idle" && s.VM == nil })
	deadline := time.Now().Add(patience)
	for !strings.Contains(a.log.String(), "nothing listens there: start etcd") {
		if time.Now().After(deadline) {
			t.Fatalf("no word about the arbiter:\n%s", a.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := c.Restart(0); err != nil {
		t.Fatal(err)
	}
	p.start("b")
	p.protected("a", "b")

	if err := c.Kill(0); err != nil {
		t.Fatal(err)
	}
	p.protected("a", "b")
	p.vm("a").die("signal: killed")
	p.awaitState("b", "claiming", "secondary")
	time.Sleep(100 * time.Millisecond) // it has had time for a mistake
	if role := p.nodes["b"].role(); role != "secondary" {
		t.Errorf("data path of b is %s without the record", role)
	}
	if err := c.Restart(0); err != nil {
		t.Fatal(err)
	}
	p.protected("b", "a")
	if st := p.await("b", "status", func(PairStatus) bool { return true }); st.Generation < 4 {
		t.Errorf("generation %d after a takeover and a new protection", st.Generation)
	}
}
