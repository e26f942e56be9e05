package config

import (
	"fmt"
	"path/filepath"
)

// API configures the ways to the daemon for people and programs.
type API struct {
	Socket   string `yaml:"socket" default:"" doc:"Path of the unix socket of the HTTP API; empty means api.sock in run_dir. Who may open it may end the guests."`
	Listen   string `yaml:"listen" default:"" doc:"Address and port on which API, web page and metrics are served over TLS as well; empty means nowhere. Who calls shows a client certificate or a token, each of which may read or operate."`
	Cert     string `yaml:"cert" default:"" doc:"Certificate shown there; empty means tls.cert."`
	Key      string `yaml:"key" default:"" doc:"Its private key; empty means tls.key."`
	ClientCA string `yaml:"client_ca" default:"" doc:"Certificate of the authority that signed the clients' certificates (made by colod cert client); empty means tls.ca."`
	Tokens   string `yaml:"tokens" default:"" doc:"File with one line a token, as made by colod token; empty means that only certificates count. Read anew when it changes."`
}

// api checks the API's keys.
func (ck checker) api(a *API) {
	if s := a.Socket; s != "" && (!filepath.IsAbs(s) || len(s) > 107) {
		ck.bad("api.socket", fmt.Sprintf("%q is not an absolute path of at most 107 characters", s), "write such a path or leave the key out")
	}
	if a.Listen != "" {
		ck.address("api.listen", a.Listen)
	} else {
		for _, f := range []struct{ key, path string }{{"cert", a.Cert}, {"key", a.Key}, {"client_ca", a.ClientCA}, {"tokens", a.Tokens}} {
			if f.path != "" {
				ck.bad("api."+f.key, "it is for api.listen, which is not given", "add api.listen or leave the key out")
			}
		}
	}
	if (a.Cert == "") != (a.Key == "") {
		ck.bad("api.cert", "certificate and key belong together", "give api.cert and api.key, or neither")
	}
}

// complete fills in what follows from other keys; those of c.TLS are complete.
func (a *API) complete(c *Config) {
	if a.Socket == "" {
		a.Socket = filepath.Join(c.RunDir, "api.sock")
	}
	if a.Cert == "" {
		a.Cert, a.Key = c.TLS.Cert, c.TLS.Key
	}
	if a.ClientCA == "" {
		a.ClientCA = c.TLS.CA
	}
	for _, p := range []*string{&a.Cert, &a.Key, &a.ClientCA, &a.Tokens} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(c.File), *p)
		}
	}
}
