package report

import (
	"bytes"
	"encoding/binary"
	"strings"

	"colod/compare"
)

// Evidence is what a cause is found by.
type Evidence struct {
	Reason string // of compare.Reason
	Detail string
	Flow   Flow
	// Exact, Absolute and Stream are those of Position.
	Exact, Absolute bool
	Stream          uint64
	// Primary and Secondary are the bytes of each side around the first difference, which is at At.
	Primary, Secondary []byte
	At                 int
}

// Classify names the cause of a divergence. Equal evidence gives equal answers; no evidence makes it panic.
func Classify(e *Evidence) Cause {
	switch e.Reason {
	case compare.ReasonSilenceSecondary.String():
		return e.silence(KindLag)
	case compare.ReasonSilencePrimary.String():
		return e.silence(KindAhead)
	case compare.ReasonOptions.String():
		return cause(KindTCPOptions, "", true)
	case compare.ReasonFlags.String():
		return cause(KindClose, "", true)
	case compare.ReasonLength.String():
		if !e.hasBytes() {
			return cause(KindLength, "", true)
		}
	case compare.ReasonProtocol.String():
		return cause(KindProtocol, "", true)
	case compare.ReasonQueue.String():
		return cause(KindQueue, "", true)
	case compare.ReasonLost.String():
		return cause(KindLost, "", true)
	case compare.ReasonManual.String():
		return cause(KindManual, "", true)
	case compare.ReasonTimer.String():
		return cause(KindTimer, "", true)
	}
	if !e.hasBytes() {
		return e.withoutBytes()
	}
	return e.data()
}

func (e *Evidence) hasBytes() bool {
	return e.Exact && e.At >= 0 && e.At < len(e.Primary) && e.At < len(e.Secondary)
}

// silence tells a copy that is slow from one that chose another port for a connection that it opens.
func (e *Evidence) silence(otherwise string) Cause {
	if e.Flow.Outgoing && e.Flow.GuestPort >= ephemeral {
		opening := strings.Contains(e.Detail, "does not open the connection")
		if opening || e.Flow.Kind == "udp" {
			return cause(KindEphemeralPort, "", opening)
		}
	}
	return cause(otherwise, "", true)
}

func (e *Evidence) withoutBytes() Cause {
	switch {
	case strings.HasPrefix(e.Detail, "TTL, TOS"):
		return cause(KindHeader, "", true)
	case e.Flow.Service == "ssh":
		return cause(KindSSHKex, "", false)
	case e.Flow.Service == "https" || e.Flow.Service == "quic":
		return cause(KindTLSHello, "", false)
	}
	return cause(KindUnknownData, "", false)
}

// data looks at the bytes, the surest sign first.
func (e *Evidence) data() Cause {
	finders := []func(*Evidence) (Cause, bool){inDNS, inTunnel, inTLS, inSSH, inHTTP, inJSON, inClock, inNumber, inToken}
	switch e.Flow.Kind {
	case "tcp":
		finders = []func(*Evidence) (Cause, bool){inTLS, inSSH, inHTTP, inJSON, inClock, inToken, inNumber}
	case "ip", "fragment", "other", "icmp":
		finders = []func(*Evidence) (Cause, bool){inTunnel}
	}
	for _, find := range finders {
		if c, ok := find(e); ok {
			return c
		}
	}
	if e.Reason == compare.ReasonLength.String() {
		return cause(KindLength, "", true)
	}
	return cause(KindPlainData, "", true)
}

// inDNS: a DNS message's id are its first two bytes (RFC 1035 section 4.1.1).
func inDNS(e *Evidence) (Cause, bool) {
	f := &e.Flow
	if f.Kind != "udp" || f.GuestPort != 53 && f.PeerPort != 53 && f.GuestPort != 5353 && f.PeerPort != 5353 {
		return Cause{}, false
	}
	if e.Stream < 2 {
		return cause(KindDNSID, "", true), true
	}
	return cause(KindDNSData, "", true), true
}

