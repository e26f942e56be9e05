package afpacket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/netnstest"
	"colod/proxy/afpacket"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

func openRX(t testing.TB, ns *netnstest.NS, dev string, o afpacket.Options) *afpacket.RX {
	t.Helper()
	var r *afpacket.RX
	ns.Must(func() (err error) { r, err = afpacket.OpenRX(dev, o); return err })
	t.Cleanup(func() { r.Close() })
	return r
}

func openTX(t testing.TB, ns *netnstest.NS, dev string) *afpacket.TX {
	t.Helper()
	var x *afpacket.TX
	ns.Must(func() (err error) { x, err = afpacket.OpenTX(dev); return err })
	t.Cleanup(func() { x.Close() })
	return x
}

func pool(n, size int) ([][]byte, []afpacket.Meta) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	return bufs, make([]afpacket.Meta, n)
}

// recv waits for frames and returns at least one.
func recv(t testing.TB, r *afpacket.RX, bufs [][]byte, meta []afpacket.Meta) int {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		n, err := r.Recv(bufs, meta)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return n
		}
		unix.Poll([]unix.PollFd{{Fd: int32(r.FD()), Events: unix.POLLIN}}, 100)
	}
	t.Fatal("no frame came")
	return 0
}

// frame is a complete frame with its virtio-net header: an experimental Ethernet type and a payload.
func frame(payload string) []byte {
	b := make([]byte, afpacket.VnetLen, 64)
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5)
	return append(b, payload...)
}

func TestDirectionsTimesAndBytes(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx := openRX(t, b, "vb", afpacket.Options{})
	deaf := openRX(t, b, "vb", afpacket.Options{IgnoreOutgoing: true})
	in, out := openTX(t, a, "va"), openTX(t, b, "vb")

	before := time.Now().UnixNano()
	for _, s := range []struct {
		tx      *afpacket.TX
		payload string
	}{{in, "first"}, {out, "second"}, {in, "third"}} {
		f := frame(s.payload)
		// In two pieces, cut anywhere, and as one.
		n, err := s.tx.Send([]afpacket.Msg{{A: f[:13], B: f[13:]}})
		if n != 1 || err != nil {
			t.Fatalf("send: %d, %v", n, err)
		}
	}
	bufs, meta := pool(8, afpacket.BufSize)
	var got []string
	var last int64
	for len(got) < 3 {
		n := recv(t, rx, bufs, meta)
		for i := range n {
			m := meta[i]
			got = append(got, fmt.Sprintf("%s %v", bufs[i][afpacket.VnetLen+14:m.Len], m.Outgoing))
			if m.KTime < before || m.KTime > time.Now().UnixNano() || m.KTime < last {
				t.Errorf("kernel time %d of frame %d is not between %d and now, or goes back from %d", m.KTime, i, before, last)
			}
			last = m.KTime
			if m.Truncated || m.VLAN != 0 || m.Lost != 0 {
				t.Errorf("frame %d: %+v", i, m)
			}
			if !bytes.Equal(bufs[i][:afpacket.VnetLen], make([]byte, afpacket.VnetLen)) {
				t.Errorf("frame %d: virtio-net header %x", i, bufs[i][:afpacket.VnetLen])
			}
		}
	}
	if want := "[first false second true third false]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	n := 0
	for n < 2 {
		n += recv(t, deaf, bufs[n:], meta[n:])
	}
	if n != 2 || meta[0].Outgoing || meta[1].Outgoing {
		t.Errorf("the socket that ignores outgoing frames saw %d: %+v", n, meta[:n])
	}
	if n, err := rx.Recv(bufs, meta); n != 0 || err != nil {
		t.Errorf("empty socket: %d, %v", n, err)
	}
	if s := rx.Stats(); s.Frames != 3 || s.Lost != 0 {
		t.Errorf("statistics: %+v", s)
	}
}

