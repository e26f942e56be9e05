package netfilter_test

import (
	"testing"

	"colod/internal/netnstest"
	"colod/netfilter"
)

// TestProbe checks that the probe's verdict is true, and that it changes nothing where it runs.
func TestProbe(t *testing.T) {
	host := netnstest.New(t, "host")
	host.Must(func() error {
		r, err := netfilter.Probe()
		if err != nil {
			return err
		}
		works := map[string]bool{}
		for _, f := range r.Features {
			t.Logf("%v %-30s %v", f.Needed, f.Name, f.Err)
			works[f.Name] = f.Err == nil
			if f.Err != nil && f.Cure == "" {
				t.Errorf("%s is missing, and no cure is named", f.Name)
			}
		}
		if r.Err() != nil || len(r.Missing()) != 0 {
			t.Errorf("a path can be made here (other tests do), and the probe says: %v", r.Err())
		}
		for _, name := range []string{"tap with virtio-net header", "veth pair", "bridge", "tc clsact", "tc drop of every frame", "tc redirect of every frame"} {
			if !works[name] {
				t.Errorf("%s was not found to work", name)
			}
		}
		return nil
	})
	if links := host.Links(); len(links) != 0 {
		t.Errorf("the probe left %v", links)
	}
}
