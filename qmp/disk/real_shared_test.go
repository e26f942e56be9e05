package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRealShared: both sides read one image, neither can write it, and nobody else may.
func TestRealShared(t *testing.T) {
	a, b := newHost(t, "a"), newHost(t, "b")
	a.makeImages()
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = 42
	}
	path := filepath.Join(a.dir, "shared.raw")
	if err := os.WriteFile(path, data, 0o400); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{a, b} {
		h.layout.Disks = append(h.layout.Disks, Disk{Path: path, Format: Raw, Size: 1 << 20, Kind: Shared})
	}
	a.launch(false)
	x := protect(t, a, b)
	x.checkpoint()
	a.reads(1, 42, "0", "1M")
	b.reads(1, 42, "0", "1M")
	if out := a.io(1, "write -P 1 0 64k"); strings.Contains(out, "bytes at offset") {
		t.Errorf("a shared disk was written: %s", out)
	}
	// As a disk to be written it is locked.
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newHost(t, "c", Raw)
	c.layout.Disks[0].Path, c.layout.Disks[0].Size = path, 1<<20
	c.unchecked = true
	if err := c.tryLaunch(testContext(t, 60*time.Second), false); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("a second user who writes: %v", err)
	}
	a.end()
	x.takeOver()
	b.reads(1, 42, "0", "1M")
	if err := b.layout.Check(testContext(t, 60*time.Second), false); !errors.Is(err, ErrImage) {
		t.Errorf("check of images in use: %v", err)
	}
}
