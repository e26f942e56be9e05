package compare

import (
	"fmt"
	"regexp"
	"strings"

	"colod/internal/frame"
)

// Tolerance declares a difference between the two guests' bytes harmless. It is safe by construction: both sides say
// equally many bytes, so that every stream position stays what it was; the primary's bytes are the ones that are
// released, first and whenever they are repeated; and nothing outside of what the rule names may differ. Exactly one
// of Header, Pattern and Uncompared is set.
type Tolerance struct {
	// Name stands in counters and reports.
	Name string
	// Kind is frame.KindTCP or frame.KindUDP.
	Kind frame.Kind
	// Port is the guest's port and PeerPort the other end's; 0 is any, but not both are.
	Port, PeerPort uint16
	// Header is the name of a header field of an HTTP/1 response, such as Date. Of Date the value must be a date of
	// RFC 9110 section 5.6.7 on both sides, and the dates at most MaxDateSkew seconds apart.
	Header string
	// Pattern must match both sides at the same place with the same length. Only what its one group matched may
	// differ, and something must lie outside of the group.
	Pattern *regexp.Regexp
	// Uncompared lets datagrams out that nobody compares: what the secondary says there is not looked at.
	Uncompared bool
}

// Bounds of tolerances.
const (
	// MaxDateSkew is how far two Date headers may lie apart, in seconds: more is a guest whose clock is wrong.
	MaxDateSkew = 60
	// MaxToleratedRun bounds what one header or one match of a pattern may hide, in bytes.
	MaxToleratedRun = 512
	// leastAnchor is how many bytes of a match must be equal on both sides.
	leastAnchor = 3
	// maxRuns bounds the separate differences that are looked at in one range.
	maxRuns = 256
	// maxLook bounds the bytes around the differences that patterns are tried on, maxHead those of a response's head.
	maxLook = 1024
	maxHead = 16384
)

