package compare

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"github.com/cockroachdb/datadriven"
)

// TestScenarios plays the stories of testdata/*.txt: what each guest and the client say, when the links deliver,
// checkpoints and losses, with the transcript of what both sides do as the expected text. Numbers are stream
// offsets: 0 is the first byte after the SYN, of the guest for data and of the client for acknowledgements.
//
// Commands:
//
//	world [hold=20ms] [solo]      a new pair, after its arming checkpoint unless solo
//	primary, secondary, client    let one speak, a frame a line (see scene.frame)
//	deliver [n] [a|b]             both links until they rest, or n items to one side
//	wait d                        time passes, the engine ticks
//	checkpoint, begin, end, abort, solo, promote
//	logged from=n to=n            the log of the secondary's node has the client's bytes [from, to)
//	buffer [off]                  the epochs that begin with the next checkpoints are buffered, or not
//	notify                        the other node is told how far the released streams go
//	stats                         counters that are not zero
//
// Run with -rewrite to make the transcripts anew; commit only what you understand.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := &scene{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

type scene struct {
	w    *world
	out  strings.Builder
	p, s conn
	seen struct{ rel, div, toB, toA int }
}

const (
	scenePISS = 1000000
	sceneSISS = 5000000
	sceneCISS = 70000
)

func (s *scene) reset(t *testing.T, hold time.Duration, solo, v6, ts bool) {
	cfg := Config{Hold: hold}
	if solo {
		s.w = newWorld(t, cfg)
	} else {
		s.w = protected(t, cfg)
	}
	s.p, s.s = twins(v6, scenePISS, sceneSISS, sceneCISS, ts)
	s.seen.rel, s.seen.div, s.seen.toB, s.seen.toA = 0, 0, 0, 0
	s.w.released, s.w.diverged = nil, nil
}

func (s *scene) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	if d.Cmd == "world" {
		hold := 20 * time.Millisecond
		if d.HasArg("hold") {
			var h string
			d.ScanArgs(t, "hold", &h)
			hold, _ = time.ParseDuration(h)
		}
		s.reset(t, hold, d.HasArg("solo"), d.HasArg("v6"), d.HasArg("ts"))
		return "ok\n"
	}
	w := s.w
	switch d.Cmd {
	case "primary", "secondary", "client":
		for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			buf, err := s.frame(d.Cmd, strings.Fields(line))
			if err != nil {
				d.Fatalf(t, "%s: %v", line, err)
			}
			switch d.Cmd {
			case "primary":
				w.primary(buf)
			case "secondary":
				w.secondary(buf)
			default:
				w.input(buf)
			}
			s.news()
		}
	case "deliver":
		s.deliver(t, d)
	case "wait":
		dur, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		w.tick(dur)
	case "checkpoint":
		w.checkpoint()
		s.s.iss = s.p.iss
		w.toA, w.toB = nil, nil
	case "begin":
		w.e.BeginCheckpoint(w.now)
		w.collect()
	case "load":
		w.pumpB(1 << 20)
		w.d.Reset(w.now)
		w.oracle.checkpoint()
		s.s.iss = s.p.iss
		w.collect()
	case "end":
		w.now++
		w.e.EndCheckpoint(w.now, w.now)
		w.collect()
	case "resumed":
		s.seen.toA = len(w.toA)
		w.now += 1000
		w.e.EndCheckpoint(w.now, w.now-500)
		w.collect()
	case "abort":
		w.e.AbortCheckpoint(w.now)
		w.collect()
	case "buffer":
		w.e.SetBuffer(!d.HasArg("off"))
	case "notify":
		w.e.Notify(w.now)
		w.collect()
	case "logged":
		var from, to int
		d.ScanArgs(t, "from", &from)
		d.ScanArgs(t, "to", &to)
		var p frame.Parsed
		buf, err := s.frame("client", []string{"ack", "0"})
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		frame.Parse(buf, &p)
		w.logged(p.Key(false), frame.Num(sceneCISS+1+uint32(from)), frame.Num(sceneCISS+1+uint32(to)))
	case "solo":
		w.e.Solo(w.now)
		w.collect()
	case "promote":
		frames, fronts := w.d.Promote(w.now)
		for _, f := range frames {
			kind := "unreleased"
			if f.Index < 0 {
				kind = "made"
			} else {
				w.takeBack(f)
			}
			fmt.Fprintf(&s.out, "%s: %s\n", kind, s.show(&f.P, f.Buf, s.s.iss))
		}
		w.collect()
		for _, f := range fronts {
			fmt.Fprintf(&s.out, "front: port %d seq offset %d ts offset %d last ts %d closed %t\n", f.Key.PeerPort, int32(f.SeqOff), int32(f.TSOff), f.LastTS, f.Closed)
		}
	case "stats":
		fmt.Fprintf(&s.out, "%s\n", nonZero(w.e.Stats()))
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	s.news()
	if s.out.Len() == 0 {
		return "nothing\n"
	}
	return s.out.String()
}

