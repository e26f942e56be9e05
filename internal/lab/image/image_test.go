package image

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// readCPIO is a second implementation of the format, for the test.
func readCPIO(t *testing.T, b []byte) (names []string, data map[string]string) {
	t.Helper()
	data = map[string]string{}
	for at := 0; ; {
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("offset %d: no magic", at)
		}
		field := func(i int) int {
			n, err := strconv.ParseInt(string(b[at+6+8*i:at+14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		size, nameLen := field(6), field(11)
		name := string(b[at+110 : at+110+nameLen-1])
		body := (at + 110 + nameLen + 3) &^ 3
		if name == "TRAILER!!!" {
			return names, data
		}
		names = append(names, fmt.Sprintf("%s %o", name, field(1)))
		data[name] = string(b[body : body+size])
		at = (body + size + 3) &^ 3
	}
}

func TestCPIO(t *testing.T) {
	make := func() []byte {
		var out bytes.Buffer
		c := newCPIO(&out)
		c.File("/a/b/file", 0o644, []byte("hello"))
		c.Dir("a/b", 0o700) // there already
		c.Symlink("/a/link", "b/file")
		c.Char("/dev/console", 0o600, 5, 1)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	b := make()
	names, data := readCPIO(t, b)
	want := []string{"a 40755", "a/b 40755", "a/b/file 100644", "a/link 120777", "dev 40755", "dev/console 20600"}
	if !slices.Equal(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
	if data["a/b/file"] != "hello" || data["a/link"] != "b/file" {
		t.Errorf("content %q", data)
	}
	if len(b)%512 != 0 {
		t.Errorf("length %d: another archive could not follow", len(b))
	}
	if !bytes.Equal(b, make()) {
		t.Error("equal input gave different bytes")
	}
}

func TestParseControl(t *testing.T) {
	got := parseControl(`Package: redis-tools
Version: 5:7.0.15-1
Depends: libc6 (>= 2.34), libssl3:any (>= 3.0.0), adduser | passwd
Description: x
 Depends: not this

Package: libc6
Pre-Depends: libcrypt1 (>= 1:4.4)

`)
	if len(got) != 2 || got[0].Package != "redis-tools" || got[1].Package != "libc6" {
		t.Fatalf("got %+v", got)
	}
	if want := []string{"libc6", "libssl3", "adduser"}; !slices.Equal(got[0].Depends, want) {
		t.Errorf("depends %q, want %q", got[0].Depends, want)
	}
	if want := []string{"libcrypt1"}; !slices.Equal(got[1].Depends, want) {
		t.Errorf("depends %q, want %q", got[1].Depends, want)
	}
}

func TestKeyIsWhatOpenSSHReads(t *testing.T) {
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, k.Private, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-y", "-f", name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.Join(strings.Fields(string(out))[:2], " "); got != k.Authorized {
		t.Errorf("ssh-keygen says %q, we say %q", got, k.Authorized)
	}
	if cert, err := k.certificate(); err != nil || !bytes.Contains(cert, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("certificate: %v", err)
	}
}

func TestLibrariesNameWhatIsMissing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]file{
		"/bin/prog": {link: "../real"}, "/real": {data: data},
		"/loop": {link: "loop"}, "/bad": {data: []byte("no ELF")},
	}
	if _, err := libraries(tree, []string{"/bin/gone"}); err == nil || !strings.Contains(err.Error(), "/bin/gone is in none") {
		t.Errorf("missing program: %v", err)
	}
	if _, err := libraries(tree, []string{"/loop"}); err == nil {
		t.Error("a link to itself was followed to a file")
	}
	if _, err := libraries(tree, []string{"/bad"}); err == nil || !strings.Contains(err.Error(), "/bad") {
		t.Errorf("no ELF file: %v", err)
	}
	if real, ok := resolve(tree, "/bin/prog"); !ok || real != "/real" {
		t.Errorf("resolve: %q, %v", real, ok)
	}
}

func TestDynamicProgramIsRefused(t *testing.T) {
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := staticProgram(sh); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("a dynamically linked program: %v", err)
	}
	if _, err := staticProgram("/etc/passwd"); err == nil {
		t.Error("a text file was taken for a program")
	}
}
