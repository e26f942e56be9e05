package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"colod/coordinator/config"
)

// Disk is a further disk of the guest, which nothing in it uses by itself: /dev/vdb and so on.
type Disk struct {
	Size string `json:"size"` // such as "64M"
	Kind string `json:"kind"` // "replicated" or "shared"
	// Image is the path of a shared disk, which must exist. Each node has that of a replicated one in its own
	// directory, where it is made.
	Image string `json:"image,omitempty"`
}

// DiskImage is the path of the guest's first disk on a node.
func (l *Lab) DiskImage(node string) string {
	if path := l.state.Images[node]; path != "" {
		return path
	}
	return filepath.Join(l.nodeDir(node), "disk.raw")
}

// MoreImage is the path of a further disk, the first of which is 0, on a node.
func (l *Lab) MoreImage(node string, i int) string {
	return filepath.Join(l.nodeDir(node), fmt.Sprintf("more%d.raw", i))
}

// diskConfig is one disk in a node's configuration file.
type diskConfig struct{ Path, Size, Kind string }

// disks are those of the guest as a node's configuration has them.
func (l *Lab) disks(node string) (all []diskConfig) {
	if l.state.Disk != "" {
		all = append(all, diskConfig{l.DiskImage(node), l.state.Disk, "replicated"})
	}
	for i, d := range l.state.MoreDisks {
		path := d.Image
		if path == "" {
			path = l.MoreImage(node, i)
		}
		all = append(all, diskConfig{path, d.Size, d.Kind})
	}
	return all
}

// makeDisks makes the images of node a, with empty file systems. colod makes those of the other nodes.
func (l *Lab) makeDisks(ctx context.Context) error {
	for _, d := range l.disks(NodeA) {
		if d.Kind != "replicated" {
			continue
		}
		if err := makeDisk(ctx, d.Path, d.Size); err != nil {
			return fmt.Errorf("make the guest's disk: %w", err)
		}
	}
	return nil
}

func makeDisk(ctx context.Context, path, length string) error {
	size, err := config.ParseSize(length)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != int64(size) {
		err = f.Truncate(int64(size))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4" // not in the path of everybody
	}
	if out, err := exec.CommandContext(ctx, mkfs, "-q", "-F", path).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s (package e2fsprogs)", mkfs, err, out)
	}
	return nil
}
