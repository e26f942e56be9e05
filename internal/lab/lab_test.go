package lab

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colod/coordinator/config"
	"colod/internal/certs"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"lab", "a", "my-lab-2", strings.Repeat("x", 15)} {
		if _, err := newLab(name, nil); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"-a", "a-", "A", "a b", "../x", strings.Repeat("x", 16)} {
		if _, err := newLab(name, nil); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
}

func TestOpenOfNoLab(t *testing.T) {
	if _, err := Open("no-such-lab"); !errors.Is(err, ErrNoLab) {
		t.Errorf("got %v", err)
	}
}

// The configuration that the lab writes is one that the daemon takes.
func TestNodeConfiguration(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l := &Lab{Name: "t", dir: dir, state: state{
		Mode: "lockstep", SMP: 2, Memory: "256M", Accel: "tcg", LogLevel: "info", Encryption: "plain", Timeout: "250ms",
		Kernel: "/k", Initrd: "/i", Append: `console=ttyS0 x="y z"`, Shim: "/shim.so",
	}}
	ca, err := certs.NewAuthority("test", 1e15)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(filepath.Join(l.dir, "ca.pem"), filepath.Join(l.dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	for _, node := range Nodes {
		if err := l.writeNode(node, ca); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(l.configFile(node))
		if err != nil {
			t.Fatal(err)
		}
		p := c.Pairs[0]
		if c.Node != node || c.API.Socket != l.Socket(node) || p.VM.Append != l.state.Append || p.VM.Env["LD_PRELOAD"] != "/shim.so" ||
			p.VM.SMP != 2 || p.Nodes[0].Name != NodeA || c.Listen != address(replNet, node)+":7420" {
			t.Errorf("node %s: %+v", node, c)
		}
		for _, f := range []string{c.TLS.CA, c.TLS.Cert, c.TLS.Key} {
			if _, err := os.Stat(f); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestLeaksSeesADirectory(t *testing.T) {
	const name = "leak-test"
	if left := Leaks(name); len(left) != 0 {
		t.Fatalf("before anything was made: %q", left)
	}
	dir := filepath.Join(baseDir, name, "a")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if left := Leaks(name); len(left) == 0 {
		t.Error("a directory is not seen")
	}
	if err := Down(t.Context(), name); err != nil {
		t.Error(err)
	}
	if left := Leaks(name); len(left) != 0 {
		t.Errorf("after down: %q", left)
	}
}

func TestCountsInOneLine(t *testing.T) {
	if got := counts(map[string]uint64{"payload": 2, "timer": 7, "lost": 0, "ack": 2}); got != "timer 7, ack 2, payload 2" {
		t.Errorf("got %q", got)
	}
	if got := counts(nil); got != "none" {
		t.Errorf("got %q", got)
	}
}

func TestFaultsAreRefusedWithASentence(t *testing.T) {
	l := &Lab{Name: "none", dir: "/nonexistent", state: state{Native: true}}
	for _, c := range []struct{ kind, node, want string }{
		{"explode", "", "want one of kill-vm"},
		{KillVM, "c", "unknown host"},
		{KillColod, "", "unprotected"},
		{KillVM, NodeB, "unprotected"},
	} {
		if _, err := l.Fault(t.Context(), c.kind, c.node); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.node, err, c.want)
		}
	}
}

// TestImagesInUse: the images of labs that are up are known, so that no other lab's build removes them.
func TestImagesInUse(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"up": `{"initrd":"/c/initrd-1.img"}`, "native": `{"initrd":"/c/initrd-2.img"}`, "broken": `{`} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "lab.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	used := imagesInUse(dir)
	slices.Sort(used)
	if want := []string{"/c/initrd-1.img", "/c/initrd-2.img"}; !slices.Equal(used, want) {
		t.Fatalf("in use are %q, want %q", used, want)
	}
}
