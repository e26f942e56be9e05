package disk

import (
	"errors"
	"strings"

	"colod/qmp"
)

// Errors that a caller decides on.
var (
	// ErrUnfinished: the image here is an unfinished copy of the other node's.
	ErrUnfinished = errors.New("unfinished copy")
	// ErrStale: another node's guest has gone on without this image.
	ErrStale = errors.New("older than another node's")
	// ErrUncertain: whether the overlays or the images hold the newest state cannot be told.
	ErrUncertain = errors.New("what they hold is not certain")
	// ErrImage: an image does not fit: absent, of another format or size, locked, no rights, no space.
	ErrImage = errors.New("image cannot be used")
)

// said reports whether QEMU answered err's command with an error whose text contains part.
func said(err error, part string) bool {
	var e *qmp.Error
	return errors.As(err, &e) && e.Cause == nil && strings.Contains(e.Desc, part)
}

// absent reports that QEMU refused because what was named is not there.
func absent(err error) bool {
	var e *qmp.Error
	if !errors.As(err, &e) || e.Cause != nil {
		return false
	}
	if e.Class == "DeviceNotFound" || e.Class == "DeviceNotActive" {
		return true
	}
	for _, s := range []string{"Failed to find node with node-name", "Cannot find device", "does not have child", "Job not found", "NBD server not running", "is not found"} {
		if strings.Contains(e.Desc, s) {
			return true
		}
	}
	return false
}
