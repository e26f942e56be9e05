package chardev

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// wire frames b, which begins with a virtio-net header, for the wire: without that header when vnet is 0.
func wire(b []byte, vnet int) []byte {
	b = b[frame.VnetLen-min(vnet, frame.VnetLen):]
	if vnet > frame.VnetLen {
		b = append(append(append([]byte(nil), b[:frame.VnetLen]...), make([]byte, vnet-frame.VnetLen)...), b[frame.VnetLen:]...)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	if vnet > 0 {
		out = binary.BigEndian.AppendUint32(out, uint32(vnet))
	}
	return append(out, b...)
}

func TestReader(t *testing.T) {
	for _, vnet := range []int{0, 10, 12} {
		var stream []byte
		var want [][]byte
		for i := range 30 {
			f := bytes.Repeat([]byte{byte(i)}, 14+frame.VnetLen+i*i*40%60000)
			w := wire(f, vnet)
			want = append(want, w[4:])
			stream = append(stream, w...)
		}
		for _, step := range []int{1 << 20, 65536, 4096, 1} {
			r := newReader(make([]byte, leastBuf), vnet > 0)
			got, rest := 0, stream
			for {
				b, v, err := r.next()
				if err != nil {
					t.Fatal(err)
				}
				if b == nil {
					if len(rest) == 0 {
						break
					}
					n := copy(r.room(), rest[:min(step, len(rest))])
					r.filled(n)
					rest = rest[n:]
					continue
				}
				w := want[got]
				if vnet > 0 {
					w = w[4:]
				}
				if v != vnet || !bytes.Equal(b, w) {
					t.Fatalf("vnet %d, step %d: frame %d of %d bytes differs", vnet, step, got, len(b))
				}
				got++
			}
			if got != len(want) {
				t.Fatalf("vnet %d, step %d: %d of %d frames", vnet, step, got, len(want))
			}
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	for _, b := range [][]byte{{0, 0, 0, 0}, {0, 2, 0, 0}, {0xff, 0xff, 0xff, 0xff}} {
		r := newReader(make([]byte, leastBuf), false)
		r.filled(copy(r.room(), b))
		if _, _, err := r.next(); err == nil {
			t.Errorf("length %x was taken", b)
		}
	}
	r := newReader(make([]byte, leastBuf), true)
	r.filled(copy(r.room(), []byte{0, 0, 0, 60, 0, 0, 0, 61}))
	if _, _, err := r.next(); err == nil {
		t.Error("a header longer than its frame was taken")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 1, 2, 3, 0, 0}, true)
	f.Fuzz(func(t *testing.T, stream []byte, vnet bool) {
		r := newReader(make([]byte, leastBuf), vnet)
		for {
			b, v, err := r.next()
			if err != nil {
				return
			}
			if b == nil {
				if len(stream) == 0 {
					return
				}
				n := copy(r.room(), stream)
				r.filled(n)
				stream = stream[n:]
				continue
			}
			c := newCore(Options{}.withDefaults())
			c.primary(2, b, v)
			c.secondary(2, b, v)
			c.settle(2)
			c.checkpoint(3)
		}
	})
}

// rig is a comparator with the far ends of its sockets.
type rig struct {
	t    *testing.T
	conn [4]net.Conn
	vnet int
}

func newRig(t *testing.T, vnet int, hold time.Duration) *rig {
	dir := t.TempDir()
	var e [4]string
	for i := range e {
		e[i] = filepath.Join(dir, string(rune('0'+i)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := Serve(ctx, Options{Primary: "unix:" + e[0] + ",server", Secondary: "unix:" + e[1] + ",server", Out: "unix:" + e[2] + ",server",
			Notify: "unix:" + e[3] + ",server", Vnet: vnet > 0, Hold: hold})
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, vnet: vnet}
	for i := range e {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			c, err := net.Dial("unix", e[i])
			if err == nil {
				r.conn[i] = c
				c.SetDeadline(time.Now().Add(30 * time.Second))
				t.Cleanup(func() { c.Close() })
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	return r
}

func (r *rig) send(side int, b []byte) {
	r.t.Helper()
	if _, err := r.conn[side].Write(wire(b, r.vnet)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) text(s string) {
	if _, err := r.conn[3].Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)); err != nil {
		r.t.Fatal(err)
	}
}

// get reads one frame without its length from socket i.
func (r *rig) get(i int) []byte {
	r.t.Helper()
	var n [4]byte
	if _, err := io.ReadFull(r.conn[i], n[:]); err != nil {
		r.t.Fatal(err)
	}
	if i == 2 && r.vnet > 0 {
		var v [4]byte
		if _, err := io.ReadFull(r.conn[i], v[:]); err != nil || int(binary.BigEndian.Uint32(v[:])) != r.vnet {
			r.t.Fatalf("virtio-net header of %x, %v", v, err)
		}
	}
	b := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(r.conn[i], b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) expect(b []byte) {
	r.t.Helper()
	head := 4
	if r.vnet > 0 {
		head = 8
	}
	if got := r.get(2); !bytes.Equal(got, wire(b, r.vnet)[head:]) {
		r.t.Fatalf("released %x\nwanted %x", got, wire(b, r.vnet)[head:])
	}
}

var guest, client = frametest.A("192.0.2.10:80"), frametest.A("198.51.100.1:4000")

func segment(seq uint32, flags uint8, payload string) []byte {
	return frametest.TCP{Src: guest, Dst: client, Seq: seq, Ack: 7, Flags: flags, Window: 100, Payload: []byte(payload)}.Bytes()
}

// TestRelease: equal frames go out as they are, in every framing, also cut by a secondary that sends less.
func TestRelease(t *testing.T) {
	for _, vnet := range []int{0, 10, 12} {
		r := newRig(t, vnet, 10*time.Second)
		a := frametest.UDP(frametest.Link{}, guest, client, []byte("datagram"), false)
		r.send(0, a)
		r.send(1, a)
		r.expect(a)
		b := segment(1000, frame.ACK, "hello, world")
		r.send(0, b)
		r.send(1, segment(1000, frame.ACK, "hello, "))
		first := r.get(2)
		if !bytes.HasSuffix(first, []byte("hello, ")) {
			t.Fatalf("vnet %d: released %q", vnet, first)
		}
		r.send(1, segment(1007, frame.ACK, "world"))
		if rest := r.get(2); !bytes.HasSuffix(rest, []byte("world")) || bytes.Contains(rest, []byte("hello")) {
			t.Fatalf("vnet %d: released %q", vnet, rest)
		}
	}
}

// TestRewriter: QEMU's filter-rewriter shifts all of the secondary's segments but the SYN.
func TestRewriter(t *testing.T) {
	for _, secondaryFirst := range []bool{false, true} {
		r := newRig(t, 0, 10*time.Second)
		syn := func(seq uint32) []byte {
			return frametest.TCP{Src: guest, Dst: client, Seq: seq, Ack: 7, Flags: frame.SYN | frame.ACK, Window: 100,
				Options: frametest.SYNOptions(1460, 7, 1, 1)}.Bytes()
		}
		second := func() {
			r.send(1, syn(555))
			r.send(1, segment(1001, frame.ACK, "data"))
		}
		if secondaryFirst {
			second()
		}
		r.send(0, syn(1000))
		if !secondaryFirst {
			second()
		}
		r.expect(syn(1000))
		r.send(0, segment(1001, frame.ACK, "data"))
		r.expect(segment(1001, frame.ACK, "data"))
	}
}

// TestCheckpoint: a difference asks for a checkpoint, and a checkpoint releases what is held, whatever is still in the sockets.
func TestCheckpoint(t *testing.T) {
	r := newRig(t, 0, 10*time.Second)
	r.send(0, segment(1000, frame.ACK, "this"))
	r.send(1, segment(1000, frame.ACK, "that"))
	if got := r.get(3); string(got) != doCheckpoint {
		t.Fatalf("notice %q", got)
	}
	late := frametest.UDP(frametest.Link{}, guest, client, []byte("of before"), false)
	r.send(0, late)
	r.text(coloCheckpoint)
	r.expect(segment(1000, frame.ACK, "this"))
	r.expect(late)
	again := segment(1004, frame.ACK, "both")
	r.send(1, again)
	r.send(0, again)
	r.expect(again)
}

// TestSilence: what the secondary does not say asks for a checkpoint.
func TestSilence(t *testing.T) {
	r := newRig(t, 0, 50*time.Millisecond)
	r.send(0, segment(1000, frame.ACK, "alone"))
	if got := r.get(3); string(got) != doCheckpoint {
		t.Fatalf("notice %q", got)
	}
}

// TestKeep: repetitions by the primary go out while the secondary's bytes are kept, and are no silent loss after that.
func TestKeep(t *testing.T) {
	r := newRig(t, 0, 10*time.Second)
	b := segment(1000, frame.ACK, "again")
	r.send(1, b)
	r.send(0, b)
	r.expect(b)
	r.send(0, b)
	r.expect(b)
	const n = 3000 // above Options.Keep
	for i := range n {
		s := segment(uint32(1005+5*i), frame.ACK, "after")
		r.send(1, s)
		r.send(0, s)
		r.expect(s)
	}
	r.send(0, b)
	if got := r.get(3); string(got) != doCheckpoint {
		t.Fatalf("notice %q", got)
	}
}

// TestForgets: of connections that say next to nothing, too, the newest releases are kept only.
func TestForgets(t *testing.T) {
	const keep, n = 64, 1000
	c := newCore(Options{Keep: keep}.withDefaults())
	for i := range n {
		now := int64(i + 1)
		say := func(seq uint32, flags uint8, payload string) {
			f := frametest.TCP{Src: guest, Dst: frametest.A(fmt.Sprintf("198.51.100.1:%d", 1000+i)), Seq: seq, Ack: 7, Flags: flags, Window: 100, Payload: []byte(payload)}
			if flags&frame.SYN != 0 {
				f.Options = frametest.SYNOptions(1460, 7, 1, 1)
			}
			c.primary(now, f.Bytes(), frame.VnetLen)
			c.secondary(now, f.Bytes(), frame.VnetLen)
			c.settle(now)
		}
		say(1000, frame.SYN, "")
		if i%2 == 0 {
			say(1001, frame.ACK, "data")
		}
		if i%3 == 0 {
			say(1001, frame.ACK|frame.FIN, "data")
		}
	}
	if got := c.stats.Released; got < n {
		t.Fatalf("%d frames released of %d connections", got, n)
	}
	if got := c.desc.Stats().KeptFrames; got > 2*keep {
		t.Errorf("%d frames are kept, of which %d may be asked for", got, keep)
	}
	if c.stats.Divergences != 0 || c.wanted {
		t.Errorf("%d divergences", c.stats.Divergences)
	}
}
