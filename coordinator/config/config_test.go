package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good is a whole configuration; tests change lines of it.
const good = `node: a
listen: 198.51.100.1:7420
tls: {ca: ca.pem, cert: a.pem, key: a.key}
heartbeat: {interval: 50ms, timeout: 250ms}
arbiter: {file: {path: /var/lib/colod/arbiter}}
pairs:
  - name: guest1
    nodes: [{name: a, address: "198.51.100.1:7420"}, {name: b, address: "198.51.100.2:7420"}]
    network: {bridge: br0, tap: vm0, mac: 52:54:00:12:34:56}
    vm: {memory: 256M, kernel: /boot/vmlinuz, append: "console=ttyS0 quiet", args: [-rtc, base=utc], env: {A: "1"}}
`

func TestExampleParses(t *testing.T) {
	c, err := Parse("/etc/colod/colod.yaml", []byte(Example()))
	if err != nil {
		t.Fatalf("example: %v\n%s", err, Example())
	}
	p := c.Pairs[0]
	if p.VM.Memory != 256<<20 || !p.AutoProtect || p.Network.Uplink != "vm0up" || c.TLS.CA != "/etc/colod/ca.pem" || c.API.Socket != "/run/colod/api.sock" {
		t.Fatalf("values: %+v", c)
	}
	// Every key of the example can be used: with the comments taken off it says the same.
	var lines []string
	for line := range strings.Lines(Example()) {
		body := strings.TrimLeft(line, " ")
		if rest, ok := strings.CutPrefix(body, "# "); ok {
			indent := line[:len(line)-len(body)]
			key, _, isKey := strings.Cut(rest, ":")
			if !isKey || strings.ContainsAny(strings.TrimSpace(key), " .") || strings.HasPrefix(strings.TrimSpace(rest), "#") {
				continue
			}
			line = indent + rest
		}
		lines = append(lines, line)
	}
	full, err := Parse("/etc/colod/colod.yaml", []byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatalf("example without comment signs: %v\n%s", err, strings.Join(lines, ""))
	}
	c.Pairs[0].VM.Args, c.Pairs[0].VM.Env = full.Pairs[0].VM.Args, full.Pairs[0].VM.Env // empty or absent is the same
	full.Pairs[0].Network.Uplink = "vm0up"
	if d := cmp.Diff(c, full); d != "" {
		t.Errorf("the defaults in the example are not the defaults (-defaults +example):\n%s", d)
	}
}

