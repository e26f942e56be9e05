package coordinator

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// SystemdNotify passes a state on to systemd, where colod runs under it.
func SystemdNotify(state string) {
	_, _ = daemon.SdNotify(false, state) // not being run by systemd is no error
}

// watchdogInterval is how often systemd wants a sign of life: half of its
// limit, 0 when it wants none.
func watchdogInterval() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil || d <= 0 {
		return 0
	}
	return d / 2
}