// TestRefusedFramesAreSkippedAlone sends good frames around bad ones of each kind.
func TestRefusedFramesAreSkippedAlone(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx := openRX(t, b, "vb", afpacket.Options{})
	tx := openTX(t, a, "va")

	long := frame(string(make([]byte, 3000)))
	badVnet := frame("bad header")
	badVnet[1] = 77 // no such segmentation
	var msgs []afpacket.Msg
	for i := range 200 {
		msgs = append(msgs, afpacket.Msg{A: frame(fmt.Sprint(i))})
	}
	bad := map[int][]byte{0: long, 3: badVnet, 4: badVnet, 63: long, 64: frame("")[:afpacket.VnetLen+5], 65: {}, 66: {1, 2}, 199: long}
	for i, f := range bad {
		msgs[i].A = f
	}
	n, err := tx.Send(msgs)
	if n != len(msgs) || err != nil {
		t.Fatalf("send: %d of %d, %v", n, len(msgs), err)
	}
	s := tx.Stats()
	if s.Frames != uint64(len(msgs)-len(bad)) || s.Refused.TooLong != 3 || s.Refused.Invalid != 5 || s.Refused.Total() != 8 || s.Refused.Last == "" {
		t.Errorf("statistics: %+v", s)
	}
	if got := fmt.Sprint(tx.Refused()); got != "[0 3 4 63 64 65 66 199]" {
		t.Errorf("refused: %s", got)
	}
	bufs, meta := pool(64, afpacket.BufSize)
	next := 0
	for got := 0; got < len(msgs)-len(bad); {
		n := recv(t, rx, bufs, meta)
		for i := range n {
			for bad[next] != nil {
				next++
			}
			if p := string(bufs[i][afpacket.VnetLen+14 : meta[i].Len]); p != fmt.Sprint(next) {
				t.Fatalf("got %q, want frame %d", p, next)
			}
			next++
		}
		got += n
	}
}

