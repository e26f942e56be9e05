package config

import (
	"strings"
	"testing"
)

func parseWithAPI(api string) (*Config, error) {
	return Parse("/etc/colod/colod.yaml", []byte(`
node: a
listen: 198.51.100.1:7420
tls: {ca: ca.pem, cert: a.pem, key: a.key}
api: `+api+`
arbiter: {file: {path: /x}}
pairs:
  - name: g
    nodes: [{name: a, address: "198.51.100.1:7420"}, {name: b, address: "198.51.100.2:7420"}]
    network: {bridge: br0, tap: vm0, mac: "52:54:00:12:34:56"}
    vm: {memory: 64M}
`))
}

func TestAPIOverTLS(t *testing.T) {
	c, err := parseWithAPI(`{listen: "198.51.100.1:7443", tokens: tokens}`)
	if err != nil {
		t.Fatal(err)
	}
	want := API{
		Socket: "/run/colod/api.sock", Listen: "198.51.100.1:7443", Cert: "/etc/colod/a.pem", Key: "/etc/colod/a.key",
		ClientCA: "/etc/colod/ca.pem", Tokens: "/etc/colod/tokens",
	}
	if c.API != want {
		t.Errorf("got %+v, want %+v", c.API, want)
	}
}

func TestAPIProblems(t *testing.T) {
	for _, tt := range []struct{ api, want string }{
		{`{listen: everywhere}`, `api.listen: "everywhere" is not an address with a port`},
		{`{tokens: tokens}`, "api.tokens: it is for api.listen, which is not given"},
		{`{listen: "198.51.100.1:7443", cert: c.pem}`, "api.cert: certificate and key belong together"},
		{`{socket: api.sock}`, `api.socket: "api.sock" is not an absolute path`},
	} {
		_, err := parseWithAPI(tt.api)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.api, err, tt.want)
		}
	}
}
