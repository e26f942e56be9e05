package colocompare

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/bench/rig"
)

// peer is a comparator in a process of its own, and this side of its sockets: primary, secondary, out, notify.
type peer struct {
	pid int
	fds [4]int
}

var socketNames = [4]string{"pri", "sec", "out", "ntf"}

// qemuArgs run colo-compare without a VM. The timeouts are shorter than QEMU's defaults of 3 s and 1 s, so that what it cannot match is
// told sooner; the queue limit is the default.
func qemuArgs(dir string) []string {
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-object", "iothread,id=io0"}
	for _, n := range socketNames {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", n, filepath.Join(dir, n)))
	}
	return append(args, "-object",
		"colo-compare,id=cmp0,primary_in=pri,secondary_in=sec,outdev=out,iothread=io0,notify_dev=ntf,compare_timeout=500,expired_scan_cycle=100,max_queue_size=1024")
}

// ourArgs run our comparator in the process of the benchmark's own program.
func ourArgs(dir string) []string {
	args := []string{"chardev", "-hold", "500ms"}
	for i, n := range socketNames {
		flag := [4]string{"-primary", "-secondary", "-out", "-notify"}[i]
		args = append(args, flag, "unix:"+filepath.Join(dir, n)+",server")
	}
	return args
}

// start runs a comparator and connects to it.
func start(t *rig.TB, program string, args func(dir string) []string) *peer {
	dir := t.TempDir()
	var text bytes.Buffer
	c := exec.Command(program, args(dir)...)
	c.Stderr = &text
	t.Start(c)
	p := &peer{pid: c.Process.Pid, fds: [4]int{-1, -1, -1, -1}}
	t.Cleanup(func() {
		for _, fd := range p.fds {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	})
	for i, n := range socketNames {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			conn, err := net.Dial("unix", filepath.Join(dir, n))
			if err == nil {
				p.fds[i], err = take(conn)
				t.Must(err)
				break
			}
			if time.Now().After(end) || t.Context().Err() != nil {
				t.Fatalf("connect to %s: %v\n%s", filepath.Base(program), err, text.String())
			}
		}
	}
	return p
}

// take takes a nonblocking descriptor out of the runtime's poller.
func take(c net.Conn) (int, error) {
	defer c.Close()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dup error
	if err := rc.Control(func(f uintptr) { fd, dup = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dup == nil {
		dup = unix.SetNonblock(fd, true)
	}
	return fd, os.NewSyscallError("fcntl", dup)
}

// unread is how many bytes of ours the peer has not read yet.
func unread(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}