func TestGood(t *testing.T) {
	c, err := Parse("colod.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pairs[0]
	if p.Network.HardwareAddr().String() != "52:54:00:12:34:56" || p.VM.Append != "console=ttyS0 quiet" || len(p.VM.Args) != 2 || p.VM.Env["A"] != "1" {
		t.Errorf("values: %+v", p)
	}
	if p.Peer("a").Name != "b" || p.Peer("b").Name != "a" || !p.First("a") || p.First("b") {
		t.Error("peer or first is wrong")
	}
	if p.Checkpoint.Timeout.D() != 10*time.Second || p.Hold.Max.D() != 200*time.Millisecond {
		t.Errorf("defaults: %+v", p)
	}
}

// TestProblems: each mistake is named with file, line, column, key and cure.
func TestProblems(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", "listen:", "lisen:", "x.yaml:2:1: lisen: unknown key; did you mean listen?"},
		{"unknown key far off", "heartbeat:", "zebra:", "x.yaml:4:1: zebra: unknown key; the keys here are node, listen, tls,"},
		{"missing key", "node: a\n", "", "x.yaml:1:1: node: the key is missing; add it, for example node: a"},
		{"missing nested key", ", key: a.key", "", "x.yaml:3:1: tls.key: the key is missing; add it, for example key: a.key"},
		{"twice", "node: a\n", "node: a\nnode: b\n", "x.yaml:2:1: node: the key is given twice, first in line 1; remove one of them"},
		{"no value", "node: a", "node:", "x.yaml:1:1: node: the key has no value; give one or remove the key"},
		{"mapping wanted", "heartbeat: {interval: 50ms, timeout: 250ms}", "heartbeat: fast", `x.yaml:4:12: heartbeat: a mapping is expected here, not the value "fast"; with the keys interval, timeout`},
		{"list wanted", `[{name: a, address: "198.51.100.1:7420"}, {name: b, address: "198.51.100.2:7420"}]`, "both", `pairs[0].nodes: a list is expected here, not the value "both"; begin each item with a dash`},
		{"scalar wanted", "node: a", "node: [a]", "x.yaml:1:7: node: a single value is expected here, not a list"},
		{"duration without unit", "interval: 50ms", "interval: 50", `x.yaml:4:23: heartbeat.interval: "50" is not a duration; write a number with its unit, for example 250ms`},
		{"timeout too short", "timeout: 250ms", "timeout: 100ms", "x.yaml:4:29: heartbeat.timeout: 100ms is less than three heartbeats of 50ms; use at least 150ms"},
		{"size", "memory: 256M", "memory: lots", `pairs[0].vm.memory: "lots" is not a size; write a whole number with its unit`},
		{"size without unit", "memory: 256M", "memory: 268435456", `"268435456" is not a size`},
		{"size too small", "memory: 256M", "memory: 1M", "pairs[0].vm.memory: 1M is out of range; use 16M to 64T"},
		{"enum", "pairs:", "log: {level: loud}\npairs:", `log.level: "loud" is not known; write one of trace, debug, info, warn, error`},
		{"number", "memory: 256M", "memory: 256M, smp: two", `pairs[0].vm.smp: "two" is not a whole number; write digits only`},
		{"number out of range", "memory: 256M", "memory: 256M, smp: 0", "pairs[0].vm.smp: 0 is out of range; write a number from 1 to 255"},
		{"yes or no", "name: guest1", "name: guest1\n    auto_protect: maybe", `pairs[0].auto_protect: "maybe" is not a yes or no; write true or false`},
		{"address", "listen: 198.51.100.1:7420", "listen: 198.51.100.1", `listen: "198.51.100.1" is not an address with a port; write for example`},
		{"node name", "node: a", "node: a b", `node: "a b" is not a node name; use a DNS name`},
		{"not in the list", "node: a\n", "node: c\n", `pairs[0].nodes: this node, "c", is not in the list; add it, or correct the key node`},
		{"same node twice", "{name: b,", "{name: a,", `pairs[0].nodes[1].name: node "a" is listed twice; a pair needs two different nodes`},
		{"one node", `, {name: b, address: "198.51.100.2:7420"}`, "", "pairs[0].nodes: 1 nodes are listed; list the nodes of the pair, 2 to 16"},
		{"device name", "tap: vm0", "tap: a-very-long-tap-name", `pairs[0].network.tap: "a-very-long-tap-name" is not a network device name`},
		{"derived device name", "tap: vm0", "tap: twelve-chars", `"twelve-charsupbr" (the bridge port of the uplink) is not a network device name`},
		{"mac", "52:54:00:12:34:56", "52:54:00", `pairs[0].network.mac: "52:54:00" is not a MAC address; write for example`},
		{"group mac", "52:54:00:12:34:56", "53:54:00:12:34:56", "is a group address; the first byte must be even"},
		{"reserved argument", "args: [-rtc,", "args: [-qmp,", "pairs[0].vm.args[0]: -qmp is set by colod; remove it"},
		{"initrd without kernel", "kernel: /boot/vmlinuz", "initrd: /boot/initrd", "pairs[0].vm: initrd and append need a kernel; add the key kernel"},
		{"arbiter", "arbiter: {file: {path: /var/lib/colod/arbiter}}", "arbiter: {}", "arbiter: no kind of arbiter is given"},
		{"two arbiters", "arbiter: {file", "arbiter: {etcd: {endpoints: [\"https://198.51.100.11:2379\"]}, file", "x.yaml:5:1: arbiter: two arbiters are given, file and etcd; keep one of them"},
		{"no endpoints", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: []}}", "x.yaml:5:18: arbiter.etcd.endpoints: 0 endpoints are listed; list 1 to 16 client URLs"},
		{"endpoint", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [198.51.100.11]}}", `arbiter.etcd.endpoints[0]: "198.51.100.11" is not an endpoint; write https://host:port`},
		{"endpoint without TLS", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"http://198.51.100.11:2379\"]}}", "is without TLS: anybody on the network could decide who speaks; write https"},
		{"endpoint twice", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"https://h:2379\", \"https://h:2379\"]}}", `arbiter.etcd.endpoints[1]: "https://h:2379" is listed twice`},
		{"key without cert", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"https://h:2379\"], key: k}}", "arbiter.etcd: cert and key go together, and only one of them is given"},
		{"prefix", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"https://h:2379\"], prefix: colod}}", `arbiter.etcd.prefix: "colod" is not a prefix of keys; write for example /colod/`},
		{"etcd timeout", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"https://h:2379\"], timeout: 1ms}}", "arbiter.etcd.timeout: 1ms is out of range; use 100ms to 1m"},
		{"unknown key of etcd", "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoint: [\"https://h:2379\"]}}", "arbiter.etcd.endpoint: unknown key; did you mean endpoints?"},
		{"spare without etcd", "pairs:", "spare: {bridge: br0}\npairs:", "x.yaml:6:1: spare: a spare node needs the arbiter etcd, which holds the pairs' descriptions; use arbiter"},
		{"spare's tap", "pairs:", "spare: {bridge: br0, tap: sevench}\npairs:", `x.yaml:6:22: spare.tap: "sevench" is not a network device name; use 1 to 6 letters`},
		{"fencing word", "pairs:", "fencing: {command: [/bin/fence, '{host}']}\npairs:", `x.yaml:6:33: fencing.command[1]: "{host}" is not known; use {node} or {pair}`},
		{"fencing timeout", "name: guest1", "name: guest1\n    fencing: {command: [x], timeout: 1h}", "pairs[0].fencing.timeout: 1h is out of range; use 100ms to 10m"},
		{"fencing required", "pairs:", "fencing: {required: true}\npairs:", "x.yaml:6:11: fencing.required: it is required, but there is no command"},
		{"path", `{name: a, address: "198.51.100.1:7420"}`, `{name: a, address: "198.51.100.1:7420", paths: [203.0.113.1]}`, `pairs[0].nodes[0].paths[0]: "203.0.113.1" is not an address with a port`},
		{"path twice", `{name: a, address: "198.51.100.1:7420"}`, `{name: a, address: "198.51.100.1:7420", paths: ["198.51.100.1:7420"]}`, `pairs[0].nodes[0].paths[0]: "198.51.100.1:7420" is listed twice`},
		{"domain", "pairs:", "domain: " + strings.Repeat("x", 65) + "\npairs:", "is not the name of a failure domain; use a word such as rack1"},
		{"relative path", "path: /var", "path: var", `arbiter.file.path: "var/lib/colod/arbiter" is not an absolute path; write the path from / on`},
		{"hold", "name: guest1", "name: guest1\n    hold: {min: 50ms, max: 10ms}", "pairs[0].hold.max: 10ms is less than hold.min, 50ms; write a larger one"},
		{"no YAML", "tls: {ca", "tls: {{ca", "x.yaml:3:"},
		{"tab", "  - name: guest1", "\t- name: guest1", "this is not YAML"},
		{"anchor", "node: a", "node: &x a", "node: anchors, aliases and merge keys are not used here; write the value out"},
		{"two documents", "arbiter:", "---\narbiter:", "the file has more than one document"},
		{"run_dir too long", "pairs:", "run_dir: /" + strings.Repeat("x", 100) + "\npairs:", "run_dir: the path has 101 characters, too long for the unix sockets of pair \"guest1\" in it; use one of at most 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.from, c.to, 1)
			if text == good {
				t.Fatalf("%q does not stand in the good configuration", c.from)
			}
			_, err := Parse("x.yaml", []byte(text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error:\n%v\nwant one with:\n%s", err, c.want)
			}
		})
	}
}

