package main

import (
	"fmt"
	"regexp"
	"strings"
)

// help is the content of one --help text.
type help struct {
	about    string // what stands before the first section
	usage    string
	examples string
	commands []command
	flags    []option
}

type command struct{ name, about string }

type option struct{ spec, about string }

var (
	commandLine = regexp.MustCompile(`^  (\S+)\s+(\S.*)$`)
	// A flag, its value's name if any, then at least two blanks, then the sentence.
	flagLine = regexp.MustCompile(`^\s+((?:-\w, )?--[\w-]+(?: \S+)?)\s{2,}(\S.*)$`)
)

// parseHelp takes a help text of colod apart. Lines that belong to no known
// section are part of the description.
func parseHelp(text string) help {
	var h help
	var about, usage, examples []string
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		switch line {
		case "Usage:", "Examples:", "Available Commands:", "Flags:", "Global Flags:":
			section = line
			continue
		}
		if strings.HasPrefix(line, `Use "colod`) {
			continue // the way to more help; SEE ALSO takes its place
		}
		switch section {
		case "":
			about = append(about, line)
		case "Usage:":
			if line != "" {
				usage = append(usage, strings.TrimSpace(line))
			}
		case "Examples:":
			examples = append(examples, strings.TrimPrefix(line, "  "))
		case "Available Commands:":
			if m := commandLine.FindStringSubmatch(line); m != nil {
				h.commands = append(h.commands, command{m[1], m[2]})
			}
		default:
			if m := flagLine.FindStringSubmatch(line); m != nil {
				h.flags = append(h.flags, option{m[1], m[2]})
			}
		}
	}
	h.about = strings.TrimSpace(strings.Join(about, "\n"))
	h.usage = strings.Join(usage, "\n")
	h.examples = strings.TrimSpace(strings.Join(examples, "\n"))
	return h
}

// page is the manual page in the man(7) macros; about is its one-line summary.
func page(name, about, day string, h help) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line(`.TH %s 1 %s colod "User Commands"`, strings.ToUpper(name), day)
	line(".SH NAME")
	line(`%s \- %s`, name, escape(about))
	line(".SH SYNOPSIS")
	line(".nf")
	line("%s", escape(h.usage))
	line(".fi")
	line(".SH DESCRIPTION")
	line("%s", strings.ReplaceAll(escape(h.about), "\n\n", "\n.PP\n"))
	if len(h.commands) > 0 {
		line(".SH COMMANDS")
		for _, c := range h.commands {
			line(".TP\n.B %s\n%s", escape(c.name), escape(c.about))
		}
	}
	if len(h.flags) > 0 {
		line(".SH OPTIONS")
		for _, f := range h.flags {
			line(".TP\n.B %s\n%s", escape(f.spec), escape(f.about))
		}
	}
	if h.examples != "" {
		line(".SH EXAMPLES\n.nf\n%s\n.fi", escape(h.examples))
	}
	var also []string
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		also = append(also, name[:i])
	}
	for _, c := range h.commands {
		if c.name != "help" && c.name != "completion" {
			also = append(also, name+"-"+c.name)
		}
	}
	if len(also) > 0 {
		line(".SH SEE ALSO")
		for i, a := range also {
			comma := ","
			if i == len(also)-1 {
				comma = ""
			}
			line(".BR %s (1)%s", escape(a), comma)
		}
	}
	return b.String()
}

// escape keeps text from being read as a request: backslashes and dashes, and
// dots and quotes that begin a line.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
