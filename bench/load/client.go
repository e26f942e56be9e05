package load

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what a client has measured. Latencies are in microseconds, from the request to the whole reply.
type Outcome struct {
	Ops     int     `json:"ops"`
	Bytes   int64   `json:"bytes"` // of replies, or sent by an upload
	Seconds float64 `json:"seconds"`
	Mean    float64 `json:"mean_us"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	Max     float64 `json:"max_us"`
	Again   int     `json:"again"` // datagrams sent again
	CPU     float64 `json:"cpu_s"` // of the client
	// Unserved are requests of an open loop that had no reply in the end.
	Unserved int `json:"unserved,omitempty"`
	// Parts are the rates of a load's parts, in operations a second.
	Parts map[string]float64 `json:"parts,omitempty"`
}

// Kind is a load.
type Kind struct {
	Name, About string
	Conns       int
	Bulk        bool // throughput matters, not the rate of operations
	run         func(*client) error
	Line        int // Mbit/s that the client's line carries; 0: what its devices can
}

// Kinds are all loads.
var Kinds = []Kind{
	{"down", "bulk download, 1 connection", 1, true, (*client).down, 0},
	{"up", "bulk upload, 1 connection", 1, true, (*client).up, 0},
	{"down-1g", "bulk download, 1 connection, a line of 1 Gbit/s", 1, true, (*client).down, 1000},
	{"up-1g", "bulk upload, 1 connection, a line of 1 Gbit/s", 1, true, (*client).up, 1000},
	{"down-2g5", "bulk download, 1 connection, a line of 2.5 Gbit/s", 1, true, (*client).down, 2500},
	{"up-2g5", "bulk upload, 1 connection, a line of 2.5 Gbit/s", 1, true, (*client).up, 2500},
	{"tcp-rr", "TCP request and response of 1 byte, 1 connection", 1, false, (*client).rr, 0},
	{"tcp-rr-16", "TCP request and response of 1 byte, 16 connections", 16, false, (*client).rr, 0},
	{"udp-rr", "UDP request and response of 1 byte", 1, false, (*client).udp, 0},
	{"connect", "short connections, 64 bytes asked and 512 answered, 4 at a time", 4, false, (*client).connect, 0},
	{"http", "HTTP, 10 KiB replies, 16 connections kept", 16, false, (*client).http, 0},
	{"redis", "redis, 1 SET to 9 GET of 100 bytes, 16 connections", 16, false, (*client).redis, 0},
}

// Single says whether one request at a time is under way, and its time is that of the path.
func (k Kind) Single() bool { return !k.Bulk && k.Conns == 1 }

// Find finds a load by its name.
func Find(name string) (Kind, bool) {
	all := slices.Concat(Kinds, GuestKinds)
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return all[i], true
}

type client struct {
	ip    string
	guest Guest
	each  time.Duration
	start time.Time

	mu  sync.Mutex
	all []time.Duration
	out Outcome
}

// Run puts the load k on the servers at ip for the time each.
func Run(k Kind, ip string, each time.Duration, guest Guest) (Outcome, error) {
	c := &client{ip: ip, guest: guest, each: each, start: time.Now()}
	errs := make(chan error, k.Conns)
	for range k.Conns {
		go func() { errs <- k.run(c) }()
	}
	var err error
	for range k.Conns {
		err = errors.Join(err, <-errs)
	}
	c.out.Seconds = time.Since(c.start).Seconds()
	if n := len(c.all); n > 0 {
		slices.Sort(c.all)
		us := func(d time.Duration) float64 { return float64(d) / 1e3 }
		var sum time.Duration
		for _, d := range c.all {
			sum += d
		}
		c.out.Ops, c.out.Mean = n, us(sum)/float64(n)
		c.out.P50, c.out.P99, c.out.Max = us(c.all[n/2]), us(c.all[n*99/100]), us(c.all[n-1])
	}
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		c.out.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
	}
	return c.out, err
}

func (c *client) over() bool { return time.Since(c.start) >= c.each }

func (c *client) dial(network string, port int) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: c.each + 10*time.Second, Control: control}).Dial(network, net.JoinHostPort(c.ip, strconv.Itoa(port)))
	if err == nil {
		conn.SetDeadline(time.Now().Add(c.each + 15*time.Second))
	}
	return conn, err
}

// done adds what one connection has measured.
func (c *client) done(all []time.Duration, bytes int64) {
	c.mu.Lock()
	c.all = append(c.all, all...)
	c.out.Bytes += bytes
	c.mu.Unlock()
}

func (c *client) down() error {
	conn, err := c.dial("tcp", portDown)
	if err != nil {
		return err
	}
	defer conn.Close()
	const part = 8 << 20
	req := binary.BigEndian.AppendUint64(nil, part)
	buf := make([]byte, 1<<18)
	// Two parts are asked for in advance, so that the stream never stops.
	if _, err := conn.Write(append(slices.Clone(req), req...)); err != nil {
		return err
	}
	var n int64
	for asked := int64(2 * part); n < asked; {
		k, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("download after %d bytes: %w", n, err)
		}
		if before := n / part; (n+int64(k))/part > before && !c.over() {
			asked += part
			if _, err := conn.Write(req); err != nil {
				return err
			}
		}
		n += int64(k)
	}
	c.done(nil, n)
	return nil
}

func (c *client) up() error {
	conn, err := c.dial("tcp", portUp)
	if err != nil {
		return err
	}
	defer conn.Close()
	var n int64
	for !c.over() {
		k, err := conn.Write(bulk)
		n += int64(k)
		if err != nil {
			return fmt.Errorf("upload after %d bytes: %w", n, err)
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	var reply [8]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return fmt.Errorf("upload of %d bytes: %w", n, err)
	}
	if got := int64(binary.BigEndian.Uint64(reply[:])); got != n {
		return fmt.Errorf("upload of %d bytes: %d arrived", n, got)
	}
	c.done(nil, n)
	return nil
}

func (c *client) rr() error {
	conn, err := c.dial("tcp", portEcho)
	if err != nil {
		return err
	}
	f, fd, err := blocking(conn.(syscall.Conn))
	if err != nil {
		return err
	}
	defer f.Close()
	conn.Close()
	if err := timeout(fd, c.each+10*time.Second); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := make([]time.Duration, 0, 1<<16)
	for b := []byte{1}; !c.over(); b[0]++ {
		start, want := time.Now(), b[0]
		if err := writeAll(fd, b); err != nil {
			return err
		}
		if n, err := read(fd, b); n != 1 || b[0] != want {
			return fmt.Errorf("echo %d: %d bytes, %v", len(all), n, err)
		}
		all = append(all, time.Since(start))
	}
	c.done(all, int64(len(all)))
	return nil
}

// read is read(2), gone on with after a signal of the Go runtime's.
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func timeout(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

func (c *client) udp() error {
	conn, err := c.dial("udp", portEcho)
	if err != nil {
		return err
	}
	f, fd, err := blocking(conn.(syscall.Conn))
	if err != nil {
		return err
	}
	defer f.Close()
	conn.Close()
	if err := timeout(fd, 300*time.Millisecond); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := make([]time.Duration, 0, 1<<16)
	var b [8]byte
	for i := uint64(1); !c.over(); i++ {
		start := time.Now()
		binary.BigEndian.PutUint64(b[:], i)
		if _, err := unix.Write(fd, b[:]); err != nil {
			return err
		}
		for {
			n, err := read(fd, b[:])
			if err == unix.EAGAIN {
				c.out.Again++
				if c.out.Again > 20 {
					return errors.New("datagrams are not answered")
				}
				binary.BigEndian.PutUint64(b[:], i)
				unix.Write(fd, b[:])
				continue
			}
			if err != nil {
				return err
			}
			if n == 8 && binary.BigEndian.Uint64(b[:]) == i {
				break
			}
		}
		all = append(all, time.Since(start))
	}
	c.done(all, 8*int64(len(all)))
	return nil
}

func (c *client) connect() error {
	var all []time.Duration
	buf := make([]byte, 2*shortReply)
	for !c.over() {
		start := time.Now()
		conn, err := c.dial("tcp", portShort)
		if err != nil {
			return err
		}
		_, err = conn.Write(bulk[:64])
		n := 0
		for err == nil {
			var k int
			k, err = conn.Read(buf[n:])
			n += k
		}
		conn.Close()
		if err != io.EOF || n != shortReply {
			return fmt.Errorf("connection %d: %d bytes, %w", len(all), n, err)
		}
		all = append(all, time.Since(start))
	}
	c.done(all, int64(len(all))*shortReply)
	return nil
}

func (c *client) http() error {
	conn, err := c.dial("tcp", portHTTP)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 1<<15)
	req := []byte("GET / HTTP/1.1\r\nHost: guest\r\n\r\n")
	var all []time.Duration
	var bytes int64
	for !c.over() {
		start := time.Now()
		if _, err := conn.Write(req); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n != httpReply {
			return fmt.Errorf("HTTP reply of %d bytes: %w", n, err)
		}
		bytes += n
		all = append(all, time.Since(start))
	}
	c.done(all, bytes)
	return nil
}

func (c *client) redis() error {
	conn, err := c.dial("tcp", portRedis)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	// A key of each connection's own, so that the order in which a server serves its connections does not show.
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	value := strings.Repeat("x", 100)
	set := fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(port), port, len(value), value)
	get := fmt.Sprintf("*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(port), port)
	var all []time.Duration
	for i := 0; !c.over(); i++ {
		start := time.Now()
		req, want := get, fmt.Sprintf("$%d\r\n", len(value))
		if i%10 == 0 {
			req, want = set, "+OK\r\n"
		}
		if _, err := io.WriteString(conn, req); err != nil {
			return err
		}
		got, err := r.ReadString('\n')
		if err != nil || got != want {
			return fmt.Errorf("redis answers %q: %w", got, err)
		}
		if i%10 != 0 {
			if _, err := r.Discard(len(value) + 2); err != nil {
				return err
			}
		}
		all = append(all, time.Since(start))
	}
	c.done(all, int64(len(all))*int64(len(value)))
	return nil
}
