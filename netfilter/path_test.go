package netfilter_test

import (
	"encoding/hex"
	"testing"
	"time"

	"colod/internal/netnstest"
	"colod/netfilter"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const guestMAC = "52:54:00:12:34:56"

// site is a host with a bridge, a client behind the bridge, and a guest behind the path's tap.
type site struct {
	host, client, guest *netnstest.NS
	config              netfilter.Config
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{host: netnstest.New(t, "host"), client: netnstest.New(t, "client"), guest: netnstest.New(t, "guest")}
	netnstest.Veth(s.client, "eth0", s.host, "port0")
	s.host.Bridge("br0", "port0")
	s.client.Addr("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.config = netfilter.Config{Bridge: "br0", Tap: "vm0", Uplink: "vm0up", Owner: "guest1", Dir: t.TempDir()}
	return s
}

// open opens the path; it is removed when the test ends.
func (s *site) open(t testing.TB) *netfilter.Path {
	t.Helper()
	var p *netfilter.Path
	s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (s *site) vm(t testing.TB) *netnstest.VM {
	t.Helper()
	return netnstest.NewVM(s.host, s.guest, netnstest.VMConfig{Tap: s.config.Tap, MAC: guestMAC,
		Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
}

func setMode(t testing.TB, p *netfilter.Path, m netfilter.Mode) {
	t.Helper()
	if err := p.SetMode(m); err != nil {
		t.Fatal(err)
	}
	if p.Mode() != m {
		t.Fatalf("mode is %v after SetMode(%v)", p.Mode(), m)
	}
	if err := p.Verify(); err != nil {
		t.Fatal(err)
	}
}

func TestSmoke(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	vm := s.vm(t)
	_ = vm
	t.Log(p.Mode())
	setMode(t, p, netfilter.Pass)
	out, err := s.client.Run("ping", "-c", "2", "192.0.2.2")
	t.Log(out, err)
	t.Log(s.host.Dump())
	o, err := s.host.Run("tc", "filter", "show", "dev", "vm0", "ingress")
	t.Log(o, err)
	setMode(t, p, netfilter.Steal)
	setMode(t, p, netfilter.Mute)
	setMode(t, p, netfilter.Pass)
}
