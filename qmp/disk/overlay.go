package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// MakeOverlays makes the directory and the empty overlays of a new secondary, in place of older ones.
func (l *Layout) MakeOverlays(ctx context.Context) error {
	if !l.Replicates() {
		return nil
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory of overlays: %w", err)
	}
	for _, i := range l.replicated() {
		d := &l.Disks[i]
		for _, o := range []struct{ path, backing, format string }{
			{l.hidden(i), d.Path, d.Format}, {l.active(i), l.hidden(i), QCOW2},
		} {
			if err := os.Remove(o.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("make overlay: %w", err)
			}
			// With lazy reference counts QEMU marks an overlay as soon as it writes into it, and clears the mark
			// when it empties or closes it: so a dead QEMU's overlay says whether it holds anything.
			if _, err := img(ctx, "create", "-q", "-u", "-f", QCOW2, "-o", "compat=1.1,lazy_refcounts=on",
				"-b", o.backing, "-F", o.format, o.path, strconv.FormatInt(d.Size, 10)); err != nil {
				return fmt.Errorf("make overlay: %w", err)
			}
		}
	}
	return nil
}

// RemoveOverlays deletes the overlays. None there is no error.
func (l *Layout) RemoveOverlays() error {
	var errs []error
	for _, i := range l.replicated() {
		for _, path := range []string{l.active(i), l.hidden(i)} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove overlay: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// Uncommitted reports whether overlays of a dead VM hold anything that counts. Overlays whose marks are clear
// do not: they are empty, or QEMU has committed and closed them, and the guest has gone on in the image.
func (l *Layout) Uncommitted() (bool, error) {
	any := false
	for _, i := range l.replicated() {
		for _, path := range []string{l.active(i), l.hidden(i)} {
			yes, err := dirty(path)
			if err != nil {
				return false, fmt.Errorf("disk %d: what was written after the takeover cannot be told: %w", i, err)
			}
			any = any || yes
		}
	}
	return any, nil
}

// commitDead writes what the overlays of a dead VM hold into the images. It may be done again from the start.
func (l *Layout) commitDead(ctx context.Context) error {
	for _, i := range l.replicated() {
		d := &l.Disks[i]
		if _, err := img(ctx, "commit", "-q", "-d", "-f", QCOW2, "-b", d.Path, l.active(i)); err != nil {
			return fmt.Errorf("disk %d: commit what was written after the takeover: %w", i, err)
		}
	}
	return nil
}

// dirty reports QEMU's mark in an image: bit 0 of the incompatible features of a qcow2 header of version 3
// (QEMU docs/interop/qcow2.txt: bytes 72 to 79, big endian).
func dirty(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var h [80]byte
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return false, fmt.Errorf("read header of %s: %w", path, err)
	}
	if string(h[:4]) != "QFI\xfb" || h[7] != 3 {
		return false, fmt.Errorf("read header of %s: it is no qcow2 image of version 3", path)
	}
	return h[79]&1 != 0, nil
}

// img runs qemu-img.
func img(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	var out, msg strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		var missing *exec.Error
		if errors.As(err, &missing) {
			return nil, fmt.Errorf("find qemu-img: %w: install it (Debian: apt install qemu-utils)", err)
		}
		said := strings.TrimSpace(strings.ReplaceAll(msg.String(), "\n", "; "))
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimPrefix(said, "qemu-img: "))
	}
	return []byte(out.String()), nil
}
