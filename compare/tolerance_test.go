package compare

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"pgregory.net/rapid"
)

func response(sec int, extra, body string) []byte {
	return []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: test\r\nDate: Sat, 21 Nov 2026 15:09:%02d GMT\r\n%sContent-Length: %d\r\n\r\n%s",
		sec, extra, len(body), body))
}

var dateRule = Tolerance{Name: "date", Kind: frame.KindTCP, Port: 80, Header: "Date"}

// tolerant is a world with rules in which a connection is open; the oracle does not know of tolerances.
func tolerant(t tb, rules ...Tolerance) (w *world, p, s conn) {
	for i := range rules {
		if why := rules[i].Check(); why != "" {
			t.Fatalf("rule %s: %s", rules[i].Name, why)
		}
	}
	w = protected(t, Config{Tolerances: rules})
	w.oracle.off = true
	p, s = twins(false, 1000, 777000, 5000, true)
	w.open(&p, &s)
	return w, p, s
}

// stream is the bytes that reached the client from the first byte after the SYN on.
func (w *world) stream(p *conn, n int) []byte {
	out := make([]byte, n)
	for _, x := range w.released {
		for i, b := range x.payload() {
			if at := int(uint32(x.p.Seq)-p.iss-1) + i; at >= 0 && at < n {
				out[at] = b
			}
		}
	}
	return out
}

// TestDateIsTolerated: a Date header that differs is released at once as the primary said it, the stream goes on
// behind it, and a repetition says the same again.
func TestDateIsTolerated(t *testing.T) {
	w, p, s := tolerant(t, dateRule)
	mine, theirs := response(25, "", "hello"), response(26, "", "hello")
	w.primary(p.data(0, mine, 0, 0, 1000))
	w.secondary(s.data(0, theirs, 0, 0, 1000))
	w.settle()
	w.noDivergence()
	if got := w.stream(&p, len(mine)); !bytes.Equal(got, mine) {
		t.Fatalf("released %q", got)
	}
	w.primary(p.data(0, mine, 0, 0, 1000)) // repeated
	w.settle()
	w.noDivergence()
	if got := w.released[len(w.released)-1].payload(); !bytes.Equal(got, mine) {
		t.Fatalf("repetition said %q", got)
	}
	for i := range 20 {
		m, o := response(i, "", "x"), response(i+1, "", "x")
		off := len(mine)
		mine = append(mine, m...)
		w.secondary(s.data(off, o, 0, 0, 1000))
		w.primary(p.data(off, m, 0, 0, 1000))
		w.settle()
	}
	w.noDivergence()
	if got := w.stream(&p, len(mine)); !bytes.Equal(got, mine) {
		t.Fatalf("released %q", got)
	}
	w.input(p.fromClient(p.iss, 0, nil, 0, len(mine)))
	w.noLoans()
	if st := w.e.Tolerances(); st[0].Uses != 22 || st[0].Followed != 0 {
		t.Errorf("uses %+v", st)
	}
}

// TestByteBesideToleranceDiverges: whatever byte differs in addition, the divergence is there, at its place, and
// nothing from the range is released.
func TestByteBesideToleranceDiverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rules := []Tolerance{dateRule, {Name: "sid", Kind: frame.KindTCP, Port: 80, Pattern: regexp.MustCompile(`sid=([0-9a-f]{8})`)}}
		w, p, s := tolerant(rt, rules...)
		mine, theirs := response(25, "Set-Cookie: sid=00112233\r\n", "hello"), response(26, "Set-Cookie: sid=0011aaff\r\n", "hello")
		at := rapid.IntRange(0, len(mine)-1).Draw(rt, "at")
		date, sid := bytes.Index(mine, []byte("Sat,")), bytes.Index(mine, []byte("sid="))+4
		theirs[at] = byte(rapid.IntRange(0, 255).Draw(rt, "byte"))
		within := at >= sid && at < sid+8 && strings.IndexByte("0123456789abcdef", theirs[at]) >= 0
		_, ok := httpDate(theirs[date : date+29])
		within = within || at >= date && at < date+29 && ok || theirs[at] == mine[at] || theirs[at] == response(26, "Set-Cookie: sid=0011aaff\r\n", "hello")[at]
		if at >= date && at < date+29 && ok {
			return // another date: how far apart is checked elsewhere
		}
		w.primary(p.data(0, mine, 0, 0, 1000))
		w.secondary(s.data(0, theirs, 0, 0, 1000))
		w.settle()
		if within {
			w.noDivergence()
			return
		}
		d := w.final()
		first := 0
		for mine[first] == theirs[first] {
			first++
		}
		if d.Reason != ReasonPayload || !d.Exact || int(d.Position) != first {
			rt.Fatalf("%s, first difference at %d", showDivergence(d), first)
		}
		if !bytes.Equal(w.stream(&p, len(mine)), make([]byte, len(mine))) {
			rt.Fatal("something of the range was released")
		}
	})
}

