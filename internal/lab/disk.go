package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"colod/coordinator/config"
)

// DiskImage is the path of the guest's disk on a node.
func (l *Lab) DiskImage(node string) string { return filepath.Join(l.nodeDir(node), "disk.raw") }

// makeDisk makes the disk of node a, with an empty file system. colod makes those of the other nodes.
func (l *Lab) makeDisk(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("make the guest's disk: %w", err) }
	size, err := config.ParseSize(l.state.Disk)
	if err != nil {
		return fail(err)
	}
	path := l.DiskImage(NodeA)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	err = f.Truncate(int64(size))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fail(err)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4" // not in the path of everybody
	}
	if out, err := exec.CommandContext(ctx, mkfs, "-q", "-F", path).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("%s: %w: %s (package e2fsprogs)", mkfs, err, out))
	}
	return nil
}
