package etcd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func start(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if left := Processes(cfg.Dir); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
		if _, err := os.Stat(cfg.Dir); !os.IsNotExist(err) {
			t.Errorf("directory is left: %v", err)
		}
	})
	return c
}

func TestOneMember(t *testing.T) {
	for _, plain := range []bool{true, false} {
		ns := netnstest.New(t, "etcd")
		c := start(t, Config{Dir: filepath.Join(t.TempDir(), "c"), Members: Local(ns.Name(), 1), Plain: plain})
		ctx := t.Context()
		if err := c.Health(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(0); err != nil {
			t.Fatal(err)
		}
		if err := c.Health(ctx, 0); err == nil {
			t.Fatal("a member that was ended is healthy")
		}
		if err := c.Restart(0); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitHealthy(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestThreeMembers(t *testing.T) {
	ns := netnstest.New(t, "etcd")
	c := start(t, Config{Dir: filepath.Join(t.TempDir(), "c"), Members: Local(ns.Name(), 3)})
	ctx := t.Context()
	if err := c.Pause(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Health(ctx, 0); err == nil {
		t.Error("a frozen member is healthy")
	}
	if err := c.WaitHealthy(ctx, 1); err != nil {
		t.Errorf("two of three: %v", err)
	}
	if err := c.Kill(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Health(ctx, 2); err == nil {
		t.Error("one of three is healthy")
	}
	if err := c.Continue(0); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitHealthy(ctx, 2); err != nil {
		t.Errorf("two of three again: %v", err)
	}
}

func TestRemoveFindsMembersOfAnotherProcess(t *testing.T) {
	ns := netnstest.New(t, "etcd")
	dir := filepath.Join(t.TempDir(), "c")
	c := start(t, Config{Dir: dir, Members: Local(ns.Name(), 1)})
	if got := Processes(dir); len(got) != 1 || got[0] != c.PID(0) {
		t.Fatalf("processes %v, want %d", got, c.PID(0))
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if got := Processes(dir); len(got) != 0 {
		t.Errorf("processes %v are left", got)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("remove nothing: %v", err)
	}
	if err := Remove("relative"); err == nil {
		t.Error("a relative directory was removed")
	}
}

func TestErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one := []Member{{Name: "m1"}}
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no etcd":        {Config{Dir: dir, Members: one, Binary: "no-such-etcd"}, "etcd-server"},
		"relative":       {Config{Dir: "x", Members: one}, "absolute"},
		"no member":      {Config{Dir: dir}, "needs a member"},
		"name":           {Config{Dir: dir, Members: []Member{{Name: "a=b"}}}, "not a member's name"},
		"twice":          {Config{Dir: dir, Members: []Member{{Name: "a"}, {Name: "a"}}}, "two members"},
		"address":        {Config{Dir: dir, Members: []Member{{Name: "a", Address: "host"}}}, "IP address"},
		"used directory": {Config{Dir: used, Members: one}, "not empty"},
		"no namespace":   {Config{Dir: dir, Members: []Member{{Name: "a", Namespace: "colod-none"}}}, "namespace"},
		"not etcd":       {Config{Dir: dir, Members: one, Binary: "false"}, "ended"},
	} {
		_, err := Start(t.Context(), tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: directory is left", name)
		}
	}
}