// inTunnel: an IPv4 packet with TCP inside of what is not parsed: IP in IP, GRE, a fragment, an ICMP error.
func inTunnel(e *Evidence) (Cause, bool) {
	b := e.Primary
	for s := 0; s+40 <= len(b) && s <= e.At; s++ {
		if b[s]>>4 != 4 || b[s]&15 < 5 || b[s+9] != 6 {
			continue
		}
		l4 := s + int(b[s]&15)*4
		if total := int(binary.BigEndian.Uint16(b[s+2:])); total < l4-s+20 || e.At >= s+total || !ipv4Sum(b[s:l4]) || l4+20 > len(b) {
			continue
		}
		at := e.At
		for at >= l4+16 && at < l4+18 || at+1 < min(len(b), len(e.Secondary)) && b[at] == e.Secondary[at] {
			at++ // the checksum only follows
		}
		switch off := at - l4; {
		case off >= 4 && off < 12:
			return cause(KindTCPISN, "", true), true
		case off >= 20 && off < int(b[l4+12]>>4)*4:
			return cause(KindTCPTimestamp, "", true), true
		}
	}
	return Cause{}, false
}

func ipv4Sum(h []byte) bool {
	var s uint32
	for i := 0; i+1 < len(h); i += 2 {
		s += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return s == 0xffff
}

// inTLS: a record's header is its type, version 3.x and length (RFC 8446 section 5.1).
func inTLS(e *Evidence) (Cause, bool) {
	b := e.Primary
	for s := 0; s <= e.At; s++ {
		rec, ok := tlsRecord(b, s, e.At)
		if !ok {
			continue
		}
		sure := s == 0 || rec != s || e.Flow.Service == "https"
		if b[rec] != 22 {
			if b[rec] != 23 && e.Flow.Service == "" {
				continue
			}
			return cause(KindTLSRecord, sameKeys(e), sure), true
		}
		return cause(KindTLSHello, handshakeField(b, rec+5, e.At), true), true
	}
	return Cause{}, false
}

// sameKeys tells a byte that differs within equally encrypted content from content under different keys: a stream
// cipher keeps the one where it is.
func sameKeys(e *Evidence) string {
	same := 0
	for i := e.At; i < min(e.At+32, len(e.Primary), len(e.Secondary)); i++ {
		if e.Primary[i] == e.Secondary[i] {
			same++
		}
	}
	if same > 8 {
		return "content under the same keys"
	}
	return "keys"
}

// tlsRecord follows the records from s on to the one that contains at.
func tlsRecord(b []byte, s, at int) (rec int, ok bool) {
	for s+5 <= len(b) && b[s] >= 20 && b[s] <= 23 && b[s+1] == 3 && b[s+2] <= 4 {
		n := int(binary.BigEndian.Uint16(b[s+3:]))
		if n == 0 || n > 1<<14+256 {
			return 0, false
		}
		if at < s+5 {
			return 0, false // the header itself differs
		}
		if at < s+5+n {
			return s, true
		}
		s += 5 + n
	}
	return 0, false
}

// handshakeField names the part of the handshake message that at lies in; messages begin at s (RFC 8446 section 4).
func handshakeField(b []byte, s, at int) string {
	for s+4 <= len(b) {
		n := int(b[s+1])<<16 | int(b[s+2])<<8 | int(b[s+3])
		if at >= s+4+n {
			s += 4 + n
			continue
		}
		name, off := "", at-s
		switch b[s] {
		case 1:
			name = "ClientHello"
		case 2:
			name = "ServerHello"
		case 11:
			return "Certificate"
		case 12:
			return "ServerKeyExchange"
		default:
			return ""
		}
		sid := 0
		if s+38 < len(b) {
			sid = int(b[s+38])
		}
		switch {
		case off >= 6 && off < 38:
			return name + " random"
		case off >= 38 && off < 39+sid:
			return name + " session id"
		}
		return name + " key share"
	}
	return ""
}

// inSSH: packets after the version line are length, padding length, message number (RFC 4253 section 6), not encrypted
// until the keys are exchanged.
func inSSH(e *Evidence) (Cause, bool) {
	b := e.Primary
	s := 0
	version := bytes.LastIndex(b[:e.At], []byte("SSH-2.0-"))
	if version >= 0 {
		end := bytes.IndexByte(b[version:], '\n')
		if end < 0 || version+end >= e.At {
			return cause(KindSSHKex, "version", true), true
		}
		s = version + end + 1
	} else if e.Flow.Service != "ssh" {
		return Cause{}, false
	}
	for s+6 <= len(b) {
		n := int(binary.BigEndian.Uint32(b[s:]))
		if n < 5 || n > 35000 || int(b[s+4]) >= n {
			break
		}
		if e.At >= s+4+n {
			s += 4 + n
			continue
		}
		switch t := b[s+5]; {
		case t == 20 && e.At < s+22:
			return cause(KindSSHKex, "KEXINIT cookie", true), true
		case t == 20:
			return cause(KindSSHKex, "KEXINIT", true), true
		case t >= 30 && t <= 49:
			return cause(KindSSHKex, "key exchange reply", true), true
		}
		break
	}
	return cause(KindSSHPacket, "", false), true
}

// inHTTP: a header line of a response or request whose head is in sight.
func inHTTP(e *Evidence) (Cause, bool) {
	b := e.Primary
	line := bytes.LastIndexByte(b[:e.At], '\n') + 1
	colon := bytes.IndexByte(b[line:e.At], ':')
	if colon <= 0 {
		return Cause{}, false
	}
	name := string(b[line : line+colon])
	if !token(name) {
		return Cause{}, false
	}
	sure, plausible := headAbove(b, line)
	if !plausible {
		return Cause{}, false
	}
	switch strings.ToLower(name) {
	case "date":
		return cause(KindHTTPDate, "Date", sure), true
	case "set-cookie", "cookie":
		value := strings.TrimLeft(string(b[line+colon+1:]), " ")
		field, _, _ := strings.Cut(value, "=")
		if !token(field) {
			field = name
		}
		return cause(KindHTTPCookie, field, sure), true
	}
	if strings.EqualFold(name, "content-length") {
		return cause(KindLength, "Content-Length", sure), true // of the body, which follows
	}
	return cause(KindHTTPHeader, name, sure), true
}

// headAbove says whether the lines above line are those of an HTTP/1 head: plausible when they are header
// fields as far as they can be seen, sure when the status or request line is there.
func headAbove(b []byte, line int) (sure, plausible bool) {
	fields := 0
	for line > 0 {
		end := line - 1
		start := bytes.LastIndexByte(b[:end], '\n') + 1
		text := strings.TrimSuffix(string(b[start:end]), "\r")
		if strings.HasPrefix(text, "HTTP/1.") || strings.HasSuffix(text, " HTTP/1.1") || strings.HasSuffix(text, " HTTP/1.0") {
			return true, true
		}
		name, _, ok := strings.Cut(text, ":")
		if !ok || !token(name) {
			return false, start == 0 && fields > 0 // the first line in sight may be cut
		}
		fields++
		line = start
	}
	return false, fields > 0
}

// token says whether s can be the name of a header field (RFC 9110 section 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// inJSON: the member's name in front of the value.
func inJSON(e *Evidence) (Cause, bool) {
	b := e.Primary[max(0, e.At-200):e.At]
	// Back to the colon in front of the value; a string may hold anything but a quote.
	i := len(b)
	quoted := false
	if q := bytes.LastIndexByte(b, '"'); q >= 0 && strings.HasSuffix(strings.TrimRight(string(b[:q]), " \t"), ":") {
		i, quoted = q, true
	}
	for i > 0 && b[i-1] != ':' {
		if c := b[i-1]; !quoted && (c == ',' || c == '"' || c == '{' || c == '}' || c == ']' || c == '\n') {
			return Cause{}, false
		}
		i--
	}
	if i == 0 {
		return Cause{}, false
	}
	head := strings.TrimRight(string(b[:i-1]), " \t")
	if !strings.HasSuffix(head, `"`) {
		return Cause{}, false
	}
	head = head[:len(head)-1]
	q := strings.LastIndexByte(head, '"')
	if q < 0 {
		return Cause{}, false
	}
	before := strings.TrimRight(head[:q], " \t\r\n")
	sure := strings.HasSuffix(before, "{") || strings.HasSuffix(before, ",")
	return cause(KindJSONField, head[q+1:], sure), sure || before == ""
}

// inClock: hours, minutes and seconds.
func inClock(e *Evidence) (Cause, bool) {
	for s := max(0, e.At-8); s <= e.At && s+8 <= len(e.Primary) && s+8 <= len(e.Secondary); s++ {
		if clock(e.Primary[s:s+8]) && clock(e.Secondary[s:s+8]) && e.At < s+8 {
			return cause(KindClock, "", true), true
		}
	}
	return Cause{}, false
}

func clock(b []byte) bool {
	for i, c := range b {
		if i%3 == 2 {
			if c != ':' {
				return false
			}
		} else if !digit(c) {
			return false
		}
	}
	return b[0] <= '2' && b[3] <= '5' && b[6] <= '6'
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// inNumber: decimal numbers of the same length on both sides.
func inNumber(e *Evidence) (Cause, bool) {
	p, s := number(e.Primary, e.At), number(e.Secondary, e.At)
	if p == "" || len(p) != len(s) && e.Reason != compare.ReasonLength.String() {
		return Cause{}, false
	}
	if len(p) > 19 {
		return cause(KindSession, "", false), true
	}
	return cause(KindCounter, "", true), s != ""
}

// number is the run of digits around at; its neighbours are no letters.
func number(b []byte, at int) string {
	if !digit(b[at]) {
		return ""
	}
	from, to := at, at+1
	for from > 0 && digit(b[from-1]) {
		from--
	}
	for to < len(b) && digit(b[to]) {
		to++
	}
	if from > 0 && letter(b[from-1]) || to < len(b) && letter(b[to]) {
		return ""
	}
	return string(b[from:to])
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// inToken: a long word of letters and digits of which most differs.
func inToken(e *Evidence) (Cause, bool) {
	in := func(c byte) bool { return digit(c) || letter(c) || c == '-' || c == '_' || c == '+' || c == '/' }
	from, to := e.At, e.At
	for from > 0 && in(e.Primary[from-1]) {
		from--
	}
	for to < len(e.Primary) && to < len(e.Secondary) && in(e.Primary[to]) && in(e.Secondary[to]) {
		to++
	}
	differ, letters := 0, 0
	for i := from; i < to; i++ {
		if e.Primary[i] != e.Secondary[i] {
			differ++
		}
		if letter(e.Primary[i]) {
			letters++
		}
	}
	if to-from < 12 || 2*differ < to-from || letters == 0 {
		return Cause{}, false
	}
	digits := 0
	for _, c := range e.Primary[from:to] {
		if digit(c) {
			digits++
		}
	}
	if digits == 0 && to-from < 24 {
		return Cause{}, false // a word
	}
	field := ""
	if from > 1 && (e.Primary[from-1] == '=' || e.Primary[from-1] == ':') {
		k := from - 1
		for k > 0 && (letter(e.Primary[k-1]) || digit(e.Primary[k-1]) || e.Primary[k-1] == '_') {
			k--
		}
		field = string(e.Primary[k : from-1])
	}
	return cause(KindSession, field, field != ""), true
}
