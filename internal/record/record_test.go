package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// pair is an engine and a describer with guests that serve HTTP-like answers over many connections, cut differently,
// some with differing dates, each divergence answered by a checkpoint some time later.
type pair struct {
	e     *compare.Tapped
	d     *compare.Describer
	rng   *rand.Rand
	now   int64
	real  int64
	conns []*conn
	toA   []func()
	toB   []compare.Message
	got   uint64
	want  int64 // when the checkpoint that was asked for begins, 0: none

	divergences, releases, acts int
}

type conn struct {
	guest, client frametest.Addr
	iss, siss     uint32
	off           uint32
}

func newPair(seed uint64, rules []compare.Tolerance) *pair {
	cfg := compare.Config{Key: [16]byte{9, 8, 7}, Hold: 20 * time.Millisecond, Tolerances: rules}
	p := &pair{e: compare.NewTapped(cfg), d: compare.NewDescriber(cfg), rng: rand.New(rand.NewPCG(seed, 2)), now: 1e9, real: 1e18}
	p.checkpoint()
	return p
}

func (p *pair) frame(buf []byte) *compare.Frame {
	f := &compare.Frame{Buf: bytes.Clone(buf), KTime: p.real}
	frame.Parse(f.Buf, &f.P)
	return f
}

// act ends a batch, as the data path does: often there is an occasion to tell the other side what was released.
func (p *pair) act() {
	if p.acts++; p.acts%3 != 0 {
		p.e.Notify(p.now)
	}
	out := p.e.Out()
	p.releases += len(out.Releases)
	p.toB = append(p.toB, out.Messages...)
	for i := range out.Divergences {
		p.divergences++
		if p.want == 0 {
			p.want = p.now + 2e6
		}
		_ = out.Divergences[i]
	}
	out.Reset()
	o := p.d.Out()
	for _, def := range o.FlowDefs {
		p.toA = append(p.toA, func() { p.e.FlowDef(def.ID, def.Key) })
	}
	for _, d := range o.Descriptors {
		d.Digests = append([][compare.DigestLen]byte(nil), d.Digests...)
		p.toA = append(p.toA, func() { p.e.Descriptor(p.now, &d) })
	}
	for _, r := range o.Raws {
		p.toA = append(p.toA, func() { p.e.Raw(p.now, &r) })
	}
	o.Reset()
}

func (p *pair) pump(n int) {
	for ; n > 0 && len(p.toA) > 0; n-- {
		f := p.toA[0]
		p.toA = p.toA[1:]
		f()
		if n%5 == 0 {
			p.act()
		}
	}
	p.act()
	for len(p.toB) > 0 {
		m := p.toB[0]
		p.toB = p.toB[1:]
		p.d.Message(&m)
		p.got++
		n := p.got
		p.toA = append(p.toA, func() { p.e.Received(p.now, n) })
		p.act()
	}
}

func (p *pair) checkpoint() {
	p.e.BeginCheckpoint(p.now)
	p.act()
	p.pump(1 << 20)
	p.d.Reset(p.now)
	p.act()
	p.pump(1 << 20)
	p.now, p.real = p.now+1e6, p.real+1e6
	p.e.EndCheckpoint(p.now, p.real)
	p.act()
	for _, c := range p.conns {
		c.siss = c.iss
	}
	p.want = 0
}

func (p *pair) open() {
	i := len(p.conns)
	c := &conn{guest: frametest.A("192.0.2.10:80"), client: frametest.A(fmt.Sprintf("198.51.100.7:%d", 20000+i)), iss: p.rng.Uint32(), siss: p.rng.Uint32()}
	p.conns = append(p.conns, c)
	syn := func(iss uint32) []byte {
		return frametest.TCP{Src: c.guest, Dst: c.client, Seq: iss, Ack: 1001, Flags: frame.SYN | frame.ACK, Window: 65000, Options: frametest.SYNOptions(1460, 7, uint32(p.now/1e6), 7)}.Bytes()
	}
	p.d.Secondary(p.now, p.frame(syn(c.siss)))
	p.act()
	p.e.Primary(p.now, p.frame(syn(c.iss)))
	p.act()
	p.pump(1 << 20)
	p.client(c)
}

// client acknowledges what was sent.
func (p *pair) client(c *conn) {
	buf := frametest.TCP{Src: c.client, Dst: c.guest, Seq: 1001, Ack: c.iss + 1 + c.off, Flags: frame.ACK, Window: 65000, Options: frametest.TS(7, uint32(p.now/1e6))}.Bytes()
	var q frame.Parsed
	frame.Parse(buf, &q)
	p.d.Input(p.now, &q)
	p.e.Input(p.now, buf, &q)
	p.act()
}