func nonZero(s Stats) string {
	var out []string
	for _, f := range strings.Fields(strings.Trim(fmt.Sprintf("%+v", s), "{}")) {
		if !strings.HasSuffix(f, ":0") && !strings.HasPrefix(f, "Bytes") {
			out = append(out, f)
		}
	}
	return strings.Join(out, " ")
}

func (s *scene) deliver(t *testing.T, d *datadriven.TestData) {
	n, side := 1<<20, ""
	for _, a := range d.CmdArgs {
		if a.Key == "a" || a.Key == "b" {
			side = a.Key
		} else if v, err := strconv.Atoi(a.Key); err == nil {
			n = v
		}
	}
	for {
		moved := false
		if side != "b" {
			moved = s.pump(s.w.pumpA, &s.seen.toA, n, len(s.w.toA)) || moved
		}
		if side != "a" {
			moved = s.pump(s.w.pumpB, &s.seen.toB, n, len(s.w.toB)) || moved
		}
		if !moved || side != "" {
			return
		}
	}
}

func (s *scene) pump(f func(int) bool, seen *int, n, queued int) bool {
	n = min(n, queued)
	if n == 0 {
		return false
	}
	for range n {
		*seen--
		f(1)
		s.news()
	}
	return true
}

// news writes what has happened since the last call.
func (s *scene) news() {
	w := s.w
	for ; s.seen.rel < len(w.released); s.seen.rel++ {
		x := &w.released[s.seen.rel]
		fmt.Fprintf(&s.out, "release %s: %s\n", x.why, s.show(&x.p, x.buf, s.p.iss))
	}
	s.seen.toB = max(s.seen.toB, 0)
	for ; s.seen.toB < len(w.toB); s.seen.toB++ {
		m := &w.toB[s.seen.toB]
		switch m.Kind {
		case MessageAnnounce:
			fmt.Fprintf(&s.out, "A->B announce seq %d\n", m.Announce.Seq)
		case MessageAsk:
			fmt.Fprintf(&s.out, "A->B ask %s\n", s.rng(m.Ask.Seq, m.Ask.Len))
		case MessageAskRaw:
			if m.Ask.Len == 0 {
				fmt.Fprintf(&s.out, "A->B ask raw bytes of datagram %d\n", m.Ask.Index)
			} else {
				fmt.Fprintf(&s.out, "A->B ask raw bytes of %s\n", s.rng(m.Ask.Seq, m.Ask.Len))
			}
		case MessageWatermark:
			if m.Watermark.Kind == frame.KindTCP {
				fmt.Fprintf(&s.out, "A->B watermark ack %d\n", int32(uint32(m.Watermark.Ack)-s.p.ciss-1))
			} else {
				fmt.Fprintf(&s.out, "A->B watermark next %d from %d mask %b\n", m.Watermark.Next, m.Watermark.From, m.Watermark.Mask)
			}
		}
	}
	s.seen.toA = max(s.seen.toA, 0)
	for ; s.seen.toA < len(w.toA); s.seen.toA++ {
		u := w.toA[s.seen.toA]
		switch {
		case u.def != nil:
			fmt.Fprintf(&s.out, "B->A flow %d is %s port %d\n", u.def.ID, u.def.Key.Kind, u.def.Key.PeerPort)
		case u.raw != nil:
			fmt.Fprintf(&s.out, "B->A raw %d bytes\n", len(u.raw.Data))
		case u.desc != nil:
			s.descriptor(u.desc)
		}
	}
	for ; s.seen.div < len(w.diverged); s.seen.div++ {
		d := &w.diverged[s.seen.div]
		fmt.Fprintf(&s.out, "DIVERGENCE %d %s", d.ID, d.Reason)
		if d.Key.Kind == frame.KindTCP {
			fmt.Fprintf(&s.out, " at %s", s.rng(d.Seq, d.Len))
		}
		if d.Exact {
			fmt.Fprintf(&s.out, " position %d, frame offset %d, primary %q secondary %q", d.Position, d.FrameOffset, d.Primary, d.Secondary)
		}
		if d.Detail != "" {
			fmt.Fprintf(&s.out, " (%s)", d.Detail)
		}
		if !d.Final {
			s.out.WriteString(", position asked for")
		}
		s.out.WriteByte('\n')
	}
}

