package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	labclient "colod/internal/lab/client"
)

// GuestKinds are loads on the lab's guest: real servers in a virtual machine, on their own ports.
var GuestKinds = []Kind{
	{"ping", "ICMP echo, one every 10 ms", 1, false, (*client).ping, 0},
	{"wget", "bulk download over HTTP, 1 connection", 1, true, (*client).wget, 0},
	{"scp", "copy of a file of 4 MiB with scp, one after the other", 1, true, (*client).scp, 0},
	{"http-static", "HTTP, 10 KiB of static content, 16 connections kept", 16, false, (*client).guestStatic, 0},
	{"http-open", "the same at a fixed rate of requests, latency counted from the schedule", 1, false, (*client).open, 0},
	{"http-random", "HTTP, replies of 1 KiB that differ in every answer and between the guests, 16 connections kept", 16, false, (*client).guestRandom, 0},
	{"redis", "redis, 1 SET to 9 GET of 100 bytes, 16 connections", 16, false, (*client).redis, 0},
	{"compile", "compilation of C files of 150 functions with tcc, one process each", 1, false, (*client).compile, 0},
	{"mix", "system benchmark of the UnixBench kind: integer, float, syscall, pipe, switch, spawn, files", 1, false, (*client).mix, 0},
}

// guestPort is where the lab's guest serves HTTP.
const guestPort = 80

// Guest is what loads on the lab's guest need beside its address.
type Guest struct {
	Rate       int    // requests a second of http-open
	Key, Known string // files of the ssh client
}

func (c *client) guestStatic() error { return c.get("/static/10k", httpReply) }
func (c *client) guestRandom() error { return c.get("/random?bytes=1024", 1024) }

// get asks for the same path over one connection, one request at a time.
func (c *client) get(path string, want int64) error {
	g, err := c.connectHTTP()
	if err != nil {
		return err
	}
	defer g.Close()
	var all []time.Duration
	var bytes int64
	for !c.over() {
		start := time.Now()
		n, err := g.get(path)
		if err != nil || n != want {
			return fmt.Errorf("HTTP reply %d to %s of %d bytes: %w", len(all), path, n, err)
		}
		bytes += n
		all = append(all, time.Since(start))
	}
	c.done(all, bytes)
	return nil
}

// webConn is one kept connection.
type webConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *client) connectHTTP() (*webConn, error) {
	conn, err := c.dial("tcp", guestPort)
	if err != nil {
		return nil, err
	}
	return &webConn{conn, bufio.NewReaderSize(conn, 1<<16)}, nil
}

// get reads a whole reply and returns its length.
func (g *webConn) get(path string) (int64, error) {
	if _, err := io.WriteString(g, "GET "+path+" HTTP/1.1\r\nHost: guest\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(g.r, nil)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return n, err
}

// ping is ICMP echo as ping(8) does it, at a steady rate unless an answer is late.
func (c *client) ping() error {
	conn, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	defer conn.Close()
	const every = 10 * time.Millisecond
	id := uint16(os.Getpid())
	to := &net.IPAddr{IP: net.ParseIP(c.ip)}
	msg, buf := make([]byte, 64), make([]byte, 2048)
	var all []time.Duration
	for seq := uint16(1); !c.over(); seq++ {
		msg[0], msg[2], msg[3] = 8, 0, 0 // echo request
		binary.BigEndian.PutUint16(msg[4:], id)
		binary.BigEndian.PutUint16(msg[6:], seq)
		binary.BigEndian.PutUint16(msg[2:], ^sum16(msg))
		start := time.Now()
		if _, err := conn.WriteTo(msg, to); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		conn.SetReadDeadline(start.Add(2 * time.Second))
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if c.out.Again++; c.out.Again > 10 {
					return errors.New("ping: no answers")
				}
				break
			}
			if err != nil {
				return fmt.Errorf("ping: %w", err)
			}
			if n >= 8 && buf[0] == 0 && binary.BigEndian.Uint16(buf[4:]) == id && binary.BigEndian.Uint16(buf[6:]) == seq {
				all = append(all, time.Since(start))
				break
			}
		}
		time.Sleep(time.Until(start.Add(every)))
	}
	c.done(all, 64*int64(len(all)))
	return nil
}

