package netfilter_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/netfilter"
	"colod/proxy/afpacket"
)

const numberAt = afpacket.VnetLen + 14

// numbered is a frame of an experimental Ethernet type which carries a number.
func numbered(n uint64) []byte {
	b := make([]byte, numberAt+46)
	copy(b[afpacket.VnetLen:], "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x12\x34\x56\x88\xb5")
	binary.BigEndian.PutUint64(b[numberAt:], n)
	return b
}

func number(b []byte) (uint64, bool) {
	if len(b) < numberAt+8 || b[afpacket.VnetLen+12] != 0x88 || b[afpacket.VnetLen+13] != 0xb5 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[numberAt:]), true
}

// carrier is a stand-in for the proxy: it carries the guest's frames where the mode asks for it, and knows of each frame
// of the guest whether it sent it, threw it away, or left it to the kernel.
type carrier struct {
	t  *testing.T
	s  *site
	p  *netfilter.Path
	rx *afpacket.RX
	tx *afpacket.TX
	*batch
	queue  [][]byte // guest's frames not decided on yet
	times  []int64
	thrown map[uint64]bool
	seen   uint64
}

func newCarrier(t *testing.T, s *site, p *netfilter.Path) *carrier {
	c := &carrier{t: t, s: s, p: p, thrown: map[uint64]bool{}, batch: newBatch()}
	s.host.Must(func() (err error) {
		if c.rx, err = afpacket.OpenRX(p.Tap(), afpacket.Options{IgnoreOutgoing: true}); err == nil {
			c.tx, err = afpacket.OpenTX(p.Uplink())
		}
		return err
	})
	t.Cleanup(func() { c.rx.Close(); c.tx.Close() })
	return c
}

// batch is room for the frames of one reading.
type batch struct {
	bufs [][]byte
	meta []afpacket.Meta
}

func newBatch() *batch {
	b := &batch{make([][]byte, afpacket.MaxBatch), make([]afpacket.Meta, afpacket.MaxBatch)}
	for i := range b.bufs {
		b.bufs[i] = make([]byte, 2048)
	}
	return b
}

// drain gives each frame that waits at a socket, with the time at which the kernel saw it, to take.
func (b *batch) drain(t *testing.T, rx *afpacket.RX, take func(frame []byte, at int64)) {
	t.Helper()
	for {
		n, err := rx.Recv(b.bufs, b.meta)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		for i := range n {
			take(b.bufs[i][:b.meta[i].Len], b.meta[i].KTime)
		}
	}
	if d, err := rx.Drops(); err != nil || d != 0 {
		t.Fatalf("%d frames lost at a socket, %v", d, err)
	}
}

// read takes what waits on the tap.
func (c *carrier) read() {
	c.t.Helper()
	c.drain(c.t, c.rx, func(b []byte, at int64) {
		if _, ok := number(b); ok {
			c.queue = append(c.queue, append([]byte(nil), b...))
			c.times = append(c.times, at)
			c.seen++
		}
	})
}

// decide does the same with every waiting frame.
func (c *carrier) decide(n int, send bool) {
	for i := range n {
		if !send {
			k, _ := number(c.queue[i])
			c.thrown[k] = true
			continue
		}
		for end := time.Now().Add(patience); ; {
			done, err := c.tx.Send([]afpacket.Msg{{A: c.queue[i]}})
			if err != nil {
				c.t.Fatal(err)
			}
			if done == 1 {
				break
			}
			if time.Now().After(end) {
				c.t.Fatal("the uplink takes no frame")
			}
		}
	}
	c.queue, c.times = c.queue[n:], c.times[n:]
}

// stamped waits until the kernel notes when a frame was seen on the tap. It begins to some time after the first socket
// of the whole machine has asked for it (net/core/dev.c, net_enable_timestamp: a work queue does it); until then a frame
// bears the time at which it was read, which says nothing of the order.
func (c *carrier) stamped(tap *os.File) {
	other := numbered(0)
	other[afpacket.VnetLen+13]++ // of another type: not counted
	for end := time.Now().Add(patience); ; {
		if _, err := tap.Write(other); err != nil {
			c.t.Fatal(err)
		}
		written := time.Now().UnixNano()
		time.Sleep(time.Millisecond)
		last := int64(0)
		c.drain(c.t, c.rx, func(_ []byte, at int64) { last = at })
		if last != 0 && last <= written {
			return
		}
		if time.Now().After(end) {
			c.t.Fatal("the kernel does not note when a frame was seen")
		}
	}
}

