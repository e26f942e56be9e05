package netfilter

import (
	"errors"
	"fmt"
)

var (
	// ErrForeign says that a device or rule in the way belongs to somebody else, and was left as it is.
	ErrForeign = errors.New("belongs to somebody else")
	// ErrBusy says that another process uses the tap, or works on the same path.
	ErrBusy = errors.New("is in use")
	// ErrMissing says that something which colod does not make (the bridge, /dev/net/tun) does not exist.
	ErrMissing = errors.New("does not exist")
	// ErrGone says that a device of an open path was deleted. Remove and Open make the path anew.
	ErrGone = errors.New("was deleted")
	// ErrUnsupported says that the kernel lacks a feature; Probe names all that are missing.
	ErrUnsupported = errors.New("the kernel has no such feature")
)

// Error is what the functions of this package return. It unwraps to the kernel's errno where there is one and to one of
// the Err values where one fits.
type Error struct {
	Op     string // what was attempted, such as "add filter drop to"
	Device string
	Err    error
	Cure   string // what the operator can do, or empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.Device, e.Err)
	if e.Cure != "" {
		s += " (" + e.Cure + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }
