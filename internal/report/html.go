package report

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

//go:embed report.css
var styleSheet string

// Budget of the HTML page, in bytes. Together with what is fixed it stays well below 5 MiB.
const (
	rowBudget    = 2 << 20
	detailBudget = 2 << 20
	dumpLines    = 16
	buckets      = 96 // of the timeline
)

// WriteHTML writes reports as one page that needs nothing else: no script, no other file, no network. What does not
// fit the page's budget is counted in it: the newest reports are in the table, and for each cause the newest ones are
// shown with their bytes.
func WriteHTML(w io.Writer, all []*Report, s *Summary) error {
	p := &page{}
	p.b.WriteString("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n")
	p.b.WriteString(`<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">` + "\n")
	p.b.WriteString(`<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">` + "\n")
	p.f("<title>colod: divergences of %s</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>", s.Pair)
	p.b.WriteString(styleSheet)
	p.b.WriteString("</style></head><body>\n")
	p.f("<h1>Divergences of pair %s</h1>\n", s.Pair)
	p.f("<p class=\"lead\">%s to %s UTC (%s hours): <b>%s</b> divergences, <b>%s ms</b> of standstill, %s of state sent.",
		s.From.UTC().Format(stamp), s.To.UTC().Format(stamp), fmt.Sprintf("%.2f", s.Hours), fmt.Sprint(s.Total.Count),
		fmt.Sprintf("%.0f", s.Total.StopMS), size(s.Total.Bytes))
	if len(s.LeftOut) > 0 {
		p.f(" Without a report: %s.", countWords(s.LeftOut))
	}
	p.b.WriteString("</p>\n")
	p.timeline(all, s)
	p.causes(s)
	p.rules(s)
	shown := p.details(all)
	p.table(all, shown)
	p.b.WriteString("<footer>Made by colod report export --format html. Positions count bytes of the stream from the client's side; " +
		"a + means: since comparison of this connection began.</footer></body></html>\n")
	_, err := io.WriteString(w, p.b.String())
	return err
}

type page struct{ b strings.Builder }

// f writes a format of HTML whose arguments are text: each is made harmless.
func (p *page) f(format string, args ...string) {
	safe := make([]any, len(args))
	for i, a := range args {
		safe[i] = html.EscapeString(Clean(a, 2*maxText))
	}
	fmt.Fprintf(&p.b, format, safe...)
}

// hues are the colours of the dearest causes.
var hues = []string{"c0", "c1", "c2", "c3", "c4", "c5"}

func hue(s *Summary, c *Cause) string {
	for i := range s.Causes {
		if s.Causes[i].Cause.Kind == c.Kind && s.Causes[i].Cause.Field == c.Field {
			return hues[min(i, len(hues)-1)]
		}
	}
	return hues[len(hues)-1]
}

// timeline draws how many divergences there were when, stacked by cause.
func (p *page) timeline(all []*Report, s *Summary) {
	span := s.To.Sub(s.From)
	if len(all) == 0 || span <= 0 {
		return
	}
	var counts [buckets]map[string]int
	most := 1
	for _, r := range all {
		i := min(int(int64(r.Time.Sub(s.From))*buckets/int64(span+1)), buckets-1)
		if i < 0 {
			continue
		}
		if counts[i] == nil {
			counts[i] = map[string]int{}
		}
		counts[i][hue(s, &r.Cause)]++
		n := 0
		for _, c := range counts[i] {
			n += c
		}
		most = max(most, n)
	}
	p.f("<h2>Timeline</h2>\n<svg viewBox=\"0 0 960 130\" role=\"img\" aria-label=\"divergences over time, at most %s in %s\">\n", fmt.Sprint(most),
		(span / buckets).Round(time.Millisecond).String())
	for i := range counts {
		y := 110.0
		for _, h := range hues {
			n := counts[i][h]
			if n == 0 {
				continue
			}
			height := 100 * float64(n) / float64(most)
			y -= height
			fmt.Fprintf(&p.b, `<rect class="%s" x="%d" y="%.1f" width="9" height="%.1f"/>`, h, i*10, y, height)
		}
	}
	p.f("\n<line x1=\"0\" y1=\"110\" x2=\"960\" y2=\"110\"/><text x=\"0\" y=\"126\">%s</text><text x=\"960\" y=\"126\" text-anchor=\"end\">%s</text>"+
		"<text x=\"0\" y=\"8\">%s in %s</text></svg>\n", s.From.UTC().Format(stamp), s.To.UTC().Format(stamp), fmt.Sprint(most), (span / buckets).Round(time.Millisecond).String())
}

