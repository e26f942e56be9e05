package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/coordinator/config"
	"colod/internal/certs"
)

// find returns the findings of a check.
func find(fs []Finding, check string) (out []Finding) {
	for _, f := range fs {
		if f.Check == check {
			out = append(out, f)
		}
	}
	return out
}

func parse(t *testing.T, dir, change, to string) *config.Config {
	t.Helper()
	text := fmt.Sprintf(`node: a
listen: 198.51.100.1:7420
tls: {ca: ca.pem, cert: a.pem, key: a.key}
state_dir: %[1]s/state
run_dir: %[1]s/run
arbiter: {file: {path: %[1]s/arbiter}}
pairs:
  - name: g
    nodes: [{name: a, address: "198.51.100.1:7420"}, {name: b, address: "198.51.100.2:7420"}]
    network: {bridge: nobridge0, tap: vm0, mac: "52:54:00:12:34:56"}
    vm: {memory: 64M}
`, dir)
	if change != "" && !strings.Contains(text, change) {
		t.Fatalf("%q is not in the configuration", change)
	}
	cfg, err := config.Parse(filepath.Join(dir, "colod.yaml"), []byte(strings.Replace(text, change, to, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestWhatIsMissing: each thing that a configuration asks for and the host
// does not have is named, with a cure.
func TestWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ check, change, to, want string }{
		{"bridge", "", "", "nobridge0 is not a bridge of this host"},
		{"certificate", "", "", "read authority certificate"},
		{"qemu", "memory: 64M", "memory: 64M, qemu: qemu-nowhere", "qemu-nowhere"},
		{"memory", "memory: 64M", "memory: 60T", "pair g"},
		{"boot file", "memory: 64M", "memory: 64M, kernel: /nonexistent/vmlinuz", "/nonexistent/vmlinuz"},
		{"directory", "run_dir: " + dir, "run_dir: " + dir + "/file", "not a directory"},
	} {
		fs := Run(context.Background(), Options{Config: parse(t, dir, c.change, c.to)})
		if Healthy(fs) {
			t.Errorf("%s: healthy", c.check)
		}
		said := false
		for _, f := range find(fs, c.check) {
			if f.Level == Bad && f.Cure == "" {
				t.Errorf("%s: no cure: %+v", c.check, f)
			}
			said = said || f.Level == Bad && strings.Contains(f.What, c.want)
		}
		if !said {
			t.Errorf("%s: %+v, want %q", c.check, find(fs, c.check), c.want)
		}
	}
}

func TestWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	a, err := certs.NewAuthority("test", 10*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Issue("a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) string { return filepath.Join(dir, s) }
	if err := a.Save(at("ca.pem"), at("ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := id.Save(at("a.pem"), at("a.key")); err != nil {
		t.Fatal(err)
	}
	fs := Run(context.Background(), Options{Config: parse(t, dir, "", "")})
	for check, want := range map[string]Level{"qemu": OK, "memory": OK, "directory": OK, "certificate": Note} {
		got := find(fs, check)
		if len(got) == 0 {
			t.Errorf("%s was not checked", check)
		}
		for _, f := range got {
			if f.Level != want {
				t.Errorf("%s: %+v, want %s", check, f, want)
			}
		}
	}
}
