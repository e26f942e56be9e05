package transcript

import (
	"strings"
	"testing"
)

const doc = "# Title\n\n    $ not this\n\n```console\n$ colod version\ncolod 1.2.3\n$ colod frob\ncolod: unknown\n[exit status 2]\n```\n\n" +
	"```yaml\n$ nor this\n```\n```console lab\n$ colod status\n\nnode a, up 5m10s\n...\nend\n```\n"

func TestParse(t *testing.T) {
	blocks, err := Parse(doc)
	if err != nil || len(blocks) != 2 {
		t.Fatalf("%+v, %v", blocks, err)
	}
	b := blocks[0]
	if b.Needs != "" || len(b.Steps) != 2 || b.Steps[1].Command != "colod frob" || b.Steps[1].Exit != 2 || len(b.Steps[1].Output) != 1 || b.Steps[1].Line != 8 {
		t.Errorf("%+v", b)
	}
	if b := blocks[1]; b.Needs != "lab" || len(b.Steps) != 1 || len(b.Steps[0].Output) != 4 {
		t.Errorf("%+v", b)
	}
	for _, bad := range []string{"```console\n$ a\n", "```console\nout\n```\n", "```console\n```\n", "```\n"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		want, got string
		ok        bool
	}{
		{"", "", true},
		{"", "something", false},
		{"up 5m10s", "up 37s\n", true},
		{"up 5m10s", "down 5m10s", false},
		{"GEN  4  a up", "GEN 12       a up  ", true},
		{"12.5/31.0 ms", "9.25/104 ms", true},
		{"at 2026-01-31 12:00:01.123", "at 2027-11-01 09:59:59.001", true},
		{"first\n...\nlast", "first\nlast", true},
		{"first\n...\nlast", "first\na\nb\nlast\n", true},
		{"first\n...\nlast", "first\na\nb\n", false},
		{"...\nlast", "last\nlast", true},
		{"reason: ... copied", "reason: guest copied", true},
		{"reason: ... copied", "reason: guest moved", false},
		{"a\nb", "a", false},
		{"a", "a\nb", false},
		{"a+b (c)", "a+b (c)", true},
		{"a+b", "aab", false},
		{"guest1: x", "guest2: x", true},
		{"20 MiB in 12345 frames", "980 B in 7 frames", false},
	} {
		err := Match(strings.Split(tt.want, "\n"), tt.got)
		if (err == nil) != tt.ok {
			t.Errorf("%q against %q: %v", tt.want, tt.got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	blocks, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	run := func(c string) (string, int, error) {
		if c == "colod version" {
			return "colod 7.0.1\n", 0, nil
		}
		return "colod: unknown\n", 2, nil
	}
	if err := Check(blocks[0], run); err != nil {
		t.Error(err)
	}
	wrong := func(string) (string, int, error) { return "colod 7.0.1\n", 0, nil }
	if err := Check(blocks[0], wrong); err == nil || !strings.Contains(err.Error(), "line 8: colod frob: exit status 0, want 2") {
		t.Errorf("%v", err)
	}
}
