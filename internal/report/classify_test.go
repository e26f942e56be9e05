package report

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colod/internal/frame/frametest"
)

// real is what a real program said twice: see testdata/real/README.
func real(t *testing.T, name string) (a, b []byte) {
	t.Helper()
	for i, p := range []*[]byte{&a, &b} {
		var err error
		if *p, err = os.ReadFile(filepath.Join("testdata", "real", name+"-"+"ab"[i:i+1]+".bin")); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// seen is the evidence of two streams as a divergence at their first difference shows it, with context around.
func seen(f Flow, a, b []byte, context int) *Evidence {
	n := min(len(a), len(b))
	at := 0
	for at < n && a[at] == b[at] {
		at++
	}
	from := max(0, at-context)
	e := &Evidence{Reason: "payload", Flow: f, Exact: true, Absolute: true, Stream: uint64(at), At: at - from,
		Primary: a[from:min(len(a), at+context)], Secondary: b[from:min(len(b), at+context)]}
	if at == n {
		e.Reason = "length"
	}
	return e
}

func tcpFlow(port uint16) Flow {
	return Flow{Kind: "tcp", Guest: "192.0.2.10", GuestPort: port, Peer: "198.51.100.1", PeerPort: 40000, Service: service("tcp", port)}
}

func outgoing(kind string, port uint16) Flow {
	return Flow{Kind: kind, Guest: "192.0.2.10", GuestPort: 45678, Peer: "198.51.100.1", PeerPort: port, Service: service(kind, port), Outgoing: true}
}

// TestRealBytes: what real servers and clients say twice is classified right, at once and by any context.
func TestRealBytes(t *testing.T) {
	for _, c := range []struct {
		name        string
		flow        Flow
		kind, field string
	}{
		{"http", tcpFlow(8080), KindHTTPDate, "Date"},
		{"ssh", tcpFlow(22), KindSSHKex, "KEXINIT cookie"},
		{"ssh", tcpFlow(2222), KindSSHKex, "KEXINIT cookie"},
		{"tls1_3-server", tcpFlow(443), KindTLSHello, "ServerHello random"},
		{"tls1_2-server", tcpFlow(9999), KindTLSHello, "ServerHello random"},
		{"tls1_3-client", outgoing("tcp", 443), KindTLSHello, "ClientHello random"},
		{"tls1_2-client", outgoing("tcp", 443), KindTLSHello, "ClientHello random"},
		{"dns", outgoing("udp", 53), KindDNSID, ""},
	} {
		a, b := real(t, c.name)
		for _, context := range []int{256, 1024, 4096} {
			got := Classify(seen(c.flow, a, b, context))
			if got.Kind != c.kind || got.Field != c.field || !got.Sure {
				t.Errorf("%s with %d bytes around: %s %q sure %t, want %s %q", c.name, context, got.Kind, got.Field, got.Sure, c.kind, c.field)
			}
		}
	}
}

// TestClassify: differences by kind.
func TestClassify(t *testing.T) {
	http := "HTTP/1.1 200 OK\r\nServer: x\r\n"
	inner := func(seq, ts uint32) []byte {
		b := frametest.TCP{Src: frametest.A("192.0.2.1:1"), Dst: frametest.A("192.0.2.2:2"), Seq: seq, Options: frametest.TS(ts, 0), Payload: []byte("hello")}.Bytes()
		return b[24:] // from the IP header on
	}
	cases := []struct {
		name        string
		flow        Flow
		a, b        string
		kind, field string
	}{
		{"cookie", tcpFlow(80), http + "Set-Cookie: sid=8f2a77; Path=/\r\n\r\n", http + "Set-Cookie: sid=03bb1c; Path=/\r\n\r\n", KindHTTPCookie, "sid"},
		{"header", tcpFlow(80), http + "X-Request-Id: 11\r\n\r\n", http + "X-Request-Id: 12\r\n\r\n", KindHTTPHeader, "X-Request-Id"},
		{"body of another length", tcpFlow(80), http + "Content-Length: 36\r\n\r\n", http + "Content-Length: 35\r\n\r\n", KindLength, "Content-Length"},
		{"date without context", tcpFlow(80), "Content-Type: a\r\nDate: Sat, 21 Nov 2026 15:09:25 GMT\r\n", "Content-Type: a\r\nDate: Sat, 21 Nov 2026 15:09:26 GMT\r\n", KindHTTPDate, "Date"},
		{"json string", tcpFlow(80), http + "\r\n{\"a\": 1, \"id\": \"f00\"}", http + "\r\n{\"a\": 1, \"id\": \"f01\"}", KindJSONField, "id"},
		{"json number", tcpFlow(80), `{"count": 17, "b": 2}`, `{"count": 18, "b": 2}`, KindJSONField, "count"},
		{"json nested", tcpFlow(80), `{"x": {"time": "15:09:25"}}`, `{"x": {"time": "15:09:26"}}`, KindJSONField, "time"},
		{"counter", tcpFlow(7), "requests 1041 total\n", "requests 1043 total\n", KindCounter, ""},
		{"clock", tcpFlow(13), "now 15:09:25\n", "now 15:09:26\n", KindClock, ""},
		{"token", tcpFlow(6379), "token=8f2a77bb01c9d2e4f5\n", "token=01ab99cc77dd2200aa\n", KindSession, "token"},
		{"words", tcpFlow(7), "the quick brown fox\n", "the quick black fox\n", KindPlainData, ""},
		{"binary", tcpFlow(7), "\x00\x01\x02\x03", "\x00\x01\xff\x03", KindPlainData, ""},
		{"dns answer", Flow{Kind: "udp", GuestPort: 53, PeerPort: 4000, Service: "dns"}, "\x12\x34\x81\x80\x00\x01A", "\x12\x34\x81\x80\x00\x01B", KindDNSData, ""},
		{"tls content", tcpFlow(443), "\x17\x03\x03\x00\x40" + strings.Repeat("k", 64), "\x17\x03\x03\x00\x40" + strings.Repeat("k", 20) + "x" + strings.Repeat("k", 43), KindTLSRecord, "content under the same keys"},
		{"tls keys", tcpFlow(443), "\x17\x03\x03\x00\x40" + strings.Repeat("k", 64), "\x17\x03\x03\x00\x40" + strings.Repeat("x", 64), KindTLSRecord, "keys"},
		{"inner sequence number", Flow{Kind: "ip", Protocol: 4}, string(inner(1, 2)), string(inner(7, 2)), KindTCPISN, ""},
		{"inner timestamp", Flow{Kind: "ip", Protocol: 47}, "\x00\x00\x08\x00" + string(inner(1, 2)), "\x00\x00\x08\x00" + string(inner(1, 9)), KindTCPTimestamp, ""},
		{"longer", tcpFlow(7), "the quick", "the quick brown", KindLength, ""},
	}
	for _, c := range cases {
		got := Classify(seen(c.flow, []byte(c.a), []byte(c.b), 256))
		if got.Kind != c.kind || got.Field != c.field || got.Title == "" || got.Advice == "" {
			t.Errorf("%s: %s %q, want %s %q", c.name, got.Kind, got.Field, c.kind, c.field)
		}
	}
	for _, c := range []struct {
		e    Evidence
		kind string
		sure bool
	}{
		{Evidence{Reason: "silence-secondary", Flow: tcpFlow(80), Detail: "held 20ms as 1 of 1 frames"}, KindLag, true},
		{Evidence{Reason: "silence-secondary", Flow: outgoing("tcp", 5432), Detail: "the secondary does not open the connection"}, KindEphemeralPort, true},
		{Evidence{Reason: "silence-secondary", Flow: outgoing("udp", 53)}, KindEphemeralPort, false},
		{Evidence{Reason: "silence-secondary", Flow: outgoing("tcp", 5432), Detail: "held 20ms"}, KindLag, true},
		{Evidence{Reason: "silence-primary", Flow: tcpFlow(80)}, KindAhead, true},
		{Evidence{Reason: "options"}, KindTCPOptions, true},
		{Evidence{Reason: "flags"}, KindClose, true},
		{Evidence{Reason: "length"}, KindLength, true},
		{Evidence{Reason: "protocol"}, KindProtocol, true},
		{Evidence{Reason: "queue"}, KindQueue, true},
		{Evidence{Reason: "lost"}, KindLost, true},
		{Evidence{Reason: "manual"}, KindManual, true},
		{Evidence{Reason: "timer"}, KindTimer, true},
		{Evidence{Reason: "payload", Flow: tcpFlow(22)}, KindSSHKex, false},
		{Evidence{Reason: "payload", Flow: tcpFlow(443)}, KindTLSHello, false},
		{Evidence{Reason: "payload", Flow: tcpFlow(80)}, KindUnknownData, false},
		{Evidence{Reason: "payload", Flow: tcpFlow(0), Detail: "TTL, TOS, fragment, ICMP type or options: primary 1, secondary 2"}, KindHeader, true},
	} {
		if got := Classify(&c.e); got.Kind != c.kind || got.Sure != c.sure {
			t.Errorf("%+v: %s %t, want %s %t", c.e, got.Kind, got.Sure, c.kind, c.sure)
		}
	}
	for _, k := range Kinds() {
		if a := advice[k]; a.title == "" || a.advice == "" {
			t.Errorf("kind %s has no advice", k)
		}
	}
	if len(advice) != len(Kinds()) {
		t.Errorf("%d kinds, %d pieces of advice", len(Kinds()), len(advice))
	}
}

// FuzzClassify: no bytes make it panic, and what it says of them is printable.
func FuzzClassify(f *testing.F) {
	f.Add("payload", "tcp", uint16(80), []byte("HTTP/1.1 200 OK\r\nDate: a\r\n"), []byte("HTTP/1.1 200 OK\r\nDate: b\r\n"), 20)
	f.Add("payload", "tcp", uint16(443), binary.BigEndian.AppendUint32(nil, 0x16030300), []byte("\x16\x03\x03\x00\x20"), 3)
	f.Add("payload", "ip", uint16(0), bytes.Repeat([]byte{0x45}, 60), bytes.Repeat([]byte{0x45}, 61), 30)
	f.Fuzz(func(t *testing.T, reason, kind string, port uint16, a, b []byte, at int) {
		fl := tcpFlow(port)
		fl.Kind = kind
		c := Classify(&Evidence{Reason: reason, Flow: fl, Exact: true, Primary: a, Secondary: b, At: at})
		if c.Title == "" || len(c.Field) > 4*maxField+3 || strings.ContainsFunc(c.Field, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%+v", c)
		}
	})
}
