package netfilter

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"colod/internal/netnstest"
)

// TestTapBelongsToTheUser makes a tap as a user with CAP_NET_ADMIN, as the service has it, and takes it as the same user
// without, as QEMU does.
func TestTapBelongsToTheUser(t *testing.T) {
	const user, noSetuidFixup = 65534, 4 // SECBIT_NO_SETUID_FIXUP: another user ID leaves the capabilities
	ns := netnstest.New(t, "host")
	var l *links
	ns.Must(func() (err error) { l, err = openLinks(); return err })
	defer l.close()
	ns.Must(func() error {
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, user, user, user); errno != 0 {
			return errno
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, user, user, user); errno != 0 {
			return errno
		}
		if os.Geteuid() != user {
			return errors.New("this thread is still root's")
		}
		if err := l.makeTap("vm0"); err != nil {
			return err
		}
		none := [2]unix.CapUserData{}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			return err
		}
		return l.idle("vm0")
	})
	tap := ns.Device("vm0").(*netlink.Tuntap)
	if tap.Owner != user || tap.Group != user {
		t.Errorf("the tap belongs to user %d and group %d", tap.Owner, tap.Group)
	}
}
