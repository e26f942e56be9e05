package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `Stop asks the guest to shut down. It
takes a while.

.Without PAIR it stops the daemon.

Usage:
  colod stop [PAIR] [flags]
  colod stop [command]

Examples:
  colod stop guest1
  colod stop --now

Available Commands:
  later       Stop later
  help        Help about any command

Flags:
      --grace duration     how long it may take (default: vm.grace)
  -h, --help               help for stop
      --now                end the guest at once

Global Flags:
      --json   print JSON, errors too

Use "colod stop [command] --help" for more information about a command.
`

func TestParseHelp(t *testing.T) {
	want := help{
		about:    "Stop asks the guest to shut down. It\ntakes a while.\n\n.Without PAIR it stops the daemon.",
		usage:    "colod stop [PAIR] [flags]\ncolod stop [command]",
		examples: "colod stop guest1\ncolod stop --now",
		commands: []command{{"later", "Stop later"}, {"help", "Help about any command"}},
		flags: []option{
			{"--grace duration", "how long it may take (default: vm.grace)"}, {"-h, --help", "help for stop"},
			{"--now", "end the guest at once"}, {"--json", "print JSON, errors too"},
		},
	}
	if diff := cmp.Diff(want, parseHelp(sample), cmp.AllowUnexported(help{}, command{}, option{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestPage(t *testing.T) {
	p := page("colod-stop", "End a guest", "2026-01-02", parseHelp(sample))
	for _, want := range []string{
		".TH COLOD-STOP 1 2026-01-02 colod \"User Commands\"\n",
		"colod-stop \\- End a guest\n",
		"\n.PP\n\\&.Without PAIR",
		".TP\n.B \\-\\-grace duration\nhow long",
		".SH SEE ALSO\n.BR colod (1),\n.BR colod\\-stop\\-later (1)\n",
	} {
		if !strings.Contains(p, want) {
			t.Errorf("page lacks %q:\n%s", want, p)
		}
	}
}

func TestParseDate(t *testing.T) {
	for in, want := range map[string]string{"@0": "1970-01-01", "2026-11-21": "2026-11-21", "@x": "", "yesterday": ""} {
		got, err := parseDate(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}
