package scale

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"colod/internal/osthread"
	"colod/proxy/inputlog"
)

const (
	payload  = 64      // bytes of each answer
	request  = 32      // and of each request
	hosts    = 250     // clients; each has a port a connection
	l4       = 10 + 34 // of TCP in a frame: virtio-net header, Ethernet, IPv4 without options
	clientIP = 10 + 30 // destination address
)

// connections are N connections through both halves of the comparison and the log of input, in one process: what grows
// with the number of connections on the two nodes, without sockets.
type connections struct {
	n    int
	e    *compare.Engine
	d    *compare.Describer
	log  *inputlog.Log
	now  int64
	turn uint32 // requests that every connection has had

	answer, ask []byte // templates
	free        []*compare.Frame
	diverged    int
	why         string // the first divergence
	released    int
}

func newConnections(n, maxFlows int) *connections {
	cfg := compare.Config{Key: [16]byte{1}, MaxFlows: maxFlows}
	c := &connections{n: n, e: compare.NewEngine(cfg), d: compare.NewDescriber(cfg), log: inputlog.New(), now: 1}
	guest, client := frametest.A("192.0.2.10:80"), frametest.Addr{IP: netip.AddrFrom4([4]byte{198, 51, 100, 1}), Port: 1024}
	c.answer = frametest.TCP{Src: guest, Dst: client, Seq: 1000, Ack: 5000, Flags: frame.ACK | frame.PSH, Window: 500, Payload: make([]byte, payload), Partial: true}.Bytes()
	c.ask = frametest.TCP{Src: client, Dst: guest, Seq: 5000, Ack: 1000, Flags: frame.ACK | frame.PSH, Window: 500, Payload: make([]byte, request), Partial: true}.Bytes()
	c.e.BeginCheckpoint(1)
	c.d.Reset(1)
	c.e.EndCheckpoint(2, 2)
	return c
}

// address gives a frame connection i, and its place in the stream.
func address(buf []byte, i int, fromClient bool, seq, ack uint32) {
	ip, port := clientIP, l4+2
	if fromClient {
		ip, port = clientIP-4, l4
	}
	buf[ip+3] = byte(1 + i%hosts)
	binary.BigEndian.PutUint16(buf[port:], uint16(1024+i/hosts))
	binary.BigEndian.PutUint32(buf[l4+4:], seq)
	binary.BigEndian.PutUint32(buf[l4+8:], ack)
}

func (c *connections) take(i int) *compare.Frame {
	var f *compare.Frame
	if k := len(c.free); k > 0 {
		f, c.free = c.free[k-1], c.free[:k-1]
	} else {
		f = &compare.Frame{Buf: make([]byte, len(c.answer))}
	}
	copy(f.Buf, c.answer)
	address(f.Buf, i, false, 1000+c.turn*payload, 5000+(c.turn+1)*request)
	frame.Parse(f.Buf, &f.P)
	return f
}

// round is a request and its answer on every connection. It reports how many answers were released.
func (c *connections) round() int {
	before := c.released
	buf := make([]byte, len(c.ask))
	var p frame.Parsed
	for i := range c.n {
		c.now += 1000
		copy(buf, c.ask)
		address(buf, i, true, 5000+c.turn*request, 1000+c.turn*payload)
		frame.Parse(buf, &p)
		key := p.Key(false)
		c.e.Input(c.now, &p)
		c.d.Input(c.now, &p)
		c.log.Add(c.now, key, &p, buf)

		c.d.Secondary(c.now, c.take(i))
		do := c.d.Out()
		for _, def := range do.FlowDefs {
			c.e.FlowDef(def.ID, def.Key)
		}
		for k := range do.Descriptors {
			c.e.Descriptor(c.now, &do.Descriptors[k])
		}
		c.free = append(c.free, do.Free...)
		do.Reset()
		c.log.GuestAcked(key, p.SegEnd())

		c.e.Primary(c.now, c.take(i))
		c.deliver()
		c.log.Released(c.now, key, p.SegEnd())

		// The client has the answer.
		p.Seq, p.Ack, p.End = p.SegEnd(), frame.Num(1000+(c.turn+1)*payload), p.Payload
		c.e.Input(c.now, &p)
		c.d.Input(c.now, &p)
		c.deliver()
	}
	c.turn++
	return c.released - before
}

// deliver carries out what the engine wants.
func (c *connections) deliver() {
	c.e.Notify(c.now)
	o := c.e.Out()
	for k := range o.Releases {
		if r := &o.Releases[k]; r.Payload[1] > r.Payload[0] {
			c.released++
			if r.Last {
				c.free = append(c.free, r.F)
			}
		} else if r.Last && r.F != nil && r.F.Index >= 0 {
			c.free = append(c.free, r.F)
		}
	}
	for k := range o.Messages {
		c.d.Message(&o.Messages[k])
	}
	if c.diverged += len(o.Divergences); c.why == "" && len(o.Divergences) > 0 {
		c.why = fmt.Sprintf("%s in %s: %s", o.Divergences[0].Reason, o.Divergences[0].Key, o.Divergences[0].Detail)
	}
	c.free = append(c.free, o.Free...)
	o.Reset()
	do := c.d.Out()
	c.free = append(c.free, do.Free...)
	do.Free = do.Free[:0]
}

// flowSample is what one number of connections costs.
type flowSample struct {
	bytes float64 // of memory a connection, both nodes together
	ns    float64 // of processor time a round trip, both nodes together
}

// measureConnections runs n connections for about each.
func measureConnections(n, maxFlows int, each time.Duration) (flowSample, error) {
	base := heap()
	c := newConnections(n, maxFlows)
	for range 2 { // connections are made, tables grow
		c.round()
	}
	used := heap() - base
	if got := c.round(); got != n || c.diverged > 0 {
		return flowSample{}, fmt.Errorf("measure %d connections: %d answers were released, and %d divergences seen: %s", n, got, c.diverged, c.why)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	rounds := 0
	start, wall := osthread.Time(), time.Now()
	for rounds == 0 || time.Since(wall) < each {
		if c.round() != n {
			return flowSample{}, fmt.Errorf("measure %d connections: an answer was not released", n)
		}
		rounds++
	}
	took := osthread.Time() - start
	runtime.KeepAlive(c)
	return flowSample{float64(used) / float64(n), float64(took.Nanoseconds()) / float64(rounds*n)}, nil
}

// heap is what is in use (bytes).
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
