package qmp

import "fmt"

// Version is a QEMU version.
type Version struct {
	Major, Minor, Micro int
	Package             string // the packager's name of it, may be empty
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Less reports whether v is older than major.minor.micro.
func (v Version) Less(major, minor, micro int) bool {
	if v.Major != major {
		return v.Major < major
	}
	if v.Minor != minor {
		return v.Minor < minor
	}
	return v.Micro < micro
}

// Support says whether COLO is known to work in a QEMU version.
type Support uint8

// The zero value is invalid.
const (
	_           Support = iota
	Supported           // tried by colod's tests
	Unverified          // not tried; the run-time check decides
	Unsupported         // known to be broken or too old
)

func (s Support) String() string {
	switch s {
	case Supported:
		return "supported"
	case Unverified:
		return "unverified"
	case Unsupported:
		return "unsupported"
	}
	return fmt.Sprintf("Support(%d)", uint8(s))
}

// Support classifies the version, with the reason in a sentence.
//
// Tried (2026-11): 7.2.22, 10.0.13, 11.1.3 work; in 10.0.2 every COLO migration ends as an ordinary
// one. Reported broken upstream: 10.1.
func (v Version) Support() (Support, string) {
	switch {
	case v.Major == 7 && v.Minor == 2:
		return Supported, "QEMU 7.2 is supported"
	case v.Major == 10 && v.Minor == 0 && v.Micro >= 13:
		return Supported, "QEMU 10.0.13 and later 10.0 are supported"
	case v.Major == 11 && v.Minor == 1:
		return Supported, "QEMU 11.1 is supported"
	case v.Less(7, 2, 0):
		return Unsupported, fmt.Sprintf("QEMU %s is too old: use 7.2, 10.0.13 or 11.1", v)
	case v.Major == 10 && v.Minor == 0 && v.Micro <= 2:
		return Unsupported, fmt.Sprintf("QEMU %s ends every COLO migration as an ordinary one: use 7.2, 10.0.13 or 11.1", v)
	default:
		return Unverified, fmt.Sprintf("QEMU %s has not been tried: COLO is checked when protection starts; 7.2, 10.0.13 and 11.1 are known to work", v)
	}
}

// wantsReturnPath reports whether x-colo needs the capability return-path as well.
func (v Version) wantsReturnPath() bool { return !v.Less(10, 2, 0) }
