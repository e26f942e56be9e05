package coordinator

import (
	"net"
	"strings"
	"testing"
	"time"

	"colod/coordinator/config"
	"colod/qmp/disk"
)

// talk lets say speak to a node whose images are described by layout, in the session of that name, and
// returns what that node's side ended with.
func talk(t *testing.T, l *disk.Layout, name string, say func(*diskTalker)) error {
	t.Helper()
	a, b := net.Pipe()
	s := newSession(name, "a", [32]byte{1})
	defer s.end()
	k := &disks{layout: l}
	done := make(chan error, 1)
	go func() { done <- k.answer(t.Context(), b, s) }()
	speaker := newTalker(a, s)
	say(speaker)
	speaker.close()
	select {
	case err := <-done:
		return err
	case <-time.After(60 * time.Second):
		t.Fatal("the other side waits for ever")
		return nil
	}
}

// TestDiskTalk: what two nodes say of their images, and what is remembered of it.
func TestDiskTalk(t *testing.T) {
	p := &config.Pair{Name: "g", Disks: []config.Disk{{Path: "/i/a", Format: "raw", Size: 1 << 30, Kind: "replicated"}}}
	l := diskLayout(p, t.TempDir())
	base := func() string {
		t.Helper()
		o, err := l.Offer()
		if err != nil {
			t.Fatal(err)
		}
		return o.Base
	}
	knows := func(want string, answer bool) func(string) (bool, error) {
		return func(b string) (bool, error) {
			if b != want {
				t.Errorf("offered %q, want %q", b, want)
			}
			return answer, nil
		}
	}
	whole := func(offered string, known bool) func(*diskTalker) {
		return func(d *diskTalker) {
			since, err := d.begin(knows(offered, known))
			if err != nil || (since != "") != known {
				t.Errorf("begin: %q, %v", since, err)
			}
			if base() != "" {
				t.Error("images that are being overwritten are offered")
			}
			if err := d.equal(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := talk(t, l, "s1", whole("", false)); err != nil || base() != "s1" {
		t.Errorf("%v, base %q", err, base())
	}
	if err := talk(t, l, "s2", whole("s1", true)); err != nil || base() != "s2" {
		t.Errorf("%v, base %q", err, base())
	}
	// Broken off before anything was copied: the images are what they were.
	if err := talk(t, l, "s3", func(d *diskTalker) { d.hear(time.Minute) }); err == nil || base() != "s2" {
		t.Errorf("%v, base %q", err, base())
	}
	for _, words := range [][]diskWord{{{}}, {{Equal: true}}} {
		err := talk(t, l, "s3", func(d *diskTalker) {
			d.hear(time.Minute)
			for _, w := range words {
				d.say(w)
			}
			if _, err := d.hear(time.Minute); err == nil || !strings.Contains(err.Error(), "out of turn") {
				t.Errorf("answer to %+v: %v", words, err)
			}
		})
		if err == nil || base() != "s2" {
			t.Errorf("%+v: %v, base %q", words, err, base())
		}
	}
	// In the middle of a copy they are worth nothing.
	err := talk(t, l, "s4", func(d *diskTalker) {
		if _, err := d.begin(knows("s2", true)); err != nil {
			t.Error(err)
		}
	})
	if err == nil || base() != "" || l.Usable() == nil {
		t.Errorf("%v, base %q, usable %v", err, base(), l.Usable())
	}
	if err := talk(t, l, "s5", whole("", false)); err != nil || l.Usable() != nil {
		t.Errorf("%v, usable %v", err, l.Usable())
	}
	// A flood is not read to its end.
	err = talk(t, l, "s6", func(d *diskTalker) {
		d.hear(time.Minute)
		d.conn.SetWriteDeadline(time.Now().Add(time.Minute))
		d.conn.Write([]byte(`{"copy":"` + strings.Repeat("x", 2*maxTalk)))
	})
	if err == nil || base() != "s5" {
		t.Errorf("%v, base %q", err, base())
	}
}

// TestFingerprintDisks: the layout of the disks is part of what two nodes compare, their paths are not.
func TestFingerprintDisks(t *testing.T) {
	p := config.Pair{Name: "g"}
	seen := map[string]int{fingerprint(&p): -1}
	for i, d := range []config.Disk{
		{Format: "raw", Size: 1 << 30, Kind: "replicated"}, {Format: "qcow2", Size: 1 << 30, Kind: "replicated"},
		{Format: "raw", Size: 1 << 31, Kind: "replicated"}, {Format: "raw", Size: 1 << 30, Kind: "shared"},
	} {
		d.Path = "/a"
		p.Disks = []config.Disk{d}
		f := fingerprint(&p)
		if j, dup := seen[f]; dup {
			t.Errorf("layouts %d and %d look the same", i, j)
		}
		seen[f] = i
		p.Disks[0].Path = "/b"
		if fingerprint(&p) != f {
			t.Errorf("layout %d: the path counts", i)
		}
	}
}
