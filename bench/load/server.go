// Package load is the servers and clients of the data path's benchmarks. Servers answer with the same bytes
// whoever runs them, as the two guests of a pair must.
package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the servers.
const (
	portEcho   = 7
	portDown   = 80
	portUp     = 81
	portShort  = 82
	portHTTP   = 8080
	portRedis  = 6379
	shortReply = 512
	httpReply  = 10 << 10
)

// bulk is what downloads and uploads consist of.
var bulk = func() []byte {
	b := make([]byte, 1<<18)
	for i := range b {
		b[i] = byte(i*31 + i>>8)
	}
	return b
}()

// Serve runs all servers on an address, says "ready" on standard output and ends with standard input.
func Serve(ip string) error {
	for port, handle := range map[int]func(net.Conn){portEcho: echo, portDown: down, portUp: up, portShort: short} {
		l, err := listen(ip, port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					handle(c)
				}()
			}
		}()
	}
	u, err := net.ListenPacket("udp", net.JoinHostPort(ip, strconv.Itoa(portEcho)))
	if err != nil {
		return err
	}
	go echoUDP(u.(*net.UDPConn))
	hl, err := listen(ip, portHTTP)
	if err != nil {
		return err
	}
	go http.Serve(hl, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil // the guests' clocks are not under test
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(bulk[:httpReply])
	}))
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// blocking takes the descriptor out of the runtime's poller: a thread waits in the kernel then, as in most servers, and
// latencies are not those of the Go scheduler.
func blocking(c syscall.Conn) (*os.File, int, error) {
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, -1, err
	}
	return f, int(f.Fd()), nil // Fd sets it to blocking
}

func echo(c net.Conn) {
	f, fd, err := blocking(c.(*net.TCPConn))
	if err != nil {
		return
	}
	defer f.Close()
	c.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 1<<16)
	for {
		n, err := read(fd, buf)
		if err != nil || n <= 0 || writeAll(fd, buf[:n]) != nil {
			return
		}
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func echoUDP(u *net.UDPConn) {
	f, fd, err := blocking(u)
	if err != nil {
		return
	}
	defer f.Close()
	runtime.LockOSThread()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		unix.Sendto(fd, buf[:n], 0, from)
	}
}

// down sends as many bytes as each request of 8 bytes says.
func down(c net.Conn) {
	var req [8]byte
	for {
		if _, err := io.ReadFull(c, req[:]); err != nil {
			return
		}
		for n := int(binary.BigEndian.Uint64(req[:])); n > 0; {
			k, err := c.Write(bulk[:min(n, len(bulk))])
			if err != nil {
				return
			}
			n -= k
		}
	}
}

// up answers the end of what it is sent with its length.
func up(c net.Conn) {
	buf := make([]byte, 1<<18)
	var n uint64
	for {
		k, err := c.Read(buf)
		n += uint64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	c.Write(binary.BigEndian.AppendUint64(nil, n))
}

// short answers one request and closes.
func short(c net.Conn) {
	var req [64]byte
	if _, err := io.ReadFull(c, req[:]); err == nil {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		c.Write(bulk[:shortReply])
	}
}