func TestTruncatedFrame(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx := openRX(t, b, "vb", afpacket.Options{})
	tx := openTX(t, a, "va")
	if n, err := tx.Send([]afpacket.Msg{{A: frame(string(make([]byte, 1000)))}, {A: frame("short")}}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	bufs, meta := pool(2, 128+afpacket.TagLen)
	n := recv(t, rx, bufs, meta)
	for n < 2 {
		n += recv(t, rx, bufs[n:], meta[n:])
	}
	if !meta[0].Truncated || meta[0].Len != 128 || meta[1].Truncated {
		t.Errorf("got %+v", meta)
	}
	if s := rx.Stats(); s.Truncated != 1 {
		t.Errorf("statistics: %+v", s)
	}
	if n, err := rx.Recv([][]byte{{1, 2, 3}}, meta); n != 0 || err != nil {
		t.Errorf("a buffer with no room: %d, %v", n, err)
	}
}

// TestLossIsCounted overfills a small socket: the count from the statistics, the number of frames that arrived and the
// position told with the frame after the gap all agree.
func TestLossIsCounted(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx := openRX(t, b, "vb", afpacket.Options{RcvBuf: 64 << 10})
	tx := openTX(t, a, "va")
	const total = 2000
	send := func(n int) {
		for range n {
			if n, err := tx.Send([]afpacket.Msg{{A: frame("x")}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	send(total)
	bufs, meta := pool(64, 2048)
	got := 0
	take := func() (lost uint32) {
		n, err := rx.Recv(bufs, meta)
		if err != nil {
			t.Fatal(err)
		}
		got += n
		if n > 0 {
			lost = meta[n-1].Lost
		}
		return lost
	}
	var drops uint32
	for end := time.Now().Add(patience); got+int(drops) < total && time.Now().Before(end); {
		if lost := take(); lost != 0 {
			t.Errorf("a frame before the gap says %d were lost", lost)
		}
		d, err := rx.Drops()
		if err != nil {
			t.Fatal(err)
		}
		drops += d
	}
	if drops == 0 || got+int(drops) != total {
		t.Fatalf("%d received, %d lost of %d", got, drops, total)
	}
	send(1)
	for end := time.Now().Add(patience); got+int(drops) < total+1 && time.Now().Before(end); {
		if lost := take(); lost != 0 && lost != drops {
			t.Errorf("the frame after the gap says %d were lost, the statistics %d", lost, drops)
		}
	}
	if meta[0].Lost != drops || rx.Stats().Lost != uint64(drops) {
		t.Errorf("lost: frame %d, statistics %d, kernel %d", meta[0].Lost, rx.Stats().Lost, drops)
	}
}

func TestDeviceDownAndGone(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx, tx := openRX(t, b, "vb", afpacket.Options{}), openTX(t, b, "vb")
	peer := openTX(t, a, "va")
	bufs, meta := pool(4, 2048)
	msgs := []afpacket.Msg{{A: frame("x")}}

	var e *afpacket.Error
	wait := func(want error) {
		t.Helper()
		var err error
		for end := time.Now().Add(patience); err == nil && time.Now().Before(end); {
			_, err = rx.Recv(bufs, meta)
		}
		if !errors.Is(err, want) || !errors.As(err, &e) || e.Device != "vb" {
			t.Fatalf("receive: got %v, want %v", err, want)
		}
		if n, err := tx.Send(msgs); n != 0 || !errors.Is(err, want) {
			t.Fatalf("send: got %d, %v, want %v", n, err, want)
		}
	}
	b.Down("vb")
	wait(afpacket.ErrDown)
	b.Up("vb")
	for end := time.Now().Add(patience); ; {
		if n, err := tx.Send(msgs); n == 1 {
			break
		} else if time.Now().After(end) {
			t.Fatal("the sending socket did not come back:", err)
		}
	}
	if n, err := peer.Send(msgs); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for seen := false; !seen; {
		n := recv(t, rx, bufs, meta)
		for i := range n {
			seen = seen || !meta[i].Outgoing
		}
	}
	b.Delete("vb")
	wait(afpacket.ErrGone)
	b.Must(func() error {
		if _, err := afpacket.OpenRX("vb", afpacket.Options{}); !errors.Is(err, afpacket.ErrGone) {
			t.Errorf("open on a missing device: %v", err)
		}
		return nil
	})
}

// relay carries frames between two devices of one namespace until the test ends. It counts frames over 2 KiB.
type relay struct {
	big, tagged, frames uint64
	stop, done          chan struct{}
	err                 error
}

func startRelay(t testing.TB, ns *netnstest.NS, left, right string) *relay {
	t.Helper()
	r := &relay{stop: make(chan struct{}), done: make(chan struct{})}
	rx := []*afpacket.RX{openRX(t, ns, left, afpacket.Options{IgnoreOutgoing: true}), openRX(t, ns, right, afpacket.Options{IgnoreOutgoing: true})}
	tx := []*afpacket.TX{openTX(t, ns, right), openTX(t, ns, left)}
	go func() {
		defer close(r.done)
		bufs, meta := pool(afpacket.MaxBatch, afpacket.BufSize)
		msgs := make([]afpacket.Msg, afpacket.MaxBatch)
		for {
			select {
			case <-r.stop:
				return
			default:
			}
			unix.Poll([]unix.PollFd{{Fd: int32(rx[0].FD()), Events: unix.POLLIN}, {Fd: int32(rx[1].FD()), Events: unix.POLLIN}}, 50)
			for s := range rx {
				n, err := rx[s].Recv(bufs, meta)
				if err != nil {
					r.err = err
					return
				}
				for i := range n {
					msgs[i] = afpacket.Msg{A: bufs[i][:30], B: bufs[i][30:meta[i].Len]}
					r.frames++
					if meta[i].Len > 2048 {
						r.big++
					}
					if meta[i].VLAN != 0 {
						r.tagged++
					}
				}
				for off := 0; off < n; {
					k, err := tx[s].Send(msgs[off:n])
					if err != nil {
						r.err = err
						return
					}
					off += k
				}
			}
		}
	}()
	t.Cleanup(func() {
		r.end()
		if r.err != nil {
			t.Error(r.err)
		}
		for s := range tx {
			if st := tx[s].Stats(); st.Refused.Total() != 0 {
				t.Errorf("refused frames: %+v", st)
			}
			if st := rx[s].Stats(); st.Undescribed+st.Truncated != 0 {
				t.Errorf("frames not taken whole: %+v", st)
			}
		}
	})
	return r
}

func (r *relay) end() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	<-r.done
}

// transfer sends size random bytes over TCP each way at once and compares the digests.
func transfer(t *testing.T, client, server *netnstest.NS, addr string, size int64) {
	t.Helper()
	l := server.Listen(net.JoinHostPort(addr, "0"))
	type end struct {
		sum string
		err error
	}
	results := make(chan end, 4)
	run := func(c net.Conn, seed byte) {
		src := rand.NewChaCha8([32]byte{seed})
		go func() {
			h := sha256.New()
			_, err := io.CopyN(io.MultiWriter(c, h), src, size)
			results <- end{fmt.Sprintf("%x", h.Sum(nil)), err}
		}()
		go func() {
			h := sha256.New()
			_, err := io.CopyN(h, c, size)
			results <- end{fmt.Sprintf("%x", h.Sum(nil)), err}
		}()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("%v\n%s%s", err, client.Dump(), server.Dump())
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	run(c, 1)
	run(s, 2)
	count := map[string]int{}
	for range 4 {
		select {
		case e := <-results:
			if e.err != nil {
				t.Fatal(e.err)
			}
			count[e.sum]++
		case <-time.After(2 * patience):
			t.Fatalf("the transfer stands still\n%s%s", client.Dump(), server.Dump())
		}
	}
	if len(count) != 2 {
		t.Errorf("digests of what was sent and received: %v", count)
	}
}

// TestRealTCP carries TCP with offloads over the sockets, plain and with every kind of tag, IPv4 and IPv6.
func TestRealTCP(t *testing.T) {
	const q, ad = unix.ETH_P_8021Q << 16, unix.ETH_P_8021AD << 16
	for _, c := range []struct {
		name string
		tags []uint32
	}{
		{"plain", nil},
		{"802.1Q", []uint32{q | 100}},
		{"802.1ad with priority", []uint32{ad | 5<<13 | 4094}},
		{"QinQ", []uint32{ad | 100, q | 7}},
		{"two 802.1Q tags", []uint32{q | 100, q | 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, mid, server := netnstest.New(t, "client"), netnstest.New(t, "mid"), netnstest.New(t, "server")
			for i, n := range []*netnstest.NS{client, server} {
				tap := []string{"left", "right"}[i]
				netnstest.NewVM(mid, n, netnstest.VMConfig{Tap: tap, MAC: fmt.Sprintf("52:54:00:00:00:%02x", i+1),
					Addrs: []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)}, Tags: c.tags})
				mid.Quiet(tap)
				mid.Up(tap)
			}
			r := startRelay(t, mid, "left", "right")
			transfer(t, client, server, "192.0.2.2", 8<<20)
			transfer(t, client, server, "2001:db8::2", 8<<20)
			r.end()
			if r.big == 0 {
				t.Errorf("of %d frames none was over 2 KiB: segmentation was not left to the end", r.frames)
			}
			if len(c.tags) > 0 && r.tagged != r.frames || len(c.tags) == 0 && r.tagged != 0 {
				t.Errorf("of %d frames, %d had a tag put back", r.frames, r.tagged)
			}
		})
	}
}

// TestLargestSegmentStaysWhole sends one segment of the largest size, to be cut by the receiver, with a checksum to be
// completed: the same bytes arrive as one frame, also with a tag that the kernel takes off on the way.
func TestLargestSegmentStaysWhole(t *testing.T) {
	for _, tag := range []uint32{0, unix.ETH_P_8021Q<<16 | 42, unix.ETH_P_8021AD<<16 | 1} {
		a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
		netnstest.Veth(a, "va", b, "vb")
		rx, tx := openRX(t, b, "vb", afpacket.Options{}), openTX(t, a, "va")
		f := tcpFrame(65535 - afpacket.TagLen) // a device cuts what reaches its gso_max_size of 65,536, all headers included
		rand.NewChaCha8([32]byte{}).Read(f[afpacket.VnetLen+54:])
		if tag != 0 {
			f = append(f, make([]byte, afpacket.TagLen)...)
			afpacket.InsertTag(f, len(f)-afpacket.TagLen, tag)
		}
		if n, err := tx.Send([]afpacket.Msg{{A: f[:60], B: f[60:]}}); n != 1 || err != nil || tx.Stats().Frames != 1 {
			t.Fatal(n, err, tx.Stats())
		}
		bufs, meta := pool(4, afpacket.BufSize)
		n := recv(t, rx, bufs, meta)
		got := bufs[0][:meta[0].Len]
		// The length of the headers is a hint which the kernel makes anew.
		copy(got[2:4], f[2:4])
		if n != 1 || meta[0].Truncated || meta[0].VLAN != tag || !bytes.Equal(got, f) {
			t.Errorf("tag %x: %d frames, %+v, header %x, want %x, %d bytes equal %v", tag, n, meta[0], got[:afpacket.VnetLen], f[:afpacket.VnetLen], len(got), bytes.Equal(got[10:], f[10:]))
		}
	}
}

func TestDrainTap(t *testing.T) {
	ns := netnstest.New(t, "host")
	var tap *os.File
	ns.Must(func() (err error) { tap, err = afpacket.OpenTap("vm0", afpacket.OffloadTSO); return err })
	defer tap.Close()
	ns.Quiet("vm0")
	ns.Up("vm0")
	tx := openTX(t, ns, "vm0")
	conn, err := tap.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drain := func() (n int, err error) {
		conn.Control(func(fd uintptr) { n, err = afpacket.DrainTap(int(fd)) })
		return n, err
	}
	if n, err := drain(); n != 0 || err != nil {
		t.Fatalf("empty tap: %d, %v", n, err)
	}
	for range 100 {
		if n, err := tx.Send([]afpacket.Msg{{A: frame("x")}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n, err := drain(); n != 100 || err != nil {
		t.Errorf("full tap: %d, %v", n, err)
	}
	// A descriptor that would wait is read without waiting, and its flags stay.
	conn.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), false) })
	if err != nil {
		t.Fatal(err)
	}
	if n, err := drain(); n != 0 || err != nil {
		t.Errorf("waiting descriptor: %d, %v", n, err)
	}
	var flags int
	conn.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) })
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
	conn.Control(func(fd uintptr) { unix.SetNonblock(int(fd), true) })
	ns.Must(func() error {
		if _, err := afpacket.OpenTap("vm0", 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("second reader: %v", err)
		}
		return nil
	})
	if _, err := afpacket.DrainTap(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("bad descriptor: %v", err)
	}
}