func (p *page) causes(s *Summary) {
	p.b.WriteString("<h2>Causes</h2>\n<table><thead><tr><th>Cause<th>Count<th>Per hour<th>Standstill<th>Per hour<th>State per hour<th>Where<th>What to do</tr></thead><tbody>\n")
	for i := range s.Causes {
		c := &s.Causes[i]
		if i == 50 {
			p.f("<tr><td colspan=8>%s further causes</tr>", fmt.Sprint(len(s.Causes)-i))
			break
		}
		p.f("<tr><td><i class=\"%s\"></i>%s<td class=n>%s<td class=n>%s<td class=n>%s ms<td class=n>%s ms<td class=n>%s<td>%s<td class=\"adv\">%s</tr>\n", hue(s, &c.Cause),
			c.Cause.words(), fmt.Sprint(c.Cost.Count), fmt.Sprintf("%.1f", c.Cost.PerHour.Count), fmt.Sprintf("%.0f", c.Cost.StopMS),
			fmt.Sprintf("%.0f", c.Cost.PerHour.StopMS), size(c.Cost.PerHour.Bytes), strings.Join(clean(c.Flows, 60), ", "), c.Cause.Advice)
	}
	p.b.WriteString("</tbody></table>\n")
}

// clean cuts each of the words to n bytes.
func clean(words []string, n int) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = Clean(w, n)
	}
	return out
}

func (p *page) rules(s *Summary) {
	for _, r := range s.Rules {
		p.f("<p class=\"warn\">Tolerance <b>%s</b>: %s divergences followed what it hid, such as report %s. It may hide too much.</p>\n", r.Rule,
			fmt.Sprint(r.Followed), fmt.Sprint(r.Sample))
	}
}

// details writes the newest reports of each cause in full, as many as fit, and returns which.
func (p *page) details(all []*Report) map[uint64]bool {
	shown := map[uint64]bool{}
	perCause := map[string]int{}
	var chosen []*Report
	for _, limit := range []int{3, 20, 1 << 20} { // some of each cause first
		for i := len(all) - 1; i >= 0 && len(chosen) < 400; i-- {
			r := all[i]
			k := r.Cause.Kind + "\x00" + r.Cause.Field
			if shown[r.Number] || perCause[k] >= limit {
				continue
			}
			perCause[k]++
			shown[r.Number] = true
			chosen = append(chosen, r)
		}
	}
	p.b.WriteString("<h2>Divergences in full</h2>\n")
	start := p.b.Len()
	for i, r := range chosen {
		if p.b.Len()-start > detailBudget {
			for _, r := range chosen[i:] {
				delete(shown, r.Number)
			}
			chosen = chosen[:i]
			break
		}
		p.detail(r, i == 0)
	}
	if left := len(all) - len(chosen); left > 0 {
		p.f("<p class=\"note\">%s more are in the table only; export them by number.</p>\n", fmt.Sprint(left))
	}
	return shown
}

