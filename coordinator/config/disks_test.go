package config

import (
	"strings"
	"testing"
)

// TestDisks: defaults of a disk, and each mistake with its place and cure.
func TestDisks(t *testing.T) {
	with := func(disks string) string {
		return strings.Replace(good, "name: guest1", "name: guest1\n    disks: "+disks, 1)
	}
	c, err := Parse("x.yaml", []byte(with("[{path: /d/a.qcow2, size: 8G}, {path: /dev/vg/b, format: raw, size: 1G}, {path: /d/ro, format: raw, size: 1M, kind: shared}]")))
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{{"/d/a.qcow2", "qcow2", 8 << 30, "replicated"}, {"/dev/vg/b", "raw", 1 << 30, "replicated"}, {"/d/ro", "raw", 1 << 20, "shared"}}
	for i, d := range c.Pairs[0].Disks {
		if d != want[i] {
			t.Errorf("disk %d: %+v, want %+v", i, d, want[i])
		}
	}
	for _, p := range []struct{ disks, want string }{
		{"[{size: 8G}]", "pairs[0].disks[0].path: the key is missing"},
		{"[{path: a.img, size: 8G}]", `pairs[0].disks[0].path: "a.img" is not an absolute path; write the path from / on`},
		{"[{path: /a}]", "pairs[0].disks[0].size: the key is missing"},
		{"[{path: /a, size: 1000K}]", "pairs[0].disks[0].size: 1000K is out of range; use 1M to 64T"},
		{"[{path: /a, size: 1G, format: vmdk}]", `pairs[0].disks[0].format: "vmdk" is not known; write one of raw, qcow2`},
		{"[{path: /a, size: 1G, kind: local}]", `pairs[0].disks[0].kind: "local" is not known; write one of replicated, shared`},
		{"[{path: /a, size: 1G, kind: shared-writable}]", "pairs[0].disks[0].kind: a disk that both nodes see and the guest writes is not offered: both copies of the guest would write it"},
		{"[{path: /a, size: 1G}, {path: /b/../a, size: 1G}]", "pairs[0].disks[1].path: /a is also the image of disk 0 of pair guest1; give each disk its own image"},
		{"[" + strings.Repeat("{path: /a, size: 1G, kind: shared},", 17) + "]", "pairs[0].disks: 17 disks are listed; list at most 16"},
	} {
		if _, err := Parse("x.yaml", []byte(with(p.disks))); err == nil || !strings.Contains(err.Error(), p.want) {
			t.Errorf("%s: error:\n%v\nwant one with:\n%s", p.disks, err, p.want)
		}
	}
}