func (p *pair) answer(c *conn) {
	sec := p.rng.IntN(59)
	other := sec
	if p.rng.IntN(4) == 0 {
		other++
	}
	body := bytes.Repeat([]byte{byte('a' + p.rng.IntN(20))}, p.rng.IntN(4000))
	say := func(s int) []byte {
		return []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:%02d GMT\r\nContent-Length: %d\r\n\r\n%s", s, len(body), body))
	}
	send := func(iss uint32, data []byte, to func(*compare.Frame)) {
		for at := 0; at < len(data); {
			n := min(len(data)-at, 100+p.rng.IntN(1400))
			to(p.frame(frametest.TCP{Src: c.guest, Dst: c.client, Seq: iss + 1 + c.off + uint32(at), Ack: 1001, Flags: frame.ACK, Window: 500,
				Options: frametest.TS(uint32(p.now/1e6), 7), Payload: data[at : at+n]}.Bytes()))
			at += n
			p.act()
		}
	}
	mine, theirs := say(sec), say(other)
	primary := func() { send(c.iss, mine, func(f *compare.Frame) { p.e.Primary(p.now, f) }) }
	secondary := func() { send(c.siss, theirs, func(f *compare.Frame) { p.d.Secondary(p.now, f) }) }
	if p.rng.IntN(2) == 0 {
		primary()
		p.pump(p.rng.IntN(20))
		secondary()
	} else {
		secondary()
		p.pump(p.rng.IntN(20))
		primary()
	}
	c.off += uint32(len(mine))
}

func (p *pair) step() {
	dt := int64(p.rng.IntN(2e6))
	p.now, p.real = p.now+dt, p.real+dt
	if d := p.e.Deadline(); d != 0 && p.now >= d {
		p.e.Tick(p.now)
		p.act()
	}
	switch {
	case p.want != 0 && p.now >= p.want:
		p.checkpoint()
	case len(p.conns) < 5 || p.rng.IntN(40) == 0 && len(p.conns) < 60:
		p.open()
	default:
		c := p.conns[p.rng.IntN(len(p.conns))]
		p.answer(c)
		p.pump(p.rng.IntN(60))
		if p.rng.IntN(3) > 0 {
			p.pump(1 << 20)
			if p.want == 0 {
				p.client(c)
			}
		}
		if p.rng.IntN(50) == 0 {
			p.e.SetBudget(time.Duration(5+p.rng.IntN(30)) * time.Millisecond)
		}
	}
	if p.rng.IntN(5) == 0 {
		g, c := frametest.A("192.0.2.10:53"), frametest.A("198.51.100.7:1000")
		a := []byte(fmt.Sprint("answer ", p.rng.Uint32()))
		b := a
		if p.rng.IntN(10) == 0 {
			b = []byte(fmt.Sprint("another ", p.rng.Uint32()))
		}
		p.e.Primary(p.now, p.frame(frametest.UDP(frametest.Link{}, g, c, a, false)))
		p.d.Secondary(p.now, p.frame(frametest.UDP(frametest.Link{}, g, c, b, false)))
		p.act()
	}
}

// recordPair makes a recording of steps, beginning somewhere in the middle.
func recordPair(t testing.TB, seed uint64, before, steps int, rules []compare.Tolerance) ([]byte, *pair) {
	p := newPair(seed, rules)
	for range before {
		p.step()
	}
	cfg := compare.Config{Key: [16]byte{9, 8, 7}, Hold: 20 * time.Millisecond, Tolerances: rules}
	w := NewWriter(Header{Node: "a", Pair: "guest1"}, cfg, p.e.Snapshot(nil), p.now, p.real)
	p.e.SetTap(w)
	p.divergences, p.releases = 0, 0
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- w.Stream(ctx, &out, func() error { return nil }, func() (bool, error) { return true, nil })
	}()
	for range steps {
		p.step()
	}
	p.e.SetTap(nil)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), p
}

var dates = []compare.Tolerance{{Name: "date", Kind: frame.KindTCP, Port: 80, Header: "Date"}}

