package datapath

import (
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"colod/bench/report"
)

// roundTrip is what a question to the other node and its answer take when nobody does anything with them: two threads
// asleep in read(2), 64 bytes of plain TCP over the devices of the link. An answer that both guests have to give cannot be
// released before the other node has said so.
func (p *Pair) roundTrip(each time.Duration) (p50, p99 float64) {
	ctx, cancel := p.ctx()
	defer cancel()
	near, far := connect(ctx, p.t, p.host, p.peer)
	defer near.Close()
	defer far.Close()
	ask, answer := p.blocking(near), p.blocking(far)
	defer ask.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer answer.Close()
		var b [64]byte
		for whole(answer, b[:], unix.Read) && whole(answer, b[:], unix.Write) {
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var b [64]byte
	var trips []float64
	for end := time.Now().Add(each); ; {
		start := time.Now()
		if start.After(end) {
			break
		}
		if !whole(ask, b[:], unix.Write) || !whole(ask, b[:], unix.Read) {
			p.t.Fatalf("the link's round trip: the connection broke")
		}
		trips = append(trips, float64(time.Since(start).Nanoseconds())/1e3)
	}
	p.t.Must(unix.Shutdown(int(ask.Fd()), unix.SHUT_RDWR))
	<-ended
	return report.Median(trips), report.Percentile(trips, 99)
}

// blocking is a descriptor of c that sleeps in the kernel.
func (p *Pair) blocking(c net.Conn) *os.File {
	f, err := c.(*net.TCPConn).File()
	p.t.Must(err)
	p.t.Must(unix.SetNonblock(int(f.Fd()), false))
	return f
}

// whole reads or writes all of b.
func whole(f *os.File, b []byte, call func(int, []byte) (int, error)) bool {
	for len(b) > 0 {
		n, err := call(int(f.Fd()), b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return false
		}
		b = b[n:]
	}
	return true
}