// TestToleranceRefuses: what looks like the rule's and is not diverges.
func TestToleranceRefuses(t *testing.T) {
	date := func(s string) []byte { return []byte("HTTP/1.1 200 OK\r\nDate: " + s + "\r\n\r\nbody") }
	for name, c := range map[string]struct{ mine, theirs []byte }{
		"skew":       {date("Sat, 21 Nov 2026 15:09:25 GMT"), date("Sat, 21 Nov 2026 15:19:25 GMT")},
		"not a date": {date("Sat, 21 Nov 2026 15:09:25 GMT"), date("Sat, 21 Nov 2026 15:09:2x GMT")},
		"in the body": {[]byte("HTTP/1.1 200 OK\r\n\r\nDate: Sat, 21 Nov 2026 15:09:25 GMT\r\n"),
			[]byte("HTTP/1.1 200 OK\r\n\r\nDate: Sat, 21 Nov 2026 15:09:26 GMT\r\n")},
		"no head":       {[]byte("Date: Sat, 21 Nov 2026 15:09:25 GMT\r\n"), []byte("Date: Sat, 21 Nov 2026 15:09:26 GMT\r\n")},
		"other field":   {[]byte("HTTP/1.1 200 OK\r\nX: 1\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nX: 2\r\n\r\n")},
		"blanks":        {date("Sat, 21 Nov 2026 15:09:25 GMT"), bytes.Replace(date("Sat, 21 Nov 2026 15:09:26 GMT"), []byte(": "), []byte(":\t"), 1)},
		"blanks behind": {date("Sat, 21 Nov 2026 15:09:25 GMT "), date("Sat, 21 Nov 2026 15:09:26 GMT\t")},
		"length":        {[]byte("HTTP/1.1 200 OK\r\nDate: a\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nDate: ab\r\n\r")},
		"the whole":     {bytes.Repeat([]byte("a"), 3000), bytes.Repeat([]byte("ba"), 1500)},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, s := tolerant(t, dateRule)
			w.primary(p.data(0, c.mine, 0, 0, 1000))
			w.secondary(s.data(0, c.theirs, 0, 0, 1000))
			w.settle()
			if d := w.final(); d.Reason != ReasonPayload {
				t.Errorf("%s", showDivergence(d))
			}
			w.checkpoint()
			w.noLoans()
		})
	}
}

// TestToleranceOnOtherPort: a rule says nothing about other flows.
func TestToleranceOnOtherPort(t *testing.T) {
	r := dateRule
	r.Port = 8080
	w, p, s := tolerant(t, r)
	w.primary(p.data(0, response(25, "", ""), 0, 0, 1000))
	w.secondary(s.data(0, response(26, "", ""), 0, 0, 1000))
	w.settle()
	w.final()
}

// TestToleranceHoldIsBounded: when the bytes do not come, the divergence does, no later than the hold budget.
func TestToleranceHoldIsBounded(t *testing.T) {
	w, p, s := tolerant(t, dateRule)
	w.primary(p.data(0, response(25, "", ""), 0, 0, 1000))
	w.secondary(s.data(0, response(26, "", ""), 0, 0, 1000))
	w.pumpA(100) // the question goes out and is not delivered
	if len(w.diverged) != 0 {
		t.Fatal("diverged at once")
	}
	w.tick(defaultHold + time.Millisecond)
	if len(w.diverged) != 1 || w.diverged[0].Reason != ReasonPayload {
		t.Fatalf("divergences %v", w.diverged)
	}
	w.settle() // both answers arrive; the first is of no use any more
	if d := w.final(); !d.Exact {
		t.Errorf("%s", showDivergence(d))
	}
	w.checkpoint()
	w.noLoans()
}

