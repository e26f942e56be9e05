package etcd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/coordinator/arbiter"
	"colod/internal/certs"
	lab "colod/internal/lab/etcd"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	ca, err := certs.NewAuthority("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	node, err := ca.Issue("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(ca.Save(file("ca.pem"), file("ca.key")), node.Save(file("a.pem"), file("a.key")),
		os.WriteFile(file("text"), []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	good := TLS{CA: file("ca.pem"), Cert: file("a.pem"), Key: file("a.key")}
	one := []string{"https://198.51.100.11:2379"}
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no endpoints":        {Config{TLS: good}, "no endpoints"},
		"no scheme":           {Config{TLS: good, Endpoints: []string{"member:2379"}}, "https://host:port"},
		"no port":             {Config{TLS: good, Endpoints: []string{"https://198.51.100.11"}}, "https://host:port"},
		"path":                {Config{TLS: good, Endpoints: []string{"https://198.51.100.11:2379/v3"}}, "nothing else"},
		"unencrypted":         {Config{TLS: good, Endpoints: []string{"http://198.51.100.11:2379"}}, "who speaks"},
		"unencrypted and not": {Config{Plain: true, Endpoints: one}, "switched off"},
		"twice":               {Config{TLS: good, Endpoints: append(one, one...)}, "twice"},
		"prefix":              {Config{TLS: good, Endpoints: one, Prefix: "colod/"}, "prefix"},
		"negative":            {Config{TLS: good, Endpoints: one, Hedge: -1}, "negative"},
		"no files":            {Config{Endpoints: one}, "ca, cert and key"},
		"no authority":        {Config{Endpoints: one, TLS: TLS{CA: file("none"), Cert: good.Cert, Key: good.Key}}, "none"},
		"authority":           {Config{Endpoints: one, TLS: TLS{CA: file("text"), Cert: good.Cert, Key: good.Key}}, "no certificate in"},
		"key of another":      {Config{Endpoints: one, TLS: TLS{CA: good.CA, Cert: good.Cert, Key: file("ca.key")}}, "a.pem"},
	} {
		a, err := Open(t.Context(), tc.cfg)
		if err == nil {
			a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{TLS: good, Endpoints: one}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	if _, err := Open(t.Context(), Config{TLS: good, Endpoints: make([]string, maxEndpoints+1)}); err == nil {
		t.Error("too many endpoints")
	}
}

// strange are the files of node a by an authority that the cluster does not know.
func strange(t *testing.T) TLS {
	t.Helper()
	stranger, err := certs.NewAuthority("stranger", 0)
	if err != nil {
		t.Fatal(err)
	}
	node, err := stranger.Issue("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a.key")}
	if err := errors.Join(stranger.Save(f.CA, filepath.Join(dir, "ca.key")), node.Save(f.Cert, f.Key)); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMutualTLS(t *testing.T) {
	c := newCluster(t, 1)
	s := strange(t)
	refused := func(what, want string, change func(*Config)) {
		t.Helper()
		a := c.open(t, change)
		for range 2 {
			refusedWith(t, what+": read", func(ctx context.Context) error {
				_, err := a.Get(ctx, "p")
				if err != nil && !strings.Contains(err.Error(), a.cfg.Endpoints[0]) {
					t.Errorf("%s: read: %v names no endpoint", what, err)
				}
				return err
			}, want)
			refusedWith(t, what+": swap", func(ctx context.Context) error {
				_, err := a.Swap(ctx, arbiter.Record{}, record("p", 1, "a", ""))
				if errors.Is(err, arbiter.ErrUnknown) {
					t.Errorf("%s: swap: %v", what, err)
				}
				return err
			}, want)
			refusedWith(t, what+": check", a.Check, want)
		}
	}
	refused("wrong authority", "is not signed by the authority in "+s.CA, func(cfg *Config) { cfg.TLS.CA = s.CA })
	refused("certificate of a stranger", "refuses the certificate "+s.Cert, func(cfg *Config) { cfg.TLS.Cert, cfg.TLS.Key = s.Cert, s.Key })
	refused("wrong name", "server_name", func(cfg *Config) { cfg.TLS.ServerName = "elsewhere" })
	refused("nobody listens", "nothing listens", func(cfg *Config) { cfg.Endpoints = []string{"https://127.0.0.1:9"} })
	refused("no TLS", "wants https", func(cfg *Config) {
		cfg.Endpoints = []string{strings.Replace(c.Endpoints()[0], "https", "http", 1)}
		cfg.Plain = true
	})

	plain := newCluster(t, 1, func(cfg *lab.Config) { cfg.Plain = true })
	a := c.open(t, func(cfg *Config) {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return plain.NS.Dial(ctx, "tcp", addr) }
	})
	refusedWith(t, "TLS to a member without", func(ctx context.Context) error {
		_, err := a.Get(ctx, "p")
		return err
	}, "speaks no TLS")

	// A certificate's name can stand for all members.
	named := c.open(t, func(cfg *Config) { cfg.TLS.ServerName = "m1" })
	must(t, named, arbiter.Record{}, record("p", 1, "a", ""))
	holds(t, c.open(t), record("p", 1, "a", ""))
}

// TestRenewedCertificate: a renewed certificate is taken at the next connection, without a restart.
func TestRenewedCertificate(t *testing.T) {
	c := newCluster(t, 1)
	f, err := c.Client("a")
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Client("renewed")
	if err != nil {
		t.Fatal(err)
	}
	s := strange(t)
	a := c.open(t, func(cfg *Config) { cfg.TLS = TLS{CA: f.CA, Cert: s.Cert, Key: s.Key} })
	if _, err := a.Get(within(t, time.Second), "p"); err == nil {
		t.Fatal("a stranger was let in")
	}
	if err := errors.Join(os.Rename(g.Cert, s.Cert), os.Rename(g.Key, s.Key)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get(within(t, longEnough), "p"); err != nil {
		t.Errorf("with the renewed certificate: %v", err)
	}
}

func TestTwoClustersAreFoundOut(t *testing.T) {
	ca, err := certs.NewAuthority("both", 0)
	if err != nil {
		t.Fatal(err)
	}
	with := func(port int) func(*lab.Config) {
		return func(cfg *lab.Config) { cfg.Authority = ca; cfg.Members[0].ClientPort = port }
	}
	one, two := newCluster(t, 1, with(2379)), newCluster(t, 1, with(3379))
	endpoints := append(one.Endpoints(), two.Endpoints()...)
	both := func(cfg *Config) {
		cfg.Endpoints = endpoints
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":3379") {
				return two.NS.Dial(ctx, "tcp", addr)
			}
			return one.NS.Dial(ctx, "tcp", addr)
		}
	}
	a := one.open(t, both)
	must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	var other *OtherClusterError
	if err := a.Check(within(t, longEnough)); !errors.As(err, &other) || !strings.Contains(err.Error(), endpoints[1]) || strings.Contains(err.Error(), endpoints[0]) {
		t.Errorf("check: %v", err)
	}
	// Even with the right one gone nothing is decided by the other.
	if err := one.Kill(0); err != nil {
		t.Fatal(err)
	}
	// A busy machine may not come to ask it in the time that is left.
	found := func(op func(context.Context) error) (err error) {
		deadline := time.Now().Add(longEnough)
		for limit := 700 * time.Millisecond; ; limit = min(2*limit, 5*time.Second) {
			if err = op(within(t, limit)); err == nil || errors.As(err, &other) || time.Now().After(deadline) {
				return err
			}
		}
	}
	swap := func(ctx context.Context) error {
		_, err := a.Swap(ctx, record("p", 1, "a", ""), record("p", 2, "a", "b"))
		return err
	}
	if err := found(swap); !errors.As(err, &other) || errors.Is(err, arbiter.ErrLost) {
		t.Errorf("swap at another cluster: %v", err)
	}
	if err := found(func(ctx context.Context) error { _, err := a.Get(ctx, "p"); return err }); !errors.As(err, &other) {
		t.Errorf("read at another cluster: %v", err)
	}
	b := two.open(t)
	if r, err := b.Get(within(t, longEnough), "p"); err != nil || r.Exists() {
		t.Errorf("the other cluster was written: %v, %v", r, err)
	}
	if err := one.Restart(0); err != nil {
		t.Fatal(err)
	}
	if err := one.WaitHealthy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	x, err := one.open(t).Identity(within(t, longEnough))
	if err != nil {
		t.Fatal(err)
	}
	y, err := a.Identity(within(t, longEnough))
	if err != nil || x != y {
		t.Errorf("identity is %q and %q, %v", x, y, err)
	}
	if z, err := b.Identity(within(t, longEnough)); err != nil || z == x {
		t.Errorf("identity of the other is %q, %v", z, err)
	}
	// A cluster that was emptied is another one.
	if _, err := a.endpoints[0].kv.Delete(within(t, longEnough), a.identityKey()); err != nil {
		t.Fatal(err)
	}
	if err := found(swap); !errors.As(err, &other) || !strings.Contains(err.Error(), "emptied") {
		t.Errorf("swap at an emptied cluster: %v", err)
	}
}

func TestCheckOfAHealthyCluster(t *testing.T) {
	c := newCluster(t, 3)
	a := c.open(t)
	if err := a.Check(within(t, longEnough)); err != nil {
		t.Errorf("all well: %v", err)
	}
	if err := c.Kill(1); err != nil {
		t.Fatal(err)
	}
	// The others may have to elect a leader first.
	for deadline := time.Now().Add(longEnough); ; time.Sleep(20 * time.Millisecond) {
		err := a.Check(within(t, longEnough))
		if err != nil && strings.Contains(err.Error(), c.Endpoints()[1]) && !strings.Contains(err.Error(), c.Endpoints()[0]) &&
			!strings.Contains(err.Error(), c.Endpoints()[2]) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("one of three gone: %v", err)
		}
	}
}