// TestEtcd: the other arbiter of the example can be used, too; files that are not named are those of tls.
func TestEtcd(t *testing.T) {
	text := Example()
	from, to := strings.Index(text, "\n  file:\n"), strings.Index(text, "\n  # Instead of file")
	if from < 0 || to < from {
		t.Fatalf("example: %s", text)
	}
	var lines []string
	for line := range strings.Lines(text[:from] + text[to:]) {
		if body, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "## "); ok {
			line = line[:len(line)-len(strings.TrimLeft(line, " "))] + body
		}
		lines = append(lines, line)
	}
	c, err := Parse("/etc/colod/colod.yaml", []byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(lines, ""))
	}
	want := &EtcdArbiter{
		Endpoints: []string{"https://198.51.100.11:2379", "https://198.51.100.12:2379", "https://198.51.100.13:2379"},
		CA:        "/etc/colod/ca.pem", Cert: "/etc/colod/a.pem", Key: "/etc/colod/a.key", Prefix: "/colod/", Timeout: Duration(3 * time.Second),
	}
	if d := cmp.Diff(want, c.Arbiter.Etcd); d != "" || c.Arbiter.File != nil {
		t.Errorf("arbiter (-want +got):\n%s", d)
	}
	own := strings.Replace(good, "{file: {path: /var/lib/colod/arbiter}}", "{etcd: {endpoints: [\"https://h:2379\"], ca: /e/ca, cert: c, key: k, prefix: /x, timeout: 1s}}", 1)
	if c, err = Parse("/etc/colod/colod.yaml", []byte(own)); err != nil {
		t.Fatal(err)
	}
	if e := c.Arbiter.Etcd; e.CA != "/e/ca" || e.Cert != "/etc/colod/c" || e.Key != "/etc/colod/k" || e.Prefix != "/x" {
		t.Errorf("values: %+v", e)
	}
	spare := strings.Replace(own[:strings.Index(own, "pairs:")], "node: a", "node: c\nspare: {bridge: br0}\npairs: []", 1)
	if c, err = Parse("/etc/colod/colod.yaml", []byte(spare)); err != nil || c.Spare.Tap != "colod" {
		t.Errorf("spare: %v", err)
	}
	if _, err = Parse("x.yaml", []byte(strings.Replace(spare, "spare: {bridge: br0}\n", "", 1))); err == nil || !strings.Contains(err.Error(), "or make this node a spare") {
		t.Errorf("no pairs: %v", err)
	}
}