// TestToleranceCuts: the two guests cut the response differently, anywhere.
func TestToleranceCuts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w, p, s := tolerant(rt, dateRule)
		mine, theirs := response(25, "", "hello"), response(36, "", "hello")
		P := &sender{c: &p, say: w.primary, data: mine}
		S := &sender{c: &s, say: w.secondary, data: theirs}
		whole := rapid.Bool().Draw(rt, "the primary's in one")
		for !P.done() || !S.done() {
			size := uint16(200)
			if whole {
				size = uint16(len(mine))
			}
			if rapid.Bool().Draw(rt, "primary") {
				if whole && !P.done() {
					w.primary(p.data(0, mine, 0, 0, 1000))
					P.nxt = len(mine)
				} else {
					P.next(rt, size)
				}
			} else {
				S.next(rt, 200)
			}
			if rapid.Bool().Draw(rt, "pump") {
				w.settle()
			}
		}
		w.settle()
		got := w.stream(&p, len(mine))
		for i, b := range got {
			if b != 0 && b != mine[i] {
				rt.Fatalf("byte %d is not the primary's", i)
			}
		}
		if len(w.diverged) == 0 && !bytes.Equal(got, mine) {
			rt.Fatal("neither released nor diverged")
		}
	})
}

// TestFollowed: a divergence after a tolerated difference blames the rule.
func TestFollowed(t *testing.T) {
	w, p, s := tolerant(t, Tolerance{Name: "token", Kind: frame.KindTCP, Port: 80, Pattern: regexp.MustCompile(`token=(\w+);`)})
	a, b := []byte("token=abcdef;"), []byte("token=uvwxyz;")
	w.primary(p.data(0, a, 0, 0, 1000))
	w.secondary(s.data(0, b, 0, 0, 1000))
	w.settle()
	w.noDivergence()
	w.primary(p.data(len(a), []byte("welcome"), 0, 0, 1000))
	w.secondary(s.data(len(a), []byte("go away"), 0, 0, 1000))
	w.settle()
	if d := w.final(); d.Rule != "token" {
		t.Errorf("rule %q", d.Rule)
	}
	if st := w.e.Tolerances(); st[0].Followed != 1 || st[0].Uses != 1 {
		t.Errorf("%+v", st)
	}
}

// TestToleratedDatagrams: patterns in datagrams, and flows that are not compared at all.
func TestToleratedDatagrams(t *testing.T) {
	g, c := frametest.A("192.0.2.10:5353"), frametest.A("198.51.100.7:1000")
	chatter := frametest.A("192.0.2.10:1900")
	w := protected(t, Config{Tolerances: []Tolerance{
		{Name: "id", Kind: frame.KindUDP, Port: 5353, Pattern: regexp.MustCompile(`(?s)^(..)\x81\x80\x00`)},
		{Name: "ssdp", Kind: frame.KindUDP, Port: 1900, Uncompared: true},
	}})
	w.oracle.off = true
	for i := range 100 {
		mine := frametest.UDP(frametest.Link{}, g, c, append([]byte{byte(i), 1, 0x81, 0x80, 0}, "answer"...), false)
		theirs := frametest.UDP(frametest.Link{}, g, c, append([]byte{byte(i), 2, 0x81, 0x80, 0}, "answer"...), false)
		if i%2 == 0 {
			w.primary(mine)
			w.secondary(theirs)
		} else {
			w.secondary(theirs)
			w.primary(mine)
		}
		w.settle()
		w.primary(frametest.UDP(frametest.Link{}, chatter, c, []byte(fmt.Sprint("primary ", i)), false))
		if i%3 > 0 {
			w.secondary(frametest.UDP(frametest.Link{}, chatter, c, []byte(fmt.Sprint("the other ", i)), false))
		}
		w.settle()
	}
	w.noDivergence()
	w.noLoans()
	if len(w.released) != 200 {
		t.Fatalf("%d released", len(w.released))
	}
	st := w.e.Tolerances()
	if st[0].Uses != 100 || st[1].Uses != 100 {
		t.Errorf("%+v", st)
	}
	w.primary(frametest.UDP(frametest.Link{}, g, c, []byte("\x00\x01\x81\x80\x00answer"), false))
	w.secondary(frametest.UDP(frametest.Link{}, g, c, []byte("\x00\x02\x81\x80\x00answeR"), false))
	w.settle()
	w.tick(defaultHold + time.Millisecond)
	w.settle()
	if d := w.final(); d.Reason != ReasonPayload || !d.Exact {
		t.Errorf("%s", showDivergence(d))
	}
}