func (p *page) detail(r *Report, open bool) {
	mark := ""
	if open {
		mark = " open"
	}
	fmt.Fprintf(&p.b, `<details id="r%d"%s>`, r.Number, mark)
	p.f("<summary><b>%s</b> %s <span>%s</span> %s</summary>\n<dl>", fmt.Sprint(r.Number), r.Cause.words(), r.Time.UTC().Format(stamp), r.Flow.where())
	row := func(name, value string) {
		if value != "" {
			p.f("<dt>%s<dd>%s", name, value)
		}
	}
	row("connection", r.Flow.Text+in(r.Flow.Service))
	row("reason", r.Reason+colon(r.Detail))
	if r.Position.Exact {
		row("position", fmt.Sprintf("byte %s of the stream, byte %d of the primary's frame", r.Position.words(), r.Position.Frame))
	}
	if t := r.Timing.Primary; t != nil {
		row("primary spoke", t.UTC().Format(stamp+"000")+", held "+us(r.Timing.HeldUS))
	}
	if t := r.Timing.Secondary; t != nil {
		row("secondary spoke", t.UTC().Format(stamp+"000")+" by its own clock")
	}
	if c := r.Checkpoint; c != nil {
		row("checkpoint", fmt.Sprintf("%d: guest stopped %.2f ms, %.2f ms in all, %s, shared by %d", c.Number, c.StopMS, c.CostMS, size(float64(c.Bytes)), c.SharedBy))
	}
	row("generation, epoch", fmt.Sprintf("%d, %d", r.Generation, r.Epoch))
	if r.Rule != "" {
		row("tolerance", r.Rule+" had hidden a difference before")
	}
	row("what to do", r.Cause.Advice)
	p.b.WriteString("</dl>\n")
	if r.Bytes != nil {
		p.dump(r.Bytes)
	}
	p.b.WriteString("</details>\n")
}

// dump writes both sides beside each other, with what differs marked.
func (p *page) dump(b *Bytes) {
	lines := dump(b, dumpLines)
	if len(lines) == 0 {
		return
	}
	if b.Payload != string(PayloadFull) {
		p.f("<p class=\"note\">payload: %s</p>", b.Payload)
	}
	p.b.WriteString("<pre><b>        primary" + strings.Repeat(" ", 3*dumpWidth+dumpWidth-5) + "secondary</b>\n")
	for _, l := range lines {
		if l.Skipped > 0 {
			fmt.Fprintf(&p.b, "        ... %d lines alike\n", l.Skipped)
		}
		if l.Primary == nil {
			continue
		}
		fmt.Fprintf(&p.b, "%+6d  ", l.Offset)
		p.side(l.Primary)
		p.b.WriteString("  ")
		p.side(l.Secondary)
		p.b.WriteByte('\n')
	}
	p.b.WriteString("</pre>\n")
}

func (p *page) side(side []dumpByte) {
	run := func(write func(dumpByte)) {
		on := false
		for _, d := range side {
			if d.Differs != on {
				if on = d.Differs; on {
					p.b.WriteString("<mark>")
				} else {
					p.b.WriteString("</mark>")
				}
			}
			write(d)
		}
		if on {
			p.b.WriteString("</mark>")
		}
	}
	run(func(d dumpByte) { p.b.WriteString(d.hex() + " ") })
	run(func(d dumpByte) { p.b.WriteString(html.EscapeString(string(rune(d.text())))) })
}

// table lists the reports, the newest first, as many as fit.
func (p *page) table(all []*Report, shown map[uint64]bool) {
	p.b.WriteString("<h2>All divergences</h2>\n<table class=\"all\"><thead><tr><th>No.<th>Time (UTC)<th>Reason<th>Cause<th>Where<th>Byte<th>Held<th>Stop</tr></thead><tbody>\n")
	start := p.b.Len()
	for i := len(all) - 1; i >= 0; i-- {
		r := all[i]
		if p.b.Len()-start > rowBudget {
			p.f("<tr><td colspan=8>%s older ones are left out here</tr>\n", fmt.Sprint(i+1))
			break
		}
		number := fmt.Sprint(r.Number)
		if shown[r.Number] {
			number = fmt.Sprintf(`<a href="#r%d">%d</a>`, r.Number, r.Number)
		}
		fmt.Fprintf(&p.b, "<tr><td class=n>%s", number)
		p.f("<td>%s<td>%s<td>%s<td>%s<td class=n>%s<td class=n>%s<td class=n>%s</tr>\n", r.Time.UTC().Format(stamp), Clean(r.Reason, 40), r.Cause.words(), Clean(r.Flow.where(), 60),
			r.Position.words(), us(r.Timing.HeldUS), r.Checkpoint.words())
	}
	p.b.WriteString("</tbody></table>\n")
}
