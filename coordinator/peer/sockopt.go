package peer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Keepalive and TCP_USER_TIMEOUT (tcp(7)) end connections to a vanished host
// that nobody else ends, such as a state relay that only receives.
const (
	keepIdle     = 5 * time.Second
	keepInterval = 2 * time.Second
	keepCount    = 5
	userTimeout  = 15 * time.Second
)

func setUserTimeout(t *net.TCPConn) {
	raw, err := t.SyscallConn()
	if err != nil {
		return // closed already; the next use says so
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
}