func (c *carrier) seam() *afpacket.Seam {
	var s *afpacket.Seam
	c.s.host.Must(func() (err error) { s, err = afpacket.OpenSeam(c.p.Uplink()); return err })
	return s
}

// flip changes from one mode to another with every frame accounted for. open says whether the kernel carries the
// guest's output, speak whether the carrier sends what the kernel leaves.
func (c *carrier) flip(from, to netfilter.Mode) {
	speaks := func(m netfilter.Mode) bool { return m == netfilter.Steal || m == netfilter.StealBoth }
	c.read()
	if from != netfilter.Pass && to != netfilter.Pass {
		if err := c.p.SetMode(to); err != nil {
			c.t.Fatal(err)
		}
		c.decide(len(c.queue), speaks(from))
		return
	}
	if to == netfilter.Pass {
		// A frame that was read and decided on may still be on its way to the filters, held up by an interrupt or because
		// the hypervisor runs something else: it must get there before they change.
		afpacket.Settle()
	}
	seam := c.seam()
	defer seam.Close()
	change := func() {
		if err := c.p.SetMode(to); err != nil {
			c.t.Fatal(err)
		}
		afpacket.Settle()
		c.read()
		if err := seam.Poll(); err != nil {
			c.t.Fatal(err)
		}
		if seam.Lost() != 0 {
			c.t.Fatalf("the seam missed %d frames", seam.Lost())
		}
	}
	// until is the number of frames seen up to then.
	until := func(last int64) (n int) {
		for n < len(c.times) && c.times[n] <= last {
			n++
		}
		return n
	}
	if from == netfilter.Pass {
		c.read()
		c.forget(len(c.queue)) // seen before now: carried by the kernel. The seam misses none that comes after.
		change()
		c.forget(until(seam.Last()))
		return
	}
	change()
	cut := len(c.times)
	if seam.First() != 0 {
		if cut = until(seam.First()); cut == 0 {
			c.t.Fatalf("the kernel carried a frame at %d that is none of the %d seen on the tap since, %v", seam.First(), len(c.times), c.times[:min(len(c.times), 5)])
		}
		cut-- // the last of them is the first that the kernel carried
	}
	c.decide(cut, speaks(from))
	c.forget(len(c.queue))
}

// forget drops frames which the kernel has carried.
func (c *carrier) forget(n int) { c.queue, c.times = c.queue[n:], c.times[n:] }

// TestFlips changes the mode 1,000 times (after two minutes 100 are enough) while the guest sends numbered frames without a pause. Each frame arrives at
// the client exactly once, or, in Mute, not at all: none twice, none that was held, and none is lost at a change.
func TestFlips(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	var tap *os.File
	s.host.Must(func() (err error) { tap, err = afpacket.OpenTap(p.Tap(), 0); return err })
	defer tap.Close()
	var sink *afpacket.RX
	s.client.Must(func() (err error) {
		sink, err = afpacket.OpenRX("eth0", afpacket.Options{IgnoreOutgoing: true})
		return err
	})
	defer sink.Close()

	c := newCarrier(t, s, p)
	c.stamped(tap)
	// More than any socket holds is not sent between two readings, however long the reader has to wait for a processor.
	const ahead = 4096
	var stop atomic.Bool
	var limit atomic.Uint64
	limit.Store(ahead)
	var total uint64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			for range 4 {
				if total >= limit.Load() {
					break
				}
				if _, err := tap.Write(numbered(total)); err != nil {
					t.Error(err)
					return
				}
				total++
			}
			time.Sleep(20 * time.Microsecond)
		}
	}()
	defer func() { stop.Store(true); <-ended }() // before the tap is closed
	arrived := map[uint64]int{}
	in := newBatch()
	drain := func() {
		t.Helper()
		in.drain(t, sink, func(b []byte, _ int64) {
			if k, ok := number(b); ok {
				arrived[k]++
			}
		})
		limit.Store(c.seen + ahead)
	}

	rng := rand.New(rand.NewPCG(1, 2))
	modes := []netfilter.Mode{netfilter.Pass, netfilter.Steal, netfilter.StealBoth, netfilter.Mute}
	var count [5][5]int
	from := p.Mode()
	if from != netfilter.Mute {
		t.Fatalf("a new path starts in mode %v", from)
	}
	began := time.Now()
	for i := 0; i < 1000 && (i < 100 || time.Since(began) < 2*time.Minute); i++ { // fewer on a machine that has no time
		to := modes[rng.IntN(len(modes))]
		if to == from {
			to = modes[(int(to)+rng.IntN(3))%4] // another one
		}
		c.flip(from, to)
		count[from][to]++
		from = to
		for end := time.Now().Add(time.Duration(rng.IntN(2000)) * time.Microsecond); time.Now().Before(end); {
			c.read()
			switch from {
			case netfilter.Pass:
				c.forget(len(c.queue))
			default:
				c.decide(len(c.queue), from != netfilter.Mute)
			}
		}
		drain()
	}
	c.flip(from, netfilter.Mute) // the end of what can arrive
	stop.Store(true)
	<-ended
	afpacket.Settle()
	c.read()
	c.decide(len(c.queue), false)
	drain()

	var lost, twice, escaped int
	for n := range total {
		want := 1
		if c.thrown[n] {
			want = 0
		}
		switch got := arrived[n]; {
		case got == want:
		case got < want:
			lost++
		case c.thrown[n]:
			escaped++
		default:
			twice++
		}
	}
	if lost+twice+escaped > 0 || c.seen != total {
		t.Errorf("of %d frames (%d seen, %d thrown away) %d are lost, %d arrived twice, %d escaped\n%s",
			total, c.seen, len(c.thrown), lost, twice, escaped, s.host.Dump())
	}
	t.Logf("%d frames, %d arrived, %d thrown away; changes %v", total, len(arrived), len(c.thrown), count)
}

