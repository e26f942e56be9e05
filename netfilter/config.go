package netfilter

import (
	"errors"
	"fmt"
	"strings"
)

// Config describes the path of one guest. All devices are those of the network namespace of the thread that calls Open.
type Config struct {
	// Bridge is the bridge which clients are reached by. It must exist; nothing of it is changed but for one port more.
	Bridge string
	// Tap is the guest's tap. If it does not exist, a persistent one is made: virtio-net header, one queue, for QEMU's
	// `-netdev tap,ifname=NAME,script=no,downscript=no,vhost=off`.
	Tap string
	// Uplink is the name of the device by which frames come from and go to the bridge. The bridge's port is named
	// Uplink + "br", so that Uplink has at most 13 characters.
	Uplink string
	// MTU in bytes of tap, uplink and port; 0 means the bridge's. A port with a smaller one would lower the bridge's.
	MTU int
	// Owner is the name under which devices are marked (by their alias) and found again, such as the pair's name: 1 to 200
	// printable characters.
	Owner string
	// Dir holds lock and journal; empty means DefaultDir.
	Dir string
	// Running allows a tap which is not ours and has a reader: the guest is running already. It must not be the port of
	// a bridge.
	Running bool
	// FromBridge allows such a tap to be a port of Bridge: it is taken out of it, and the path begins as Pass, so that the
	// guest's connections go on. Remove and HandOver make it a port again.
	FromBridge bool
}

// PortName is the name of the bridge's port.
func (c Config) PortName() string { return c.Uplink + "br" }

// maxName is the longest name of a device (IFNAMSIZ without the end).
const maxName = 15

// Check says what is wrong with a configuration by itself.
func (c Config) Check() error {
	var errs []error
	names := []struct{ key, name string }{{"bridge", c.Bridge}, {"tap", c.Tap}, {"uplink", c.Uplink}}
	for i, n := range names {
		limit := maxName
		if n.key == "uplink" {
			limit = maxName - len("br")
		}
		switch {
		case n.name == "":
			errs = append(errs, fmt.Errorf("no name of the %s is given", n.key))
		case len(n.name) > limit:
			errs = append(errs, fmt.Errorf("%s %q: the name has %d characters, at most %d are possible", n.key, n.name, len(n.name), limit))
		case strings.ContainsAny(n.name, "/:% \t\n") || n.name == "." || n.name == "..":
			errs = append(errs, fmt.Errorf("%s %q: no name of a network device", n.key, n.name))
		}
		for _, o := range names[:i] {
			if n.name != "" && (o.name == n.name || o.name == c.PortName()) {
				errs = append(errs, fmt.Errorf("%s and %s have the same name %q", o.key, n.key, n.name))
			}
		}
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65521) {
		errs = append(errs, fmt.Errorf("MTU %d is not between 576 and 65521", c.MTU))
	}
	if c.Owner == "" || len(c.Owner) > 200 || strings.ContainsFunc(c.Owner, func(r rune) bool { return r <= ' ' || r == ':' || r == 0x7f }) {
		errs = append(errs, fmt.Errorf("owner %q: 1 to 200 characters without spaces and colons are possible", c.Owner))
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Op: "check", Device: "path " + c.Tap, Err: err}
	}
	return nil
}