// TestNoAllocations holds the data path to its promise.
func TestNoAllocations(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	rx, tx := openRX(t, b, "vb", afpacket.Options{}), openTX(t, a, "va")
	bufs, meta := pool(afpacket.MaxBatch, 2048)
	msgs := make([]afpacket.Msg, afpacket.MaxBatch)
	for i := range msgs {
		f := frame("payload")
		msgs[i] = afpacket.Msg{A: f[:20], B: f[20:]}
	}
	received := 0
	if n := testing.AllocsPerRun(200, func() {
		if n, err := tx.Send(msgs); n != len(msgs) || err != nil {
			t.Fatal(n, err)
		}
		n, err := rx.Recv(bufs, meta)
		if err != nil {
			t.Fatal(err)
		}
		received += n
		if _, err := rx.Drops(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	if received == 0 {
		t.Error("nothing was received")
	}
}

// BenchmarkPath is the price of one frame: sent, carried over a veth pair, received. The second row keeps frames whole.
func BenchmarkPath(b *testing.B) {
	for _, size := range []int{64, 1514, 65000} {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("%dB/batch%d", size, batch), func(b *testing.B) {
				x, y := netnstest.New(b, "a"), netnstest.New(b, "b")
				netnstest.Veth(x, "va", y, "vb")
				rx, tx := openRX(b, y, "vb", afpacket.Options{}), openTX(b, x, "va")
				f := tcpFrame(size)
				msgs := make([]afpacket.Msg, batch)
				for i := range msgs {
					msgs[i] = afpacket.Msg{A: f[:54], B: f[54:]}
				}
				bufs, meta := pool(afpacket.MaxBatch, afpacket.BufSize)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for sent := 0; sent < b.N; {
					k := min(batch, b.N-sent)
					if n, err := tx.Send(msgs[:k]); n != k || err != nil {
						b.Fatal(n, err, tx.Stats())
					}
					sent += k
					for got := 0; got < k; {
						n, err := rx.Recv(bufs, meta)
						if err != nil {
							b.Fatal(err)
						}
						got += n
					}
				}
			})
		}
	}
}

// BenchmarkTCP is one TCP connection in one direction through a host in the middle: forwarded by its bridge, and carried
// by the sockets of this package, released at once.
func BenchmarkTCP(b *testing.B) {
	for _, way := range []string{"bridge", "sockets"} {
		b.Run(way, func(b *testing.B) {
			client, mid, server := netnstest.New(b, "client"), netnstest.New(b, "mid"), netnstest.New(b, "server")
			netnstest.Veth(client, "eth0", mid, "left")
			netnstest.Veth(server, "eth0", mid, "right")
			client.Addr("eth0", "192.0.2.1/24")
			server.Addr("eth0", "192.0.2.2/24")
			if way == "bridge" {
				mid.Bridge("br0", "left", "right")
			} else {
				startRelay(b, mid, "left", "right")
			}
			l := server.Listen("192.0.2.2:0")
			const chunk = 1 << 20
			b.SetBytes(chunk)
			done := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					defer c.Close()
					_, err = io.CopyN(c, zeros{}, int64(b.N)*chunk)
				}
				done <- err
			}()
			c, err := client.Dial(context.Background(), "tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ResetTimer()
			if _, err := io.CopyN(io.Discard, c, int64(b.N)*chunk); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// tcpFrame is an IPv4 TCP frame of size bytes with a partial checksum, to be cut into segments of 1,448 if it is large.
func tcpFrame(size int) []byte {
	f := make([]byte, afpacket.VnetLen+size)
	v, e := f[:afpacket.VnetLen], f[afpacket.VnetLen:]
	copy(e, "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x00")
	copy(e[14:], "\x45\x00\x00\x00\x00\x00\x40\x00\x40\x06\x00\x00\xc0\x00\x02\x01\xc0\x00\x02\x02")
	binary.BigEndian.PutUint16(e[16:], uint16(size-14))
	e[34+12] = 5 << 4
	v[0] = 1
	binary.LittleEndian.PutUint16(v[6:], 34)
	binary.LittleEndian.PutUint16(v[8:], 16)
	if size > 1514 {
		v[1] = unix.VIRTIO_NET_HDR_GSO_TCPV4
		binary.LittleEndian.PutUint16(v[2:], 54)
		binary.LittleEndian.PutUint16(v[4:], 1448)
	}
	return f
}