// Check says what is wrong with t by itself, "" when nothing is.
func (t *Tolerance) Check() string {
	kinds := 0
	for _, on := range [3]bool{t.Header != "", t.Pattern != nil, t.Uncompared} {
		if on {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return "exactly one of header, pattern and uncompared is needed"
	case t.Kind != frame.KindTCP && t.Kind != frame.KindUDP:
		return "only tcp and udp can be tolerated"
	case t.Port == 0 && t.PeerPort == 0:
		return "a port is needed"
	case t.Uncompared && t.Kind != frame.KindUDP:
		return "only udp can go uncompared: the positions of a stream must stay equal"
	case t.Header != "" && t.Kind != frame.KindTCP:
		return "a header is part of a tcp stream"
	case t.Header != "" && strings.ContainsAny(t.Header, ": \t\r\n"):
		return fmt.Sprintf("%q is not a header's name", t.Header)
	case framing(t.Header):
		return fmt.Sprintf("header %s says how the body is cut: a difference there is one of the body", t.Header)
	case t.Pattern != nil && t.Pattern.NumSubexp() != 1:
		return fmt.Sprintf("the pattern has %d groups; put the part that may differ into one (...)", t.Pattern.NumSubexp())
	case t.Pattern != nil && t.Pattern.MatchString(""):
		return "the pattern matches nothing at all too"
	}
	return ""
}

// framing says whether a client cuts a response's body by the header.
func framing(header string) bool {
	for _, h := range [...]string{"Content-Length", "Transfer-Encoding", "Content-Range", "Connection", "Upgrade"} {
		if strings.EqualFold(header, h) {
			return true
		}
	}
	return false
}

// matches says whether the rule is about the flow.
func (t *Tolerance) matches(k *frame.FlowKey) bool {
	return t.Kind == k.Kind && (t.Port == 0 || t.Port == k.GuestPort) && (t.PeerPort == 0 || t.PeerPort == k.PeerPort)
}

// window is what both guests said: theirs differs from mine within [from, to) at most. starts are the offsets in it
// at which a segment of the primary, or the datagram, begins.
type window struct {
	mine, theirs []byte
	from, to     int
	starts       []int
}

// run is a range of differing bytes.
type run struct{ from, to int }

// runs are the differences, nil when there are none or too many.
func (w *window) runs() []run {
	var all []run
	for i := w.from; i < w.to; i++ {
		if w.mine[i] == w.theirs[i] {
			continue
		}
		if n := len(all); n > 0 && all[n-1].to == i {
			all[n-1].to++
			continue
		}
		if len(all) == maxRuns {
			return nil
		}
		all = append(all, run{i, i + 1})
	}
	return all
}

// tolerate says whether every difference in w is one that a rule declares harmless, and by[i] how many bytes
// rule rules[i] hid.
func tolerate(all []Tolerance, rules []int, w *window) (by []int, ok bool) {
	left := w.runs()
	if len(left) == 0 {
		return nil, false
	}
	by = make([]int, len(rules))
	for i, r := range rules {
		t := &all[r]
		rest := left[:0]
		for _, d := range left {
			if t.covers(w, d) {
				by[i] += d.to - d.from
			} else {
				rest = append(rest, d)
			}
		}
		if left = rest; len(left) == 0 {
			return by, true
		}
	}
	return nil, false
}

func (t *Tolerance) covers(w *window, d run) bool {
	switch {
	case t.Header != "":
		return t.coversHeader(w, d)
	case t.Pattern != nil:
		return t.coversPattern(w, d)
	}
	return false
}

// coversPattern looks for a match that has the same place and length on both sides and d within its group.
func (t *Tolerance) coversPattern(w *window, d run) bool {
	lo, hi := max(0, d.from-maxLook), min(len(w.mine), d.to+maxLook)
	theirs := matchesOf(t.Pattern, w.theirs[lo:hi])
	for _, m := range matchesOf(t.Pattern, w.mine[lo:hi]) {
		a, b := m[2]+lo, m[3]+lo
		if d.from < a || d.to > b || b-a > MaxToleratedRun || (m[1]-m[0])-(m[3]-m[2]) < leastAnchor {
			continue
		}
		for _, s := range theirs {
			if s == m {
				return true
			}
		}
	}
	return false
}

// matchesOf are the matches of re in b, each with its one group. A byte is one character of Latin-1, so that
// patterns such as \x81 mean bytes.
func matchesOf(re *regexp.Regexp, b []byte) [][4]int {
	chars, at := make([]byte, 0, 2*len(b)), make([]int, 0, 2*len(b)+1)
	for i, c := range b {
		if at = append(at, i); c < 0x80 {
			chars = append(chars, c)
			continue
		}
		chars, at = append(chars, 0xc0|c>>6, 0x80|c&0x3f), append(at, i)
	}
	at = append(at, len(b))
	var all [][4]int
	for _, m := range re.FindAllSubmatchIndex(chars, maxRuns) {
		if m[2] >= 0 {
			all = append(all, [4]int{at[m[0]], at[m[1]], at[m[2]], at[m[3]]})
		}
	}
	return all
}

// coversHeader says whether d lies in the value of the header in the head of a response.
func (t *Tolerance) coversHeader(w *window, d run) bool {
	line := d.from
	for line > 0 && w.mine[line-1] != '\n' {
		line--
	}
	end := d.to
	for end < len(w.mine) && w.mine[end] != '\n' && w.mine[end] != '\r' {
		end++
	}
	value := line + len(t.Header) + 1
	if end-value > MaxToleratedRun || d.from < value || !strings.EqualFold(string(w.mine[line:value-1]), t.Header) || w.mine[value-1] != ':' {
		return false
	}
	// The blanks around the value are not of it (RFC 9110 section 5.5).
	for value < end && blank(w.mine[value]) {
		value++
	}
	for end > value && blank(w.mine[end-1]) {
		end--
	}
	if d.from < value || d.to > end {
		return false
	}
	for i := d.from; i < d.to; i++ {
		if !text(w.mine[i]) || !text(w.theirs[i]) {
			return false
		}
	}
	if !w.inHead(line) {
		return false
	}
	if !strings.EqualFold(t.Header, "date") {
		return true
	}
	a, aok := httpDate(w.mine[value:end])
	b, bok := httpDate(w.theirs[value:end])
	return aok && bok && max(a-b, b-a) <= MaxDateSkew
}

// inHead says whether the line that begins at line belongs to the head of a response whose status line
// begins a segment.
func (w *window) inHead(line int) bool {
	for at := line; at > 0 && line-at < maxHead; {
		prev := at - 1
		if w.mine[prev] != '\n' {
			return false
		}
		from := prev
		for from > 0 && w.mine[from-1] != '\n' {
			from--
		}
		for _, s := range w.starts {
			if from == s && strings.HasPrefix(string(w.mine[from:min(from+7, prev)]), "HTTP/1.") {
				return true
			}
		}
		if !headerLine(w.mine[from:prev]) {
			return false
		}
		at = from
	}
	return false
}

// headerLine says whether b, without its end of line, can be a header field: a name of token characters, a colon.
func headerLine(b []byte) bool {
	for i, c := range b {
		switch {
		case c == ':':
			return i > 0
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/;<=>?@[\]{}`, c) >= 0:
			return false
		}
	}
	return false
}

func text(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

func blank(c byte) bool { return c == ' ' || c == '\t' }

const (
	weekdays = "SunMonTueWedThuFriSat"
	months   = "JanFebMarAprMayJunJulAugSepOctNovDec"
)

// httpDate reads an IMF-fixdate such as "Sun, 06 Nov 1994 08:49:37 GMT" as seconds since some day.
func httpDate(b []byte) (int64, bool) {
	const form = "aaa, 00 aaa 0000 00:00:00 GMT"
	if len(b) != len(form) {
		return 0, false
	}
	for i := range form {
		switch c := b[i]; form[i] {
		case '0':
			if c < '0' || c > '9' {
				return 0, false
			}
		case 'a':
		default:
			if c != form[i] {
				return 0, false
			}
		}
	}
	num := func(i, n int) (v int64) {
		for _, c := range b[i : i+n] {
			v = v*10 + int64(c-'0')
		}
		return v
	}
	month := strings.Index(months, string(b[8:11]))
	if month < 0 || month%3 != 0 || strings.Index(weekdays, string(b[:3]))%3 != 0 {
		return 0, false
	}
	y, m, day := num(12, 4), int64(month/3+1), num(5, 2)
	hour, minute, sec := num(17, 2), num(20, 2), num(23, 2)
	if day < 1 || day > 31 || hour > 23 || minute > 59 || sec > 60 {
		return 0, false
	}
	if m <= 2 { // days from civil: the year begins in March
		y, m = y-1, m+12
	}
	days := 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + day
	return days*86400 + hour*3600 + minute*60 + sec, true
}
