package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

const stamp = "2006-01-02 15:04:05.000"

// WriteList writes reports as a table, one line each.
func WriteList(w io.Writer, all []*Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NUMBER\tTIME (UTC)\tREASON\tCAUSE\tWHERE\tBYTE\tHELD\tSTOP")
	for _, r := range all {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Number, r.Time.UTC().Format(stamp), Clean(r.Reason, 40), Clean(r.Cause.words(), 80),
			Clean(r.Flow.where(), 60), r.Position.words(), us(r.Timing.HeldUS), r.Checkpoint.words())
	}
	return tw.Flush()
}

// words is the cause in a line.
func (c *Cause) words() string {
	s := c.Title
	if c.Field != "" && !strings.Contains(s, c.Field) {
		s += " " + c.Field
	}
	if !c.Sure {
		s += " (likely)"
	}
	return s
}

func (p *Position) words() string {
	switch {
	case !p.Exact:
		return "-"
	case !p.Absolute:
		return fmt.Sprintf("+%d", p.Stream)
	}
	return fmt.Sprint(p.Stream)
}

func (c *Checkpoint) words() string {
	if c == nil {
		return "-"
	}
	return fmt.Sprintf("%.1fms/%d", c.StopMS, c.SharedBy)
}

func us(n int64) string {
	return (time.Duration(n) * time.Microsecond).Round(10 * time.Microsecond).String()
}

// WriteText writes one report in full.
func WriteText(w io.Writer, r *Report) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", name, Clean(fmt.Sprintf(format, args...), 2*maxText))
	}
	fmt.Fprintf(&b, "report %d: %s\n", r.Number, Clean(r.Cause.words(), 200))
	line("found", "%s on node %s, pair %s, generation %d, epoch %d", r.Time.UTC().Format(stamp), r.Node, r.Pair, r.Generation, r.Epoch)
	if r.Flow.Text != "" {
		line("connection", "%s%s", r.Flow.Text, in(r.Flow.Service))
	}
	line("reason", "%s%s", r.Reason, colon(r.Detail))
	if p := &r.Position; p.Exact {
		from := "of the connection"
		if !p.Absolute {
			from = "since the comparison of this connection began"
		}
		if r.Flow.Kind != "tcp" {
			from = "of the compared part"
		}
		line("position", "byte %d %s, byte %d of the primary's frame", p.Stream, from, p.Frame)
	} else if p.Length > 0 {
		line("position", "somewhere in %d bytes from sequence number %d on", p.Length, p.Seq)
	}
	if r.Timing.Primary != nil {
		line("primary", "spoke at %s, held for %s", r.Timing.Primary.UTC().Format(stamp+"000"), us(r.Timing.HeldUS))
	}
	if r.Timing.Secondary != nil {
		line("secondary", "last spoke in it at %s by its own clock", r.Timing.Secondary.UTC().Format(stamp+"000"))
	}
	if c := r.Checkpoint; c != nil {
		line("checkpoint", "%d: guest stopped %.2f ms, %.2f ms in all, %d bytes, asked for %.2f ms after, shared by %d", c.Number, c.StopMS, c.CostMS,
			c.Bytes, c.DelayMS, c.SharedBy)
	}
	if r.Rule != "" {
		line("tolerance", "rule %s had hidden a difference in this connection before: it may hide too much", r.Rule)
	}
	if len(r.LeftOut) > 0 {
		line("left out", "before this: %s", countWords(r.LeftOut))
	}
	line("advice", "%s", r.Cause.Advice)
	if r.Bytes != nil {
		writeDump(&b, r.Bytes)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func in(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func countWords(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d (%s)", m[k], k))
	}
	return strings.Join(parts, ", ")
}

// writeDump writes both sides one below the other, with the differing bytes marked between them.
func writeDump(b *strings.Builder, x *Bytes) {
	if x.Payload != string(PayloadFull) {
		fmt.Fprintf(b, "  %-12s %s\n", "bytes", "written as "+Clean(x.Payload, 20))
	}
	for _, l := range dump(x, 40) {
		if l.Skipped > 0 {
			fmt.Fprintf(b, "      ... %d lines alike\n", l.Skipped)
		}
		if l.Primary == nil {
			continue
		}
		for i, side := range [2][]dumpByte{l.Primary, l.Secondary} {
			fmt.Fprintf(b, "  %c %+6d  ", "PS"[i], l.Offset)
			for _, d := range side {
				b.WriteString(d.hex() + " ")
			}
			b.WriteString(" |")
			for _, d := range side {
				b.WriteByte(d.text())
			}
			b.WriteString("|\n")
			if i == 1 {
				continue
			}
			marks, any := "", false
			for j := range side {
				if side[j].Differs || l.Secondary[j].Differs {
					marks, any = marks+"^^ ", true
				} else {
					marks += "   "
				}
			}
			if any {
				fmt.Fprintf(b, "            %s\n", strings.TrimRight(marks, " "))
			}
		}
	}
}

// WriteSummary writes a summary as text.
func WriteSummary(w io.Writer, s *Summary) error {
	fmt.Fprintf(w, "pair %s, %s to %s (%.2f hours): %d divergences, %.0f ms of standstill\n", Clean(s.Pair, 64), s.From.UTC().Format(stamp),
		s.To.UTC().Format(stamp), s.Hours, s.Total.Count, s.Total.StopMS)
	if len(s.LeftOut) > 0 {
		fmt.Fprintf(w, "without a report: %s\n", countWords(s.LeftOut))
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CAUSE\tCOUNT\tPER HOUR\tSTOP/h\tSTATE/h\tWHERE\tEXAMPLE")
	for _, c := range s.Causes {
		fmt.Fprintf(tw, "%s\t%d\t%.1f\t%.0f ms\t%s\t%s\t%d\n", Clean(c.Cause.words(), 60), c.Cost.Count, c.Cost.PerHour.Count, c.Cost.PerHour.StopMS,
			size(c.Cost.PerHour.Bytes), Clean(strings.Join(c.Flows, ", "), 80), c.Sample)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, c := range s.Causes[:min(len(s.Causes), 5)] {
		fmt.Fprintf(w, "\n%s: %s\n", Clean(c.Cause.words(), 60), c.Cause.Advice)
	}
	for _, r := range s.Rules {
		fmt.Fprintf(w, "\ntolerance %s: %d divergences followed what it hid, such as report %d; it may hide too much\n", Clean(r.Rule, 64), r.Followed, r.Sample)
	}
	return nil
}

// WriteSuggestions writes suggestions as text that can be pasted into the configuration.
func WriteSuggestions(w io.Writer, all []Suggestion) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "# no tolerance would have helped, as far as the reports show")
		return err
	}
	fmt.Fprintln(w, "tolerances:")
	for _, s := range all {
		fmt.Fprintf(w, "  # would have saved %d divergences and %.0f ms of standstill (%.0f ms an hour); reports %s\n", s.Saves.Count, s.Saves.StopMS,
			s.Saves.PerHour.StopMS, strings.Trim(fmt.Sprint(s.Reports), "[]"))
		if s.Warning != "" {
			fmt.Fprintf(w, "  # beware: %s\n", s.Warning)
		}
		if _, err := fmt.Fprintf(w, "  %s\n", Clean(s.Rule, 400)); err != nil {
			return err
		}
	}
	return nil
}

func size(n float64) string {
	for _, u := range []struct {
		name string
		n    float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.n {
			return fmt.Sprintf("%.1f %s", n/u.n, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", n)
}
