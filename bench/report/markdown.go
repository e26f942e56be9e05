package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// intro says what all figures have in common.
const intro = "Written by `make bench`, which makes every figure below on the machine that it runs on. Values are medians over the rounds; in brackets the lowest and the highest round, and " +
	"where there are enough of them the 99th percentile. A ratio is the median of the rounds' ratios, both systems measured in turn in the same round. Ratios carry over to other machines, " +
	"absolute figures do not."

// Markdown writes the report of all results. plots are their pictures by result, which it refers to as dir/NAME.
func Markdown(w io.Writer, results []*Result, dir string, plots map[*Result][]Plot) error {
	var b strings.Builder
	b.WriteString("# Benchmarks of colod\n\n" + intro + "\n")
	goals := false
	for _, r := range results {
		for _, g := range r.Goals {
			if !goals {
				b.WriteString("\n| benchmark | figure | wanted | measured | |\n|---|---|---|---|---|\n")
				goals = true
			}
			fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s %s | %s |\n", r.Name, anchor(r.Title), g.Text, g.Bound(), number(g.Got), g.Unit, g.verdict())
		}
	}
	for _, r := range results {
		r.markdown(&b, dir, plots[r])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// anchor is a heading's name in a link, as the usual viewers make it.
func anchor(title string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == ' ':
			return '-'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			return c
		}
		return -1
	}, strings.ToLower(title))
}

func (g *Goal) verdict() string {
	if g.Reached {
		return "reached"
	}
	return "**missed**"
}

// Bound is the figure that is wanted.
func (g Goal) Bound() string {
	sign := "at least "
	if g.Most {
		sign = "at most "
	}
	return strings.TrimSpace(sign + number(g.Want) + " " + g.Unit)
}

// where says when and on what the result was measured.
func (r *Result) where() string {
	m := &r.Machine
	kind := "machine"
	if m.Virtual {
		kind = "virtual machine"
	}
	return fmt.Sprintf("%s, %d rounds, %.0f s; %s with %d CPUs (%s), %.1f GiB; Linux %s, %s, QEMU %s, colod %s; load %.1f before, %.1f after.",
		r.Start.UTC().Format("2006-01-02 15:04 UTC"), r.Rounds, r.Seconds, kind, m.CPUs, m.CPU, float64(m.Memory)/(1<<30), m.Kernel, m.Go, m.QEMU,
		m.Revision, m.LoadFrom, m.LoadTo)
}

func (r *Result) markdown(b *strings.Builder, dir string, plots []Plot) {
	fmt.Fprintf(b, "\n## %s\n\n", r.Title)
	if r.Quick {
		b.WriteString("**A quick run: it shows that the benchmark works and no more.**\n\n")
	}
	b.WriteString(r.where() + "\n\n")
	for _, p := range r.How {
		b.WriteString(p + "\n\n")
	}
	for _, p := range plots {
		fmt.Fprintf(b, "![%s](%s/%s)\n\n", p.Title, dir, p.Name)
	}
	for _, c := range r.Cases {
		fmt.Fprintf(b, "### %s\n\n| |", c.Name)
		for _, s := range c.Systems {
			fmt.Fprintf(b, " %s |", s.Name)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(c.Systems)) + "\n")
		for _, row := range c.rows() {
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		}
		b.WriteByte('\n')
	}
	if len(r.Limits) > 0 {
		b.WriteString("What the figures do not say:\n\n")
		for _, p := range r.Limits {
			b.WriteString("- " + p + "\n")
		}
	}
}

// rows are the lines of a case's table: the figure, and what each system has of it.
func (c *Case) rows() [][]string {
	var names []string
	units := map[string]string{}
	for _, s := range c.Systems {
		for _, f := range s.Values {
			if _, ok := units[f.Name]; !ok {
				names = append(names, f.Name)
				units[f.Name] = f.Unit
			}
		}
	}
	var out [][]string
	for _, n := range names {
		head := n
		if units[n] != "" {
			head += ", " + units[n]
		}
		row := []string{head}
		for _, s := range c.Systems {
			row = append(row, s.cell(n))
		}
		out = append(out, row)
	}
	return out
}

func (s *System) cell(name string) string {
	for _, f := range s.Values {
		if f.Name != name {
			continue
		}
		t := number(f.Median)
		if len(f.Rounds) > 1 && f.Min != f.Max {
			t += fmt.Sprintf(" [%s..%s]", number(f.Min), number(f.Max))
		}
		if f.P99 != nil {
			t += fmt.Sprintf(" p99 %s", number(*f.P99))
		}
		if f.Ratio != 0 {
			t += fmt.Sprintf(" = **%s** x", number(f.Ratio))
		}
		return t
	}
	return ""
}

// number writes three significant digits.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a == 0:
		return "0"
	case a >= 1e5:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + " " + s[i:]
		}
		return s
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
