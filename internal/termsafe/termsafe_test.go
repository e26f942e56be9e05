package termsafe

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"pair guest1 is protected: payload differs", "pair guest1 is protected: payload differs"},
		{"größer → 東京 \u2265", "größer → 東京 \u2265"},
		{"", ""},
		{"\x1b[2J\x1b]0;title\x07", `\x1b[2J\x1b]0;title\x07`},
		{"a\nb\r\tc\x7f", `a\nb\r\tc\x7f`},
		{"\u009b31m", `\u009b31m`},
		{"abc\u202edef\u2066", `abc\u202edef\u2066`},
		{"\xff\xfe", `\xff\xfe`},
		{"zero\u200bwidth\ufeff", `zero\u200bwidth\ufeff`},
		{"e\u0301", `e\u0301`},
		{"nb\u00a0sp\u2028", `nb\u00a0sp\u2028`},
		{"\U000e0041", `\U000e0041`},
	} {
		if got := Line(tt.in); got != tt.want {
			t.Errorf("Line(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.IsMark(r) {
				t.Fatalf("%q holds %U", got, r)
			}
		}
		for n := range 10 {
			if w := Width(Cut(got, n)); w > n {
				t.Fatalf("%q cut to %d has %d columns", got, n, w)
			}
		}
	})
}

func TestCut(t *testing.T) {
	if got := Cut("protected", 5); got != "prot…" {
		t.Errorf("got %q", got)
	}
	if got := Cut("東京東京", 5); got != "東京…" {
		t.Errorf("got %q", got)
	}
	if got := Cut(strings.Repeat("x", 5), 5); got != "xxxxx" {
		t.Errorf("got %q", got)
	}
}
