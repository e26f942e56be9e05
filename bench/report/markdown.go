package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// Markdown writes the report of all results.
func Markdown(w io.Writer, results []*Result) error {
	var b strings.Builder
	b.WriteString("# Benchmarks of colod\n\n")
	b.WriteString("Written by `go run ./bench/cmd/bench`, which makes every figure below on the machine that it runs on. Values are medians over the\n" +
		"rounds; in brackets the lowest and the highest round. A ratio is the median of the rounds' ratios, both systems measured in turn in\n" +
		"the same round. Ratios carry over to other machines, absolute figures do not.\n")
	for _, r := range results {
		r.markdown(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Result) markdown(b *strings.Builder) {
	m := &r.Machine
	fmt.Fprintf(b, "\n## %s\n\n", r.Title)
	if r.Quick {
		b.WriteString("**A quick run: it shows that the benchmark works and no more.**\n\n")
	}
	kind := "machine"
	if m.Virtual {
		kind = "virtual machine"
	}
	fmt.Fprintf(b, "%s, %d rounds, %.0f s; %s with %d CPUs (%s), %.1f GiB; Linux %s, %s, QEMU %s, colod %s; load %.1f before, %.1f after.\n\n",
		r.Start.UTC().Format("2006-01-02 15:04 UTC"), r.Rounds, r.Seconds, kind, m.CPUs, m.CPU, float64(m.Memory)/(1<<30), m.Kernel, m.Go, m.QEMU,
		m.Revision, m.LoadFrom, m.LoadTo)
	for _, p := range r.How {
		b.WriteString(p + "\n\n")
	}
	if len(r.Goals) > 0 {
		b.WriteString("| wanted | | measured | |\n|---|---|---|---|\n")
		for _, g := range r.Goals {
			verdict := "reached"
			if !g.Reached {
				verdict = "**missed**"
			}
			fmt.Fprintf(b, "| %s | %s %s | %s %s | %s |\n", g.Text, number(g.Want), g.Unit, number(g.Got), g.Unit, verdict)
		}
		b.WriteByte('\n')
	}
	for _, c := range r.Cases {
		fmt.Fprintf(b, "### %s\n\n| |", c.Name)
		for _, s := range c.Systems {
			fmt.Fprintf(b, " %s |", s.Name)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(c.Systems)) + "\n")
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
		for _, n := range names {
			fmt.Fprintf(b, "| %s, %s |", n, units[n])
			for _, s := range c.Systems {
				b.WriteString(" " + s.cell(n) + " |")
			}
			b.WriteByte('\n')
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

func (s *System) cell(name string) string {
	for _, f := range s.Values {
		if f.Name != name {
			continue
		}
		t := number(f.Median)
		if len(f.Rounds) > 1 && f.Min != f.Max {
			t += fmt.Sprintf(" [%s..%s]", number(f.Min), number(f.Max))
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
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