// TestNothingPassesClosedHooks sends frames of every kind both ways in every mode and counts what arrives: all of them
// where a hook is open, none where it is closed.
func TestNothingPassesClosedHooks(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	var tap *os.File
	s.host.Must(func() (err error) { tap, err = afpacket.OpenTap(p.Tap(), 0); return err })
	defer tap.Close()
	// The bridge's port stands for the client: the bridge itself does not forward all of these frames.
	var client *afpacket.RX
	var clientTX *afpacket.TX
	s.host.Must(func() (err error) {
		if client, err = afpacket.OpenRX(s.config.PortName(), afpacket.Options{IgnoreOutgoing: true}); err == nil {
			clientTX, err = afpacket.OpenTX(s.config.PortName())
		}
		return err
	})
	defer client.Close()
	defer clientTX.Close()

	in, buf := newBatch(), make([]byte, 2048)
	// frames of every kind: the shortest possible one, unknown types, tags, broken IP
	var frames [][]byte
	for i, hex := range []string{"88b5", "0800", "86dd60", "0806", "810000640800beef", "88a80001810000020800beef", "0027ffff03", "88cc"} {
		f := append(make([]byte, afpacket.VnetLen), "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x12\x34"...)
		f = append(f, byte(i))
		f = append(f, unhex(t, hex)...)
		for len(f) < afpacket.VnetLen+14 {
			f = append(f, 0)
		}
		frames = append(frames, f)
	}
	ours := func(b []byte) bool { return string(b[afpacket.VnetLen+6:][:5]) == "\x52\x54\x00\x12\x34" }
	// arrivals counts the frames that wait on the client's device and in the tap.
	arrivals := func() (toClient, toGuest int) {
		in.drain(t, client, func(b []byte, _ int64) {
			if ours(b) {
				toClient++
			}
		})
		conn, err := tap.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		conn.Control(func(fd uintptr) {
			for {
				if _, err := unix.Read(int(fd), buf); err != nil {
					break
				}
				if ours(buf) {
					toGuest++
				}
			}
		})
		return toClient, toGuest
	}
	for _, m := range []netfilter.Mode{netfilter.Mute, netfilter.Pass, netfilter.Steal, netfilter.StealBoth, netfilter.Pass, netfilter.Mute} {
		setMode(t, p, m)
		wantClient, wantGuest := 0, 0
		if m == netfilter.Pass {
			wantClient = len(frames)
		}
		if m == netfilter.Pass || m == netfilter.Steal {
			wantGuest = len(frames)
		}
		for _, f := range frames {
			if _, err := tap.Write(f); err != nil {
				t.Fatal(err)
			}
			if n, err := clientTX.Send([]afpacket.Msg{{A: f}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		toClient, toGuest := 0, 0
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			c, g := arrivals()
			toClient, toGuest = toClient+c, toGuest+g
			if toClient >= wantClient && toGuest >= wantGuest {
				break
			}
		}
		time.Sleep(30 * time.Millisecond) // for those that should not come
		c, g := arrivals()
		if toClient += c; toClient != wantClient {
			t.Errorf("mode %v: %d frames reached the client, want %d", m, toClient, wantClient)
		}
		if toGuest += g; toGuest != wantGuest {
			t.Errorf("mode %v: %d frames reached the guest, want %d", m, toGuest, wantGuest)
		}
	}
}
