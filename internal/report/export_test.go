package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/report-schema.json")

// TestSchema: the documented schema is that of the type, says something of each field, and holds for real reports.
func TestSchema(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "report-schema.json")
	if *update {
		if err := os.WriteFile(path, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, Schema()) {
		t.Errorf("%s is not up to date (go test ./internal/report -update): %v", path, err)
	}
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	undocumented(t, s, "", used)
	for k := range docs {
		if !used[k] {
			t.Errorf("the schema has no %s", k)
		}
	}
	full := sample(1)
	full.LeftOut, full.Rule, full.Detail = map[string]uint64{"rate": 3}, "date", "x"
	for _, r := range []*Report{full, {Version: 1, Time: day, Cause: cause(KindLag, "", true)}} {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		if why := conforms(s, v, "report"); why != "" {
			t.Error(why)
		}
	}
}

func undocumented(t *testing.T, s map[string]any, path string, used map[string]bool) {
	props, _ := s["properties"].(map[string]any)
	for name, sub := range props {
		p := strings.TrimPrefix(path+"."+name, ".")
		used[p] = true
		m := sub.(map[string]any)
		if m["description"] == nil {
			t.Errorf("%s has no description", p)
		}
		undocumented(t, m, p, used)
	}
}

// conforms is as much of a validator as the schema needs.
func conforms(s map[string]any, v any, path string) string {
	if c, ok := s["const"]; ok && c != v {
		return fmt.Sprintf("%s is %v, not %v", path, v, c)
	}
	switch s["type"] {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return path + " is no object"
		}
		req, _ := s["required"].([]any)
		for _, k := range req {
			if _, ok := m[k.(string)]; !ok {
				return path + " lacks " + k.(string)
			}
		}
		props, _ := s["properties"].(map[string]any)
		for k, x := range m {
			sub, ok := props[k].(map[string]any)
			if !ok {
				if sub, ok = s["additionalProperties"].(map[string]any); !ok {
					return path + " has " + k
				}
			}
			if why := conforms(sub, x, path+"."+k); why != "" {
				return why
			}
		}
	case "array":
		a, ok := v.([]any)
		if !ok {
			return path + " is no array"
		}
		for _, x := range a {
			if why := conforms(s["items"].(map[string]any), x, path+"[]"); why != "" {
				return why
			}
		}
	case "string":
		x, ok := v.(string)
		if !ok {
			return path + " is no string"
		}
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(x) {
			return path + " does not match " + p
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return path + " is no boolean"
		}
	default:
		if _, ok := v.(float64); !ok {
			return path + " is no number"
		}
	}
	return ""
}

// hostile is payload and text made to break out of every format.
func hostile() []*Report {
	var all []*Report
	for i, text := range []string{
		"</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>",
		"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m\r\nreport 99: forged\n",
		`"><svg onload=alert(1)>&lt;&#x27;'` + "\u2028\u202e\ufeff\xff\xfe\x00",
		strings.Repeat("A", 64<<10),
		strings.Repeat("<b>\x00", 16<<10),
		"{{.}} ${x} %s%n%x `id` $(id)",
	} {
		r := sample(i)
		r.Number = uint64(i + 1)
		r.Bytes.Primary, r.Bytes.Secondary = []byte(text)[:min(len(text), 2*MaxContext)], []byte("other" + text)[:min(len(text), 2*MaxContext)]
		r.Bytes.At = 0
		r.Bytes.Different = differences(r.Bytes.Primary, r.Bytes.Secondary)
		r.Cause = cause(KindHTTPHeader, text, true)
		r.Detail, r.Rule, r.Flow.Text, r.Pair, r.Node, r.Flow.Service = text, text, text, text, text, text // as if a store had been written by hand
		r.Reason = text
		r.Checkpoint.Reasons = []string{text}
		all = append(all, r)
	}
	return all
}