// sum16 is the ones' complement sum of RFC 1071, of an even number of bytes.
func sum16(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// wget reads one long reply for the time given.
func (c *client) wget() error {
	g, err := c.connectHTTP()
	if err != nil {
		return err
	}
	defer g.Close()
	if _, err := io.WriteString(g, "GET /static/1000000m HTTP/1.1\r\nHost: guest\r\n\r\n"); err != nil {
		return err
	}
	var n int64
	for buf := make([]byte, 1<<18); !c.over(); {
		k, err := g.r.Read(buf)
		n += int64(k)
		if err != nil {
			return fmt.Errorf("download after %d bytes: %w", n, err)
		}
	}
	c.done(nil, n)
	return nil
}

// scp copies a file out of the guest with the real programs. Making the file is not counted.
func (c *client) scp() error {
	const mib = 4
	ctx, cancel := context.WithTimeout(context.Background(), c.each+time.Minute)
	defer cancel()
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, append(labclient.SSHArgs(c.guest.Key, c.guest.Known), args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	host := "root@" + c.ip
	if err := run("ssh", host, fmt.Sprintf("[ -f /tmp/blob ] || dd if=/bin/colod of=/tmp/blob bs=1M count=%d", mib)); err != nil {
		return err
	}
	c.start = time.Now()
	var all []time.Duration
	for len(all) == 0 || !c.over() {
		start := time.Now()
		if err := run("scp", "-q", host+":/tmp/blob", "/dev/null"); err != nil {
			return err
		}
		all = append(all, time.Since(start))
	}
	c.done(all, int64(len(all))*mib<<20)
	return nil
}

// open sends requests by a schedule that does not wait for replies, over as many connections as that takes. A latency
// counts from the moment at which the request was due: what a slow reply keeps others from is seen.
func (c *client) open() error {
	const conns, grace = 64, 10 * time.Second
	rate := max(c.guest.Rate, 1)
	total := int(c.each.Seconds() * float64(rate))
	due := make(chan time.Time, total)
	var mu sync.Mutex
	var all []time.Duration
	var bytes int64
	var errs error
	var wg sync.WaitGroup
	for range conns {
		g, err := c.connectHTTP()
		if err != nil {
			return err
		}
		defer g.Close()
		wg.Go(func() {
			for at := range due {
				n, err := g.get("/static/10k")
				took := time.Since(at)
				mu.Lock()
				if err != nil {
					errs = errors.Join(errs, err)
				} else {
					all, bytes = append(all, took), bytes+n
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	c.start = time.Now()
	for i := range total {
		at := c.start.Add(time.Duration(float64(i) / float64(rate) * float64(time.Second)))
		time.Sleep(time.Until(at))
		due <- at
	}
	close(due)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(grace):
	}
	mu.Lock()
	defer mu.Unlock()
	c.out.Unserved = total - len(all)
	c.done(all, bytes)
	return errs
}

// units of the jobs of mix: each takes some 50 ms in an emulated guest.
var units = []struct {
	job string
	n   int
}{{"integer", 25}, {"float", 120}, {"syscall", 18000}, {"pipe", 2200}, {"switch", 300}, {"spawn", 3}, {"files", 8}}

func (c *client) compile() error {
	all, err := c.jobs("/job/compile?n=1", c.each)
	c.done(all, 0)
	return err
}

// mix gives each job the same share of the time.
func (c *client) mix() error {
	c.out.Parts = map[string]float64{}
	for _, u := range units {
		start := time.Now()
		all, err := c.jobs(fmt.Sprintf("/job/%s?n=%d", u.job, u.n), c.each/time.Duration(len(units)))
		if err != nil {
			return err
		}
		c.out.Parts[u.job] = float64(len(all)*u.n) / time.Since(start).Seconds()
		c.done(all, 0)
	}
	return nil
}

// jobs asks the guest for a job again and again, for a time, once at least.
func (c *client) jobs(path string, each time.Duration) ([]time.Duration, error) {
	g, err := c.connectHTTP()
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var all []time.Duration
	for began := time.Now(); len(all) == 0 || time.Since(began) < each; {
		start := time.Now()
		if _, err := g.get(path); err != nil {
			return all, fmt.Errorf("job %s: %w", path, err)
		}
		all = append(all, time.Since(start))
	}
	return all, nil
}
