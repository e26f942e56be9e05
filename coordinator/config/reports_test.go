package config

import (
	"strings"
	"testing"
)

// TestTolerances: rules as they are written, and each mistake with its place and cure.
func TestTolerances(t *testing.T) {
	rules, err := ParseTolerances("t.yaml", []byte(`tolerances:
  - {name: date, port: 80, header: Date}
  - {name: build, port: 8080, pattern: '"build":"([0-9a-f]{8})"'}
  - {name: chatter, protocol: udp, port: 1900, uncompared: true}
  - {name: out, peer_port: 443, header: Date}
`))
	if err != nil || len(rules) != 4 || rules[1].Pattern == nil || !rules[2].Uncompared || rules[3].PeerPort != 443 {
		t.Fatalf("%+v %v", rules, err)
	}
	for text, want := range map[string]string{
		"tolerances:\n  - {name: a, port: 80}\n":                                                        "exactly one of",
		"tolerances:\n  - {name: a, header: Date}\n":                                                    "a port is needed",
		"tolerances:\n  - {name: a, port: 80, uncompared: true}\n":                                      "only udp",
		"tolerances:\n  - {name: a, port: 80, pattern: '('}\n":                                          "cannot be read",
		"tolerances:\n  - {name: a, port: 80, pattern: 'abc'}\n":                                        "0 groups",
		"tolerances:\n  - {name: a, port: 80, pattern: '(.*)'}\n":                                       "matches nothing",
		"tolerances:\n  - {name: 'a b', port: 80, header: Date}\n":                                      "no name for a rule",
		"tolerances:\n  - {name: a, port: 80, header: Date}\n  - {name: a, port: 81, header: Date}\n":   "used twice",
		"tolerances:\n  - {name: a, port: 99999, header: Date}\n":                                       "out of range",
		"tolerances:\n  - {name: a, port: 80, pattern: '" + strings.Repeat("x", maxPattern) + "(y)'}\n": "more than",
		"other: 1\n": "other",
	} {
		if _, err := ParseTolerances("t.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "t.yaml:") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