// TestReplayIsIdentical: every answer of a replay is the recorded one, wherever the recording begins.
func TestReplayIsIdentical(t *testing.T) {
	for seed := range uint64(12) {
		rules := dates
		if seed%2 == 0 {
			rules = nil
		}
		rec, p := recordPair(t, seed, int(seed)*37, 400, rules)
		res, err := Replay(bytes.NewReader(rec), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !res.Same || !res.Whole {
			t.Fatalf("seed %d: same %t whole %t: %s", seed, res.Same, res.Whole, res.First)
		}
		if res.Replayed.Releases != uint64(p.releases) || res.Recorded.Divergences == 0 && rules == nil || p.divergences == 0 {
			t.Fatalf("seed %d: %+v, live %d releases, %d divergences", seed, res.Replayed, p.releases, p.divergences)
		}
		if res.Recorded.Divergences != res.Replayed.Divergences || res.Recorded.Needed != res.Replayed.Needed {
			t.Fatalf("recorded %+v, replayed %+v", res.Recorded, res.Replayed)
		}
	}
}

// TestReplayNoticesADifference: the check bites.
func TestReplayNoticesADifference(t *testing.T) {
	rec, _ := recordPair(t, 3, 100, 200, nil)
	h, state, err := begin(bytes.NewReader(rec))
	if err != nil {
		t.Fatal(err)
	}
	h.HoldNS /= 3
	h.Key[0]++ // no digest fits any more
	other := NewWriter(*h, compare.Config{Key: [16]byte(h.Key), Hold: time.Duration(h.HoldNS)}, state, h.Mono, h.Started.UnixNano()).head
	old := NewWriter(*h, compare.Config{Key: [16]byte{9, 8, 7}, Hold: 20 * time.Millisecond}, state, h.Mono, h.Started.UnixNano()).head
	head := 0
	for i := range rec { // the events follow the two blocks of the header
		if bytes.HasPrefix(rec[i:], state[:64]) {
			head = i + len(state)
			break
		}
	}
	_ = old
	res, err := Replay(bytes.NewReader(append(bytes.Clone(other), rec[head:]...)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Same || res.First == "" {
		t.Fatal("another key, and the answers are the same")
	}
}

// TestTolerancesAreTried: with a rule for the date, the date divergences of a recording are gone and the others stay.
func TestTolerancesAreTried(t *testing.T) {
	rec, _ := recordPair(t, 8, 50, 500, nil)
	var left []string
	res, err := Replay(bytes.NewReader(rec), Options{Other: true, Tolerances: dates, Diverged: func(_ time.Time, d *compare.Divergence) {
		if d.Key.Kind == frame.KindTCP && d.Reason == compare.ReasonPayload && d.Exact && !bytes.Contains(d.PrimaryAround, []byte("Date:")) {
			left = append(left, string(d.PrimaryAround))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	was, is := res.Recorded, res.Replayed
	if was.ByReason["payload"] == 0 || is.Tolerated == 0 || is.Rules[0].Uses != is.Tolerated {
		t.Fatalf("recorded %+v, replayed %+v", was, is)
	}
	if is.Needed >= was.Needed {
		t.Errorf("%d epochs with a divergence, were %d", is.Needed, was.Needed)
	}
	if len(left) > 0 {
		t.Errorf("%d others, such as %q", len(left), left[0])
	}
}

// TestDamagedRecording: no damage makes Replay panic, and a recording that was cut off runs up to there.
func TestDamagedRecording(t *testing.T) {
	rec, _ := recordPair(t, 5, 10, 30, nil)
	for n := 0; n < len(rec); n += 1 + len(rec)/200 {
		res, err := Replay(bytes.NewReader(rec[:n]), Options{})
		if err == nil && (res.Whole || !res.Same) {
			t.Fatalf("cut at %d: %+v", n, res)
		}
		b := bytes.Clone(rec)
		b[n] ^= 0x40
		if res, err := Replay(bytes.NewReader(b), Options{}); err == nil && res.Whole && res.Same {
			t.Fatalf("byte %d changed and nothing noticed", n)
		}
	}
	if _, err := Replay(bytes.NewReader([]byte("something else entirely")), Options{}); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

// TestSlowDisk: a recording that is not taken in time ends early and says so; the data path does not wait.
func TestSlowDisk(t *testing.T) {
	w := NewWriter(Header{}, compare.Config{}, nil, 0, 0)
	f := &compare.Frame{Buf: make([]byte, 60000)}
	for range (backlog + 10) * blockLen / 60000 * 2 {
		w.Primary(1, f)
	}
	var out bytes.Buffer
	err := w.Stream(context.Background(), &out, func() error { return nil }, func() (bool, error) { return true, nil })
	if !errors.Is(err, ErrSlow) {
		t.Fatal(err)
	}
}

func BenchmarkReplay(b *testing.B) {
	rec, _ := recordPair(b, 1, 0, 3000, nil)
	b.SetBytes(int64(len(rec)))
	var length time.Duration
	for b.Loop() {
		res, err := Replay(bytes.NewReader(rec), Options{})
		if err != nil || !res.Same {
			b.Fatal(err, res.First)
		}
		length += res.Length
	}
	b.ReportMetric(length.Seconds()/b.Elapsed().Seconds(), "x-real-time")
}
