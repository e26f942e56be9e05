// Package transcript runs the commands that a document shows, and compares
// what they write with what the document says, so that no document shows what
// is not so.
//
// A transcript is a fenced block of Markdown whose language is console; a
// second word says what it needs, such as a lab. Lines that begin with "$ "
// are commands, what follows is their output:
//
//	```console lab
//	$ colod status
//	node a, colod 1.2, up 5m10s
//	...
//	```
//
// Figures, hashes and the width of columns need not be the same; words must.
// A line of three dots stands for any lines, three dots in a line for anything
// in it. A last line "[exit status N]" is the exit status; without it, 0.
package transcript

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Block is one transcript.
type Block struct {
	Line  int    // of the document, where it begins
	Needs string // what the second word of the fence says
	Steps []Step
}

// Step is a command with what it is to write.
type Step struct {
	Line    int
	Command string
	Output  []string
	Exit    int
}

// Parse finds a document's transcripts.
func Parse(markdown string) ([]Block, error) {
	var blocks []Block
	var b *Block
	fence := false // of another kind
	n := 0
	for line := range strings.Lines(markdown) {
		n++
		line = strings.TrimRight(line, " \n")
		switch {
		case b == nil && !fence && strings.HasPrefix(line, "```"):
			lang, needs, _ := strings.Cut(line[3:], " ")
			if lang != "console" {
				fence = true
				continue
			}
			b = &Block{Line: n, Needs: strings.TrimSpace(needs)}
		case fence && line == "```":
			fence = false
		case fence || b == nil:
		case line == "```":
			if len(b.Steps) == 0 {
				return nil, fmt.Errorf("line %d: a transcript without a command", b.Line)
			}
			for i := range b.Steps {
				b.Steps[i].finish()
			}
			blocks, b = append(blocks, *b), nil
		case strings.HasPrefix(line, "$ "):
			b.Steps = append(b.Steps, Step{Line: n, Command: line[2:]})
		case len(b.Steps) == 0:
			return nil, fmt.Errorf("line %d: output without a command", n)
		default:
			s := &b.Steps[len(b.Steps)-1]
			s.Output = append(s.Output, line)
		}
	}
	if b != nil || fence {
		return nil, errors.New("a fence is not closed")
	}
	return blocks, nil
}

func (s *Step) finish() {
	if n := len(s.Output); n > 0 {
		if _, err := fmt.Sscanf(s.Output[n-1], "[exit status %d]", &s.Exit); err == nil {
			s.Output = s.Output[:n-1]
		}
	}
}

// Run runs a command and returns all that it wrote and its exit status.
type Run func(command string) (output string, exit int, err error)

// Check runs all steps of a block, and returns the first difference.
func Check(b Block, run Run) error {
	for _, s := range b.Steps {
		out, exit, err := run(s.Command)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", s.Line, s.Command, err)
		}
		if exit != s.Exit {
			return fmt.Errorf("line %d: %s: exit status %d, want %d; it wrote\n%s", s.Line, s.Command, exit, s.Exit, out)
		}
		if err := Match(s.Output, out); err != nil {
			return fmt.Errorf("line %d: %s: %w; it wrote\n%s", s.Line, s.Command, err, out)
		}
	}
	return nil
}

// Match compares an output with what a document shows of it.
func Match(want []string, got string) error {
	var lines []string
	for l := range strings.Lines(got) {
		lines = append(lines, strings.TrimRight(l, " \r\n"))
	}
	trim := func(s []string) []string {
		for len(s) > 0 && s[len(s)-1] == "" {
			s = s[:len(s)-1]
		}
		return s
	}
	want, lines = trim(want), trim(lines)
	if at, ok := match(want, lines); !ok {
		if at < len(want) {
			return fmt.Errorf("there is no line %q where it is to be", want[at])
		}
		return errors.New("there are more lines than shown")
	}
	return nil
}

// match reports whether the lines are as wanted, and else how far they are.
func match(want, lines []string) (int, bool) {
	// reach[j] says whether the first i wanted lines can be the first j lines.
	reach := make([]bool, len(lines)+1)
	reach[0] = true
	for i, w := range want {
		next := make([]bool, len(lines)+1)
		some := false
		if strings.TrimSpace(w) == "..." {
			on := false
			for j := range reach {
				on = on || reach[j]
				next[j], some = on, some || on
			}
		} else {
			re := pattern(w)
			for j := range lines {
				if reach[j] && re.MatchString(normal(lines[j])) {
					next[j+1], some = true, true
				}
			}
		}
		if !some {
			return i, false
		}
		reach = next
	}
	return len(want), reach[len(lines)]
}

var (
	spaces = regexp.MustCompile(`[ \t]+`)
	// figure is a number, a duration, a date, a size, or digits of a hash.
	figure = regexp.MustCompile(`[0-9]+(?:[.,:][0-9]+)*(?:(?:h|m|s|ms|us|d|k|M|G)[0-9]*)*(?:[0-9a-f]*[0-9][0-9a-f]*)?\b`)
)

func normal(s string) string { return strings.TrimSpace(spaces.ReplaceAllString(s, " ")) }

// pattern makes an expression of a line in which figures may be others.
func pattern(line string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	for i, part := range strings.Split(normal(line), "...") {
		if i > 0 {
			b.WriteString(".*")
		}
		last := 0
		for _, at := range figure.FindAllStringIndex(part, -1) {
			b.WriteString(regexp.QuoteMeta(part[last:at[0]]))
			b.WriteString(`[0-9][0-9a-zA-Z.,:]*`)
			last = at[1]
		}
		b.WriteString(regexp.QuoteMeta(part[last:]))
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String())
}