// TestSeveralNodes: a pair may list more than two nodes, with several paths.
func TestSeveralNodes(t *testing.T) {
	three := strings.Replace(good, `{name: a, address: "198.51.100.1:7420"}`, `{name: a, address: "198.51.100.1:7420", paths: ["203.0.113.1:7421"]}, {name: c, address: "198.51.100.3:7420"}`, 1)
	c, err := Parse("x.yaml", []byte(three))
	if err != nil {
		t.Fatal(err)
	}
	p := &c.Pairs[0]
	if d := cmp.Diff([]string{"c", "b"}, p.Peers("a")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"198.51.100.1:7420", "203.0.113.1:7421"}, p.NodeOf("a").Addresses()); d != "" {
		t.Error(d)
	}
	if p.NodeOf("z").Addresses() != nil {
		t.Error("a node that is not listed has addresses")
	}
	two := three + strings.NewReplacer("guest1", "guest2", "vm0", "vm1", "34:56", "34:57").Replace(good[strings.Index(good, "  - name"):])
	_, err = Parse("x.yaml", []byte(two))
	if want := `pairs[1].nodes[0].paths: [] are not what pairs[0].nodes[0].paths says of node "a"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = Parse("x.yaml", []byte(strings.Replace(two, `{name: b, address: "198.51.100.2:7420"}]`, `{name: b, address: "198.51.100.9:7420"}]`, 1)))
	if want := `pairs[1].nodes[1].address: "198.51.100.2:7420" is not what pairs[0].nodes[2].address says of node "b": "198.51.100.9:7420"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	text := strings.NewReplacer("node: a\n", "nod: a\n", "50ms", "50", "256M", "12Q", "br0", "br/0").Replace(good)
	_, err := Parse("x.yaml", []byte(text))
	ps, ok := err.(Problems)
	if !ok || len(ps) != 6 {
		t.Fatalf("problems: %v", err)
	}
	for i := 1; i < len(ps); i++ {
		if ps[i].Line < ps[i-1].Line {
			t.Errorf("not in the order of the file: %v", err)
		}
	}
	b, err := json.Marshal(ps[0])
	if err != nil || !bytes.Contains(b, []byte(`"line":1`)) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
}

func TestNoFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "read configuration") {
		t.Errorf("error %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(empty); err == nil || !strings.Contains(err.Error(), "the file is empty; colod config example prints one") {
		t.Errorf("error %v", err)
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]uint64{"256M": 256 << 20, "4G": 4 << 30, "1 GiB": 1 << 30, "16k": 16 << 10, "1T": 1 << 40} {
		if got, err := ParseSize(text); err != nil || got.Bytes() != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "-1M", "1.5G", "99999999999999999999M", "9999999999T"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	for _, s := range []Size{1 << 30, 3 << 20, 5 << 10, 7} {
		if again, err := ParseSize(s.String()); s >= 1<<10 && (err != nil || again != s) {
			t.Errorf("%d is written as %s, read as %d, %v", s, s, again, err)
		}
	}
	for _, text := range []string{"1m", "10s", "2h", "1m30s", "250ms"} {
		d, err := ParseDuration(text)
		if err != nil || d.String() != text {
			t.Errorf("%s: %s, %v", text, d, err)
		}
	}
}

// TestSchema: the schema names exactly the keys that are read.
func TestSchema(t *testing.T) {
	var s struct {
		Properties map[string]struct {
			Items struct {
				Properties map[string]any `json:"properties"`
				Required   []string       `json:"required"`
			} `json:"items"`
		} `json:"properties"`
		Required []string `json:"required"`
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"node", "listen", "tls", "arbiter", "pairs"}, s.Required); d != "" {
		t.Errorf("required: %s", d)
	}
	if len(s.Properties["pairs"].Items.Properties) != len(fieldsOf(reflect.TypeFor[Pair]())) {
		t.Errorf("pairs have the keys %v", s.Properties["pairs"].Items.Properties)
	}
}

// FuzzParse: a result or problems, never both, and each problem says where.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(Example()))
	for _, s := range []string{"", "a", "- a", "{", "a: {b: [c", "? a\n: b", "<<: *x", "a: !!int x", "a: |\n  b\n c", "node: {node: {node: }}", "pairs: [[[[]]]]", "\x00", "a: &a [*a]", "tls:\n\tca: x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x.yaml", data)
		if (err == nil) == (c == nil) {
			t.Fatalf("configuration %v with error %v", c, err)
		}
		if err == nil {
			return
		}
		ps, ok := err.(Problems)
		if !ok || len(ps) == 0 {
			t.Fatalf("error %T %v", err, err)
		}
		for _, p := range ps {
			if p.What == "" || p.Cure == "" || p.File != "x.yaml" {
				t.Fatalf("problem without what, cure or file: %+v", p)
			}
		}
	})
}

// TestEncodePair: what another node reads is the same pair, with its own
// devices; what is not a pair is refused.
func TestEncodePair(t *testing.T) {
	c, err := Parse("x.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	p := &c.Pairs[0]
	p.VM.Append = `console=ttyS0 "quoted: #no comment" \back`
	p.Hold.Min = Duration(1500 * time.Microsecond)
	b, err := EncodePair(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodePair("the registry", b, "br7", "colod1")
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	want := *p
	want.Network.Bridge, want.Network.Tap, want.Network.Uplink = "br7", "colod1", "colod1up"
	if d := cmp.Diff(&want, got, cmp.FilterPath(func(p cmp.Path) bool { return true }, cmp.Comparer(func(a, b []string) bool {
		return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b))
	}))); d != "" {
		t.Errorf("the pair changed (-sent +read):\n%s", d)
	}
	for text, want := range map[string]string{
		"":                   "the registry: the file is empty",
		"[]":                 "a mapping is expected here",
		`{"name": "g"}`:      "nodes: the key is missing",
		string(b[:len(b)/2]): "the registry:",
		`{"zebra": 1}`:       "unknown key",
		strings.Replace(string(b), `"256M"`, `"1M"`, 1): "pairs[0].vm.memory: 1M is out of range",
	} {
		if _, err := DecodePair("the registry", []byte(text), "br7", "colod1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}