// TestHostilePayload: in no format does payload become markup, terminal control or another record.
func TestHostilePayload(t *testing.T) {
	all := hostile()
	s := Summarize(all, time.Time{}, time.Time{})
	var text bytes.Buffer
	for _, r := range all {
		if err := WriteText(&text, r); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{WriteList(&text, all), WriteSummary(&text, s), WriteSuggestions(&text, Suggest(all))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range text.Bytes() {
		if c != '\n' && (c < ' ' || c > '~') {
			t.Fatalf("text: byte %#x at %d: %q", c, i, text.Bytes()[max(0, i-40):i+20])
		}
	}
	if n := strings.Count(text.String(), "\nreport "); n != len(all)-1 {
		t.Errorf("text: %d reports begin a line, want %d", n, len(all)-1)
	}
	var page bytes.Buffer
	if err := WriteHTML(&page, all, s); err != nil {
		t.Fatal(err)
	}
	for _, tag := range regexp.MustCompile(`<[a-zA-Z/!][^>]*>`).FindAllString(page.String(), -1) {
		name := strings.ToLower(strings.TrimLeft(tag, "</"))
		for _, bad := range []string{"script", "img", "iframe", "object", "embed", "form", "base"} {
			if strings.HasPrefix(name, bad) {
				t.Errorf("html: %q", tag)
			}
		}
		if regexp.MustCompile(`\son[a-z]+=`).MatchString(tag) || strings.Contains(tag, "://") || strings.Contains(tag, "javascript:") {
			t.Errorf("html: %q", tag)
		}
	}
	if strings.Contains(page.String(), "<svg onload") || bytes.ContainsAny(page.Bytes(), "\x00\x1b\x07") || page.Len() > 1<<20 {
		t.Errorf("html: %d bytes", page.Len())
	}
	for i, r := range all {
		b, err := json.Marshal(r)
		if err != nil || bytes.ContainsAny(b, "\n\r\x1b") {
			t.Errorf("json %d: %v", i, err)
		}
		back := new(Report)
		if err := json.Unmarshal(b, back); err != nil || !bytes.Equal(back.Bytes.Primary, r.Bytes.Primary) {
			t.Errorf("json %d: %v", i, err)
		}
	}
	var capture bytes.Buffer
	if err := WritePcapng(&capture, all); err != nil {
		t.Fatal(err)
	}
	checkPcapng(t, capture.Bytes(), 2*len(all))
}

// checkPcapng walks over the blocks and returns the comments.
func checkPcapng(t *testing.T, b []byte, packets int) (comments []string) {
	t.Helper()
	le := func(p []byte) int { return int(p[0]) | int(p[1])<<8 | int(p[2])<<16 | int(p[3])<<24 }
	n, interfaces := 0, 0
	for len(b) > 0 {
		size := le(b[4:])
		if size%4 != 0 || size > len(b) || le(b[size-4:]) != size {
			t.Fatalf("block of %d bytes", size)
		}
		switch body := b[8 : size-4]; le(b) {
		case blockInterface:
			interfaces++
		case blockPacket:
			n++
			length := le(body[12:])
			opts := body[20+(length+3)/4*4:]
			if opts[0] != optComment {
				t.Fatal("no comment")
			}
			comments = append(comments, string(opts[4:4+int(opts[2])|int(opts[3])<<8]))
		}
		b = b[size:]
	}
	if n != packets || interfaces != 2 {
		t.Errorf("%d packets, %d interfaces", n, interfaces)
	}
	return comments
}

// many are n reports of many kinds.
func many(n int) []*Report {
	kinds := Kinds()
	all := make([]*Report, n)
	for i := range all {
		r := sample(i)
		r.Number = uint64(i + 1)
		r.Cause = cause(kinds[i%len(kinds)], []string{"", "Date", "id"}[i%3], i%5 > 0)
		r.Bytes.Primary, r.Bytes.Secondary = bytes.Repeat([]byte{byte(i), '<', 'x', '&'}, 128), bytes.Repeat([]byte{byte(i), '>', 'x', '&'}, 128)
		r.Bytes.At, r.Bytes.Different = 1, differences(r.Bytes.Primary, r.Bytes.Secondary)
		all[i] = r
	}
	return all
}

// TestHTMLStaysSmall: below 5 MiB with ten thousand divergences, and it says what is left out.
func TestHTMLStaysSmall(t *testing.T) {
	for _, n := range []int{0, 1, 10, 10_000} {
		all := many(n)
		var page bytes.Buffer
		if err := WriteHTML(&page, all, Summarize(all, time.Time{}, time.Time{})); err != nil {
			t.Fatal(err)
		}
		if page.Len() > 5<<20 {
			t.Errorf("%d divergences make %d bytes", n, page.Len())
		}
		if n == 10_000 {
			t.Logf("%d divergences: %d bytes", n, page.Len())
			if !strings.Contains(page.String(), "more are in the table only") {
				t.Error("nothing says what is left out")
			}
		}
		if dir := os.Getenv("COLOD_REPORT_PAGES"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("page-%d.html", n)), page.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTshark: tshark, where it is installed, reads the capture, sees both interfaces, correct checksums and the comments.
func TestTshark(t *testing.T) {
	all := many(20)
	udp := sample(50)
	udp.Flow = Flow{Kind: "udp", Guest: "2001:db8::1", GuestPort: 53, Peer: "2001:db8::2", PeerPort: 5353, Protocol: 17, Ether: 0x86dd}
	icmp := sample(51)
	icmp.Flow = Flow{Kind: "icmp", Guest: "192.0.2.1", Peer: "192.0.2.2", Protocol: 1}
	arp := sample(52)
	arp.Flow = Flow{Kind: "arp", Guest: "192.0.2.1", Peer: "192.0.2.2", Ether: 0x806}
	nothing := sample(53)
	nothing.Flow, nothing.Bytes = Flow{}, nil
	all = append(all, udp, icmp, arp, nothing)
	var b bytes.Buffer
	if err := WritePcapng(&b, all); err != nil {
		t.Fatal(err)
	}
	comments := checkPcapng(t, b.Bytes(), 2*len(all))
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Fatalf("%v: make setup installs it", err)
	}
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", path, "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=\t", "-e", "frame.interface_name",
		"-e", "frame.comment", "-e", "tcp.checksum.status", "-e", "udp.checksum.status", "-e", "_ws.malformed").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != len(comments) {
		t.Fatalf("%d lines for %d frames", len(lines), len(comments))
	}
	for i, l := range lines {
		f := strings.Split(l, "\t")
		if f[0] != []string{"primary", "secondary"}[i%2] || f[1] != comments[i] {
			t.Errorf("frame %d: %q, comment %q", i, f, comments[i])
		}
		if len(f) > 3 && (f[2] == "0" || f[3] == "0") {
			t.Errorf("frame %d: bad checksum", i)
		}
	}
}

// TestText is what a person sees.
func TestText(t *testing.T) {
	r := sample(4)
	r.Number = 17
	s := r.Time.Add(time.Millisecond)
	r.Timing.Secondary = &s
	r.Bytes = &Bytes{Payload: "full", At: 23, Primary: []byte("HTTP/1.1 200 OK\r\nDate: 25 GMT\r\n"), Secondary: []byte("HTTP/1.1 200 OK\r\nDate: 37 GMT\r\n"), Different: [][2]int{{23, 25}}}
	var b bytes.Buffer
	if err := WriteText(&b, r); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/report.txt")
	if *update {
		err = os.WriteFile("testdata/report.txt", b.Bytes(), 0o644)
		want = b.Bytes()
	}
	if err != nil || b.String() != string(want) {
		t.Errorf("%v\n%s", err, b.String())
	}
}
