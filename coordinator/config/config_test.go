package config

import (
	"strings"
	"testing"
)

func TestExampleParses(t *testing.T) {
	c, err := Parse("colod.yaml", []byte(Example()))
	if err != nil {
		t.Fatalf("example: %v\n%s", err, Example())
	}
	t.Log(Example())
	if c.Pairs[0].VM.Memory != 256<<20 || !c.Pairs[0].AutoProtect || c.Pairs[0].Network.Uplink != "vm0up" {
		t.Fatalf("values: %+v", c.Pairs[0])
	}
}

func TestManyProblems(t *testing.T) {
	_, err := Parse("x.yaml", []byte(`node: a_b!
listen: nowhere
lisen: 3
tls: {ca: ca.pem, cert: a.pem}
heartbeat: {interval: 50, timeout: 1ms}
arbiter: {}
pairs:
  - name: g
    nodes: [{name: a, address: "1.2.3.4:1"}]
    network: {bridge: br0, tap: averyveryverylongname, mac: 52:54:00:12:34:56}
    vm: {memory: 12Q, smp: 0, args: [-qmp]}
    mode: epoch
    mode: epoch
`))
	t.Log(err)
	if err == nil {
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), "did you mean listen?") {
		t.Fatal(err)
	}
}