func (s *scene) rng(seq frame.Num, n uint32) string {
	at := int32(uint32(seq) - s.p.iss - 1)
	return fmt.Sprintf("[%d,%d)", at, at+int32(n))
}

func (s *scene) descriptor(d *Descriptor) {
	switch d.Kind {
	case DescribeTCP:
		fmt.Fprintf(&s.out, "B->A flow %d says %s", d.Flow, flagNames(d.Flags))
		if d.Flags&frame.SYN != 0 {
			fmt.Fprintf(&s.out, " mss %d wscale %d mapped %t", d.MSS, d.WScale, d.Mapped)
		} else {
			fmt.Fprintf(&s.out, " %s in %d", s.rng(d.Seq, d.Len), len(d.Digests))
		}
		if d.Flags&frame.ACK != 0 {
			fmt.Fprintf(&s.out, " ack %d win %d", int32(uint32(d.Ack)-s.p.ciss-1), d.Window)
		}
		for _, b := range d.SACK[:d.NSACK] {
			fmt.Fprintf(&s.out, " sack %d-%d", int32(uint32(b[0])-s.p.ciss-1), int32(uint32(b[1])-s.p.ciss-1))
		}
		s.out.WriteByte('\n')
	case DescribeDatagram:
		fmt.Fprintf(&s.out, "B->A flow %d says datagram %d of %d bytes\n", d.Flow, d.Index, d.Len)
	case DescribeReply:
		fmt.Fprintf(&s.out, "B->A digest of %s\n", s.rng(d.Seq, d.Len))
	case DescribeGone:
		fmt.Fprintf(&s.out, "B->A %s is acknowledged and gone\n", s.rng(d.Seq, d.Len))
	case DescribeFault:
		fmt.Fprintf(&s.out, "B->A fault %s\n", d.Reason)
	}
}

func flagNames(f uint8) string {
	var out []string
	for i, n := range []string{"fin", "syn", "rst", "psh", "ack"} {
		if f&(1<<i) != 0 && n != "psh" && (n != "ack" || f&^(frame.ACK|frame.PSH) == 0) {
			out = append(out, n)
		}
	}
	return strings.Join(out, "+")
}

// show is a frame in the words of the scenario.
func (s *scene) show(p *frame.Parsed, buf []byte, iss uint32) string {
	if p.Kind != frame.KindTCP {
		from, to, _ := compared(buf, p)
		return fmt.Sprintf("%s %q", p.Kind, buf[from:to])
	}
	var b strings.Builder
	b.WriteString(flagNames(p.Flags))
	if p.Flags&frame.SYN != 0 {
		fmt.Fprintf(&b, " seq %d", p.Seq)
	} else {
		at := int32(uint32(p.Seq) - iss - 1)
		fmt.Fprintf(&b, " [%d,%d)", at, at+int32(p.Len()))
	}
	if n := p.Len(); n > 0 && n <= 40 {
		fmt.Fprintf(&b, " %q", buf[p.Payload:p.End])
	}
	if p.Flags&frame.ACK != 0 {
		fmt.Fprintf(&b, " ack %d win %d", int32(uint32(p.Ack)-s.p.ciss-1), p.Window)
	}
	for i := range p.SACKLen / 8 {
		l, r := p.SACK(buf, i)
		fmt.Fprintf(&b, " sack %d-%d", int32(uint32(l)-s.p.ciss-1), int32(uint32(r)-s.p.ciss-1))
	}
	if p.HasTS {
		fmt.Fprintf(&b, " ts %d", p.TSVal)
	}
	if p.GSOSize > 0 {
		fmt.Fprintf(&b, " gso %d", p.GSOSize)
	}
	return b.String()
}

