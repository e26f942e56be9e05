package netfilter_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"colod/netfilter"
	"colod/proxy/afpacket"
)

// refused opens a path that must be refused with a sentence, and with nothing changed.
func refused(t *testing.T, s *site, want error, words ...string) {
	t.Helper()
	before := snapshot(t, s)
	s.host.Must(func() error {
		p, err := netfilter.Open(s.config)
		if err == nil {
			t.Error("the path was opened")
			return p.Remove()
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the error does not say %q: %v", w, err)
			}
		}
		t.Log(err)
		return nil
	})
	if after := snapshot(t, s); after != before {
		t.Errorf("a refused path changed something. Before:\n%sAfter:\n%s", before, after)
	}
}

func (s *site) addTap(t testing.TB) netlink.Link {
	t.Helper()
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "vm0"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	s.host.Must(func() error { return s.host.Netlink().LinkAdd(tap) })
	return s.host.Device("vm0")
}

func (s *site) ip(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := s.host.Run(name, args...); err != nil {
		t.Fatal(out, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*testing.T, *site)
		want  error
		words []string
	}{
		{"no bridge", func(t *testing.T, s *site) { s.config.Bridge = "br9" }, netfilter.ErrMissing, []string{"br9", "network.bridge"}},
		{"bridge is none", func(t *testing.T, s *site) { s.config.Bridge = "port0" }, nil, []string{"port0", "veth", "not a bridge"}},
		{"tap is busy", func(t *testing.T, s *site) {
			s.addTap(t)
			s.host.Must(func() error {
				f, err := afpacket.OpenTap("vm0", 0)
				t.Cleanup(func() { f.Close() })
				return err
			})
		}, netfilter.ErrBusy, []string{"vm0", fmt.Sprintf("process %d (netfilter.test)", os.Getpid()), "network.tap"}},
		{"tap is no tap", func(t *testing.T, s *site) { s.ip(t, "ip", "link", "add", "vm0", "type", "veth") }, netfilter.ErrForeign, []string{"vm0", "veth"}},
		{"tap is of another owner", func(t *testing.T, s *site) {
			l := s.addTap(t)
			s.host.Must(func() error { return s.host.Netlink().LinkSetAlias(l, "colod:guest7") })
		}, netfilter.ErrForeign, []string{"vm0", "colod:guest7"}},
		{"tap is a port", func(t *testing.T, s *site) {
			s.addTap(t)
			s.ip(t, "ip", "link", "set", "vm0", "master", "br0")
		}, nil, []string{"vm0", "port of br0", "nomaster"}},
		{"tap has an address", func(t *testing.T, s *site) {
			s.addTap(t)
			s.host.Addr("vm0", "198.51.100.1/24")
		}, nil, []string{"vm0", "198.51.100.1/24"}},
		{"tap has queues", func(t *testing.T, s *site) {
			s.ip(t, "ip", "tuntap", "add", "vm0", "mode", "tap", "multi_queue")
		}, nil, []string{"vm0", "several queues"}},
		{"foreign filter on ingress", func(t *testing.T, s *site) {
			s.addTap(t)
			s.ip(t, "tc", "qdisc", "add", "dev", "vm0", "clsact")
			s.ip(t, "tc", "filter", "add", "dev", "vm0", "ingress", "prio", "1", "bpf", "da", "bytecode", "1,6 0 0 0")
		}, netfilter.ErrForeign, []string{"vm0", "filter bpf with priority 1 on ingress", "tc filter del dev vm0"}},
		{"foreign filter on egress", func(t *testing.T, s *site) {
			s.addTap(t)
			s.ip(t, "tc", "qdisc", "add", "dev", "vm0", "clsact")
			s.ip(t, "tc", "filter", "add", "dev", "vm0", "egress", "prio", "7", "u32", "match", "u32", "0", "0", "action", "mirred", "egress", "mirror", "dev", "port0")
		}, netfilter.ErrForeign, []string{"vm0", "filter u32 with priority 7 on egress"}},
		{"other ingress qdisc", func(t *testing.T, s *site) {
			s.addTap(t)
			s.ip(t, "tc", "qdisc", "add", "dev", "vm0", "ingress")
		}, netfilter.ErrForeign, []string{"vm0", "tc qdisc del dev vm0 ingress"}},
		{"uplink's name is taken", func(t *testing.T, s *site) { s.ip(t, "ip", "link", "add", "vm0up", "type", "bridge") }, netfilter.ErrForeign, []string{"vm0up", "bridge", "network.uplink"}},
		{"port's name is taken", func(t *testing.T, s *site) { s.ip(t, "ip", "link", "add", "vm0upbr", "type", "bridge") }, netfilter.ErrForeign, []string{"vm0upbr"}},
		{"names", func(t *testing.T, s *site) {
			s.config = netfilter.Config{Tap: "a/b", Uplink: "fourteenletter", Owner: "two words", MTU: 9, Dir: s.config.Dir}
		}, nil, []string{"no name of the bridge", "a/b", "fourteenletter", "at most 13", "MTU 9", "two words"}},
		{"same name", func(t *testing.T, s *site) { s.config.Uplink = "vm0" }, nil, []string{"same name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.setup(t, s)
			refused(t, s, c.want, c.words...)
		})
	}
}

// TestOneProcessAPath checks the lock, and that a journal of somebody else is respected when its process is gone.
func TestOneProcessAPath(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	refused(t, s, netfilter.ErrBusy, "vm0", fmt.Sprintf("process %d", os.Getpid()))
	s.host.Must(func() error {
		if removed, err := netfilter.Clean(s.config.Dir, "guest1"); !errors.Is(err, netfilter.ErrBusy) || len(removed) != 0 {
			t.Errorf("clean beside a running process: %v, %v", removed, err)
		}
		return nil
	})
	if err := p.Verify(); err != nil {
		t.Error(err)
	}
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	s.config.Owner = "guest2"
	refused(t, s, netfilter.ErrForeign, "vm0", "guest1")
	s.config.Owner = "guest1"
	s.config.Uplink = "other"
	refused(t, s, netfilter.ErrForeign, "vm0", "guest1", "vm0up")
	s.config.Uplink = "vm0up"
	p = s.open(t)
	// The same names in another network namespace are another path, beside it in the same directory.
	s2 := newSite(t)
	s2.config.Dir = s.config.Dir
	p2 := s2.open(t)
	if err := errors.Join(p2.Verify(), p.Verify(), p2.Remove(), p.Verify()); err != nil {
		t.Error(err)
	}
}