// TestToleranceCheck: rules that are not safe are refused.
func TestToleranceCheck(t *testing.T) {
	ok := []Tolerance{dateRule}
	bad := []Tolerance{
		{Kind: frame.KindTCP, Port: 80},
		{Kind: frame.KindTCP, Port: 80, Uncompared: true},
		{Kind: frame.KindTCP, Header: "Date"},
		{Kind: frame.KindUDP, Port: 80, Header: "Date"},
		{Kind: frame.KindARP, Port: 80, Uncompared: true},
		{Kind: frame.KindTCP, Port: 80, Header: "Date: x"},
		{Kind: frame.KindTCP, Port: 80, Header: "content-length"},
		{Kind: frame.KindTCP, Port: 80, Pattern: regexp.MustCompile(`abc`)},
		{Kind: frame.KindTCP, Port: 80, Pattern: regexp.MustCompile(`(a*)`)},
		{Kind: frame.KindTCP, Port: 80, Header: "Date", Uncompared: true},
	}
	for _, r := range ok {
		if why := r.Check(); why != "" {
			t.Errorf("%+v: %s", r, why)
		}
	}
	for _, r := range bad {
		if r.Check() == "" {
			t.Errorf("%+v is accepted", r)
		}
	}
}

// TestHTTPDate: the reader agrees with the standard library, and refuses what is no date.
func TestHTTPDate(t *testing.T) {
	const layout = "Mon, 02 Jan 2006 15:04:05 GMT"
	zero, _ := httpDate([]byte(time.Unix(0, 0).UTC().Format(layout)))
	for u := int64(0); u < 4e9; u += 86399*17 + 11 {
		s := time.Unix(u, 0).UTC().Format(layout)
		if v, ok := httpDate([]byte(s)); !ok || v-zero != u {
			t.Fatalf("%s: %d %t, want %d", s, v-zero, ok, u)
		}
	}
	for _, s := range []string{"", "Sat, 21 Nov 2026 15:09:25 GMZ", "Sat, 21 Nou 2026 15:09:25 GMT", "Sax, 21 Nov 2026 15:09:25 GMT",
		"Sat, 32 Nov 2026 15:09:25 GMT", "Sat, 21 Nov 2026 25:09:25 GMT"} {
		if _, ok := httpDate([]byte(s)); ok {
			t.Errorf("%q is a date", s)
		}
	}
}

// FuzzTolerate: no input makes a rule read out of bounds or hide a byte outside of what it names.
func FuzzTolerate(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:25 GMT\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:26 GMT\r\n\r\n"), 0)
	f.Add([]byte("sid=00112233"), []byte("sid=00112234"), 3)
	rules := []Tolerance{dateRule, {Name: "any", Kind: frame.KindTCP, Port: 80, Header: "X-Id"},
		{Name: "sid", Kind: frame.KindTCP, Port: 80, Pattern: regexp.MustCompile(`sid=([0-9a-f]{8})`)}}
	f.Fuzz(func(t *testing.T, mine, theirs []byte, from int) {
		n := min(len(mine), len(theirs))
		if n == 0 {
			return
		}
		mine, theirs = mine[:n], theirs[:n]
		from = max(0, min(from, n-1))
		w := widen(mine, from, n-from, theirs[from:])
		w.starts = []int{0}
		by, ok := tolerate(rules, []int{0, 1, 2}, w)
		if !ok {
			return
		}
		hidden := 0
		for _, n := range by {
			hidden += n
		}
		differing := 0
		for i := from; i < n; i++ {
			if mine[i] != theirs[i] {
				differing++
				if bytes.ContainsAny(mine[i:i+1], "\r\n") || bytes.ContainsAny(theirs[i:i+1], "\r\n") {
					t.Fatal("a line's end was hidden")
				}
			}
		}
		if hidden != differing {
			t.Fatalf("%d hidden, %d differ", hidden, differing)
		}
	})
}