// frame makes what a line says:
//
//	syn [mss=1460] [iss=n]        a SYN; for guests a guest-initiated connection
//	syn-ack [mss=1460] [iss=n] [ciss=n]
//	data OFF TEXT|*N [ack=n] [win=500] [fin] [sack=a-b] [ts=n]   *N: N bytes of a pattern
//	ack N [seq=OFF] [win=500] [sack=a-b] [ts=n]
//	fin OFF [ack=n]
//	rst OFF, refuse               the answer to a SYN at a closed port
//	udp TEXT [ttl=n], ping ID TEXT, arp, other TEXT
func (s *scene) frame(who string, f []string) ([]byte, error) {
	c := &s.p
	if who == "secondary" {
		c = &s.s
	}
	num := func(key string, def int) int {
		for _, a := range f[1:] {
			if v, ok := strings.CutPrefix(a, key+"="); ok {
				n, err := strconv.Atoi(v)
				if err == nil {
					return n
				}
			}
		}
		return def
	}
	flag := func(key string) bool {
		for _, a := range f[1:] {
			if a == key {
				return true
			}
		}
		return false
	}
	tc := frametest.TCP{Src: c.guest, Dst: c.client, Window: uint16(num("win", 500)), Flags: frame.ACK}
	if n := num("ts", 0); n > 0 {
		tc.Options = frametest.TS(uint32(n), 77)
	}
	for _, a := range f[1:] {
		if v, ok := strings.CutPrefix(a, "sack="); ok {
			var l, r uint32
			fmt.Sscanf(v, "%d-%d", &l, &r)
			tc.Options = append(append(tc.Options, 1, 1), frametest.SACK([2]uint32{c.ciss + 1 + l, c.ciss + 1 + r})...)
		}
	}
	mine, peer := &c.iss, &c.ciss
	if who == "client" {
		tc.Src, tc.Dst, mine, peer = c.client, c.guest, &c.ciss, &c.iss
	}
	off := func(i int) int {
		if i < len(f) {
			n, _ := strconv.Atoi(f[i])
			return n
		}
		return 0
	}
	opts := func() []byte {
		mss := uint16(num("mss", 1460))
		return []byte{2, 4, byte(mss >> 8), byte(mss), 1, 3, 3, 7}
	}
	switch f[0] {
	case "syn":
		*mine = uint32(num("iss", int(*mine)))
		s.s.ciss = s.p.ciss
		tc.Seq, tc.Flags, tc.Options, tc.Window = *mine, frame.SYN, opts(), 65000
		if who != "client" {
			s.w.oracle.flow(keyOf(tc.Bytes())).off = s.p.iss - s.s.iss
		}
	case "syn-ack":
		*mine = uint32(num("iss", int(*mine)))
		*peer = uint32(num("ciss", int(*peer)))
		tc.Seq, tc.Ack, tc.Flags, tc.Options, tc.Window = *mine, *peer+1, frame.SYN|frame.ACK, opts(), 65000
		if who != "client" {
			s.w.oracle.flow(keyOf(tc.Bytes())).off = s.p.iss - s.s.iss
		}
	case "data":
		if n, ok := strings.CutPrefix(f[2], "*"); ok {
			v, _ := strconv.Atoi(n)
			tc.Payload = pattern(v)
		} else {
			tc.Payload = []byte(f[2])
		}
		tc.Seq, tc.Ack = *mine+1+uint32(off(1)), *peer+1+uint32(num("ack", 0))
		if len(tc.Payload) > 1448 {
			tc.GSO, tc.Partial = 1448, true
		}
		if flag("fin") {
			tc.Flags |= frame.FIN
		}
	case "ack":
		tc.Seq, tc.Ack = *mine+1+uint32(num("seq", 0)), *peer+1+uint32(off(1))
	case "fin":
		tc.Flags |= frame.FIN
		tc.Seq, tc.Ack = *mine+1+uint32(off(1)), *peer+1+uint32(num("ack", 0))
	case "rst":
		tc.Flags = frame.RST
		tc.Seq = *mine + 1 + uint32(off(1))
	case "refuse":
		tc.Flags = frame.RST | frame.ACK
		tc.Ack = *peer + 1
	case "udp":
		return frametest.UDP(frametest.Link{TTL: uint8(num("ttl", 64))}, tc.Src, tc.Dst, []byte(f[1]), true), nil
	case "ping":
		return frametest.ICMP(frametest.Link{}, tc.Src.IP, tc.Dst.IP, 0, 0, append([]byte{0, byte(off(1)), 0, 0}, f[2]...)), nil
	case "arp":
		return frametest.ARP(frametest.Link{}, 1, tc.Src.IP, netip.MustParseAddr("192.0.2.1")), nil
	case "other":
		return append(make([]byte, 22), append([]byte{0x88, 0xcc}, f[1]...)...), nil
	default:
		return nil, fmt.Errorf("unknown frame %q", f[0])
	}
	return tc.Bytes(), nil
}

func keyOf(buf []byte) frame.FlowKey {
	var p frame.Parsed
	frame.Parse(buf, &p)
	return p.Key(true)
}