// refusedWith carries out what must be refused until the refusal says want: within
// longer and longer times, as a busy machine may not even come to be refused
// in the first, and as a member may break a connection off before its refusal
// was read.
func refusedWith(t *testing.T, what string, fn func(context.Context) error, want string) {
	t.Helper()
	deadline := time.Now().Add(longEnough)
	for limit := 400 * time.Millisecond; ; limit = min(2*limit, 5*time.Second) {
		err := fn(within(t, limit))
		switch {
		case err == nil:
			t.Errorf("%s: not refused, want %q", what, want)
			return
		case strings.Contains(err.Error(), want):
			return
		case time.Now().After(deadline):
			t.Errorf("%s: %v, want %q", what, err, want)
			return
		}
	}
}

// TestFilesReplaced: authority and certificate are those that the files hold when a connection is made.
func TestFilesReplaced(t *testing.T) {
	c := newCluster(t, 1)
	good, err := c.Client("a")
	if err != nil {
		t.Fatal(err)
	}
	own := strange(t)
	get := func(a *Arbiter) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.Get(ctx, "p")
			return err
		}
	}
	replace := func(from, to string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(to+".new", to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a := c.open(t, func(cfg *Config) { cfg.TLS = own })
	refusedWith(t, "another authority", get(a), "is not signed by the authority in "+own.CA)
	replace(good.CA, own.CA)
	refusedWith(t, "certificate of a stranger", get(a), "refuses the certificate "+own.Cert)
	replace(good.Cert, own.Cert)
	refusedWith(t, "certificate without its key", get(a), "private key does not match")
	replace(good.Key, own.Key)
	must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
}
