package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// info is the part of qemu-img's that counts.
type info struct {
	Virtual int64  `json:"virtual-size"`
	Actual  int64  `json:"actual-size"`
	Format  string `json:"format"`
	Backing string `json:"backing-filename"`
}

// minOverlaySpace is what the file system of the overlays must have free: they hold what both guests write
// between two checkpoints.
const minOverlaySpace = 256 << 20

// Check looks at every image as QEMU will use it, and finds out which are block devices. incoming is the check
// of a secondary's node, whose replicated images are made if they are absent, and need room for a whole copy.
// Every error wraps [ErrImage] and names the cure; all are returned at once.
func (l *Layout) Check(ctx context.Context, incoming bool) error {
	var errs []error
	for i := range l.Disks {
		d := &l.Disks[i]
		if err := d.check(ctx, incoming && d.Kind == Replicated); err != nil {
			errs = append(errs, fmt.Errorf("disk %d: %w: %w", i, ErrImage, err))
		}
	}
	if incoming && l.Replicates() {
		if err := l.checkOverlays(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", ErrImage, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Disk) check(ctx context.Context, target bool) error {
	st, err := os.Stat(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && target:
		if err := d.make(ctx); err != nil {
			return err
		}
		if st, err = os.Stat(d.Path); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: make it (qemu-img create -f %s %s %d) or correct the path", d.Path, d.Format, d.Path, d.Size)
	case err != nil:
		return err
	}
	switch {
	case st.Mode().Type() == fs.ModeDevice:
		d.Device = true
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a block device", d.Path)
	}
	want := uint32(unix.R_OK | unix.W_OK)
	if d.Kind == Shared {
		want = unix.R_OK
	}
	if err := unix.Access(d.Path, want); err != nil {
		return fmt.Errorf("%s: %w: colod and QEMU need to read and write it: correct its owner or mode", d.Path, err)
	}
	if d.Kind == Replicated && !d.Device {
		if err := d.checkLocks(); err != nil {
			return err
		}
	}
	// Read with its lock, as the lock of another process's is what the launch would fail at.
	out, err := img(ctx, "info", "--output=json", "-f", d.Format, d.Path)
	if err != nil {
		return d.explain(err)
	}
	var in info
	if err := json.Unmarshal(out, &in); err != nil {
		return fmt.Errorf("read qemu-img's words about %s: %w", d.Path, err)
	}
	switch {
	case in.Virtual != d.Size:
		return fmt.Errorf("%s has %d bytes, the configuration says %d: both nodes need images of one size: correct size, or resize the image (qemu-img resize -f %s %s %d)",
			d.Path, in.Virtual, d.Size, d.Format, d.Path, d.Size)
	case in.Backing != "":
		return fmt.Errorf("%s has the backing file %s, which would not be replicated: make it whole (qemu-img rebase -b '' %s)", d.Path, in.Backing, d.Path)
	}
	if target && !d.Device {
		return d.checkSpace(in)
	}
	return nil
}

// Bytes of an image that QEMU locks (block/file-posix.c): somebody writes it, or does not want others to.
const (
	lockWrites   = 101
	lockNoWrites = 201
)

// checkLocks refuses an image that another QEMU has: reading a raw one, as qemu-img does, does not meet its locks.
func (d *Disk) checkLocks() error {
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, at := range []int64{lockWrites, lockNoWrites} {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
			return nil //nolint:nilerr // this file system has none: QEMU will say what it needs
		}
		if l.Type != unix.F_UNLCK {
			return d.explain(errors.New("another QEMU has locked it"))
		}
	}
	return nil
}

// explain makes qemu-img's commonest complaints readable.
func (d *Disk) explain(err error) error {
	s := err.Error()
	switch {
	case strings.Contains(s, "lock"):
		return fmt.Errorf("%s is in use by another process (see lslocks or fuser -v %s): end it, or give the guest another image: %w", d.Path, d.Path, err)
	case strings.Contains(s, "not in qcow2 format"):
		return fmt.Errorf("%s is no qcow2 image: set format: raw, or convert it (qemu-img convert -O qcow2): %w", d.Path, err)
	}
	return fmt.Errorf("%s: %w", d.Path, err)
}

// make makes the image of a secondary.
func (d *Disk) make(ctx context.Context) error {
	if st, err := os.Stat(filepath.Dir(d.Path)); err != nil || !st.IsDir() {
		return fmt.Errorf("%s does not exist, nor does its directory: make the directory, the image is made by itself", d.Path)
	}
	if _, err := img(ctx, "create", "-q", "-f", d.Format, d.Path, strconv.FormatInt(d.Size, 10)); err != nil {
		return fmt.Errorf("make %s: %w", d.Path, err)
	}
	return os.Chmod(d.Path, 0o600)
}

// checkSpace refuses an image that cannot take a whole copy.
func (d *Disk) checkSpace(in info) error {
	free, err := freeSpace(filepath.Dir(d.Path))
	if err != nil {
		return err
	}
	if need := d.Size - in.Actual; free < need {
		return fmt.Errorf("%s may need %d bytes more, its file system has %d free: make room, or use a bigger one", d.Path, need, free)
	}
	return nil
}

func (l *Layout) checkOverlays() error {
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory of overlays: %w", err)
	}
	free, err := freeSpace(l.Dir)
	if err != nil {
		return err
	}
	var need int64
	for _, i := range l.replicated() {
		need += min(l.Disks[i].Size, minOverlaySpace)
	}
	if free < need {
		return fmt.Errorf("overlays in %s need %d bytes, its file system has %d free: make room there, or move state_dir", l.Dir, need, free)
	}
	return nil
}

// freeSpace is what an unprivileged process could still write on the file system of path, in bytes.
func freeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("look for free space at %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:unconvert // types differ between architectures
}
