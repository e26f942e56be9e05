package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"colod/coordinator"
	"colod/internal/termsafe"
)

// screen draws what colod top shows; it knows no terminal.
type screen struct {
	width, height  int // columns and lines; height 0: as many as it takes
	color, unicode bool

	status   *coordinator.NodeStatus
	err      error     // of the last look; what was seen before stays
	seen     time.Time // last good look
	points   map[string][]coordinator.Point
	causes   map[string]map[string]uint64
	selected string // name of a pair
}

// topKept is how many points of a pair the screen keeps: more than the widest graph shows.
const topKept = 900

// take brings in what a look at the daemon brought.
func (m *topModel) take(l topLook) {
	m.err = l.err
	if l.err != nil {
		return
	}
	m.status, m.seen = l.status, time.Now()
	points := map[string][]coordinator.Point{}
	for _, p := range l.status.Pairs {
		all := m.points[p.Pair]
		for _, pt := range l.series[p.Pair] {
			if n := len(all); n > 0 && pt.ID <= all[n-1].ID {
				all = nil // another colod counts anew
			}
			all = append(all, pt)
		}
		points[p.Pair] = all[max(0, len(all)-topKept):]
	}
	m.points, m.causes = points, l.causes
	if m.want != "" && m.has(m.want) {
		m.selected, m.want = m.want, ""
	}
	if !m.has(m.selected) && len(l.status.Pairs) > 0 {
		m.selected = l.status.Pairs[0].Pair
	}
}

func (s *screen) has(pair string) bool {
	return s.status != nil && slices.ContainsFunc(s.status.Pairs, func(p coordinator.PairStatus) bool { return p.Pair == pair })
}

// move selects another pair.
func (s *screen) move(by int) {
	if s.status == nil || len(s.status.Pairs) == 0 {
		return
	}
	i := slices.IndexFunc(s.status.Pairs, func(p coordinator.PairStatus) bool { return p.Pair == s.selected })
	i = min(max(i+by, 0), len(s.status.Pairs)-1)
	s.selected = s.status.Pairs[i].Pair
}

// Colours, as SGR parameters (ECMA-48).
const (
	bold    = "1"
	faint   = "2"
	reverse = "7"
	red     = "31"
	green   = "32"
	yellow  = "33"
	cyan    = "36"
)

func (s *screen) paint(sgr, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

// cell is text of a fixed width; below zero it is set to the right.
func cell(text string, width int) string {
	w := max(width, -width)
	text = termsafe.Cut(termsafe.Line(text), w)
	pad := strings.Repeat(" ", w-termsafe.Width(text))
	if width < 0 {
		return pad + text
	}
	return text + pad
}

// render draws the whole screen. No line is wider than the width, and with a
// height there are no more lines.
func (s *screen) render(now time.Time) string {
	width := max(s.width, 20)
	var lines []string
	add := func(line string) { lines = append(lines, line) }
	head := "colod top"
	if st := s.status; st != nil {
		head += fmt.Sprintf("  node %s  %s  up %s", st.Node, st.Version, age(st.Since))
	}
	clock := now.Format("15:04:05")
	add(s.paint(bold, cell(head, width-len(clock)-1)+" "+clock))
	if s.err != nil {
		add(s.paint(red+";"+bold, cell(fmt.Sprintf("not answering since %s: %v", s.seen.Format("15:04:05"), s.err), width)))
	} else {
		add("")
	}
	if s.status == nil || len(s.status.Pairs) == 0 {
		add(cell("no pairs", width))
		return s.finish(lines, width)
	}
	// At least the detail's lines stay free; of many pairs those around the selected one are shown.
	rows := len(s.status.Pairs)
	if s.height > 0 {
		rows = min(rows, max(1, s.height-20), max(1, s.height-4))
	}
	at := max(0, slices.IndexFunc(s.status.Pairs, func(p coordinator.PairStatus) bool { return p.Pair == s.selected }))
	first := min(max(0, at-rows/2), len(s.status.Pairs)-rows)
	nameWidth := max(8, min(24, width-69))
	add(s.paint(faint, cell(cell("PAIR", nameWidth)+" STATE         ROLE      MODE     FRAMES/s    DELAY     STOP LINK B/s", width)))
	for i := first; i < first+rows; i++ {
		add(s.row(&s.status.Pairs[i], nameWidth, width, i == at))
	}
	if rows < len(s.status.Pairs) {
		add(s.paint(faint, cell(fmt.Sprintf("pairs %d to %d of %d", first+1, first+rows, len(s.status.Pairs)), width)))
	}
	add("")
	lines = append(lines, s.detail(&s.status.Pairs[at], width)...)
	return s.finish(lines, width)
}

// finish cuts to the height and adds the last line.
func (s *screen) finish(lines []string, width int) string {
	if s.height == 0 {
		for i, l := range lines {
			lines[i] = strings.TrimRight(l, " ")
		}
		return strings.Join(lines, "\n") + "\n"
	}
	if s.height == 1 {
		return lines[0]
	}
	body := s.height - 1
	lines = lines[:min(len(lines), body)]
	for len(lines) < body {
		lines = append(lines, "")
	}
	return strings.Join(append(lines, s.paint(faint, cell("up/down select a pair   q quit", width))), "\n")
}

func (s *screen) row(p *coordinator.PairStatus, nameWidth, width int, selected bool) string {
	var frames, link float64
	delay, stop := "-", "-"
	if last, ok := s.last(p.Pair); ok {
		frames, link = last.Frames, last.LinkIn+last.LinkOut
		if last.DelayP99 > 0 {
			delay = micros(last.DelayP99)
		}
	}
	if pts := s.points[p.Pair]; len(pts) > 0 {
		for _, pt := range pts[max(0, len(pts)-60):] { // of the last minute
			if pt.StopP50 > 0 {
				stop = micros(pt.StopP50 * 1000)
			}
		}
	}
	state := s.paint(stateColor(p.State), cell(p.State, 13))
	if selected && s.color {
		state = cell(p.State, 13)
	}
	mark := cell(p.Pair, nameWidth)
	rest := fmt.Sprintf(" %s %s %s %s %s %s", cell(p.Role, 9), cell(p.Mode, 8), cell(amount(frames), -8), cell(delay, -8), cell(stop, -8), cell(amount(link), -8))
	if over := nameWidth + 1 + 13 + len(rest) - width; over > 0 {
		rest = rest[:max(0, len(rest)-over)]
	}
	line := mark + " " + state + rest
	if selected {
		return s.paint(reverse, line)
	}
	return line
}

func (s *screen) last(pair string) (coordinator.Point, bool) {
	pts := s.points[pair]
	if len(pts) == 0 {
		return coordinator.Point{}, false
	}
	return pts[len(pts)-1], true
}

func stateColor(state string) string {
	switch state {
	case "protected", "checkpointing":
		return green
	case "solo", "syncing", "standby":
		return yellow
	case "stopped", "idle":
		return faint
	}
	return red
}

// detail is the part about the selected pair.
func (s *screen) detail(p *coordinator.PairStatus, width int) []string {
	lines := []string{
		s.paint(bold, cell(fmt.Sprintf("%s: speaker %s, standby %s, generation %d, other node %s", p.Pair, orNone(p.Speaker), orNone(p.Standby), p.Generation, peerWord(p.Peer)), width)),
		cell(fmt.Sprintf("%s for %s: %s", p.State, age(p.Since), p.Reason), width),
		"",
	}
	pts := s.points[p.Pair]
	graph := func(name string, value func(coordinator.Point) float64, show func(float64) string) {
		room := min(max(width-33, 5), 120)
		vals := make([]float64, 0, room)
		for _, pt := range pts[max(0, len(pts)-room):] {
			vals = append(vals, value(pt))
		}
		now, top := 0.0, 0.0
		for _, v := range vals {
			now, top = v, max(top, v)
		}
		lines = append(lines, cell(name, 13)+s.paint(cyan, s.spark(vals, room))+cell(show(now), -9)+s.paint(faint, cell(" max "+show(top), max(0, min(11, width-22-room)))))
	}
	us := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return micros(v)
	}
	graph("released/s", func(p coordinator.Point) float64 { return p.Frames }, amount)
	graph("hold p99", func(p coordinator.Point) float64 { return p.HoldP99 }, us)
	graph("delay p99", func(p coordinator.Point) float64 { return p.DelayP99 }, us)
	graph("stop", func(p coordinator.Point) float64 { return p.StopMax * 1000 }, us)
	graph("checkpoints", func(p coordinator.Point) float64 { return float64(p.Checkpoints) }, amount)
	graph("link out B/s", func(p coordinator.Point) float64 { return p.LinkOut }, amount)
	graph("link in B/s", func(p coordinator.Point) float64 { return p.LinkIn }, amount)
	lines = append(lines, "")
	by := s.causes[p.Pair]
	if len(by) == 0 {
		by = p.Divergences.ByReason // no reports are written
	}
	lines = append(lines, s.bars("divergences", by, width)...)
	lines = append(lines, cell("checkpoints: "+orNone(counts(p.Checkpoints.Reasons)), width))
	return lines
}

// bars shows the greatest counts, a line each.
func (s *screen) bars(title string, by map[string]uint64, width int) []string {
	keys := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), cmp.Compare(a, b)) })
	if len(keys) == 0 {
		return []string{cell(title+": none", width)}
	}
	const shown = 3
	var lines []string
	room := max(width-13-20-9-2, 3)
	full := "#"
	if s.unicode {
		full = "█"
	}
	for i, k := range keys[:min(len(keys), shown)] {
		name := ""
		if i == 0 {
			name = title
		}
		n := int(float64(room) * float64(by[k]) / float64(by[keys[0]]))
		lines = append(lines, cell(name, 13)+cell(k, 20)+cell(fmt.Sprint(by[k]), -9)+"  "+s.paint(yellow, strings.Repeat(full, max(n, 1))))
	}
	if more := keys[min(len(keys), shown):]; len(more) > 0 {
		var n uint64
		for _, k := range more {
			n += by[k]
		}
		lines = append(lines, cell("", 13)+cell(fmt.Sprintf("%d more", len(more)), 20)+cell(fmt.Sprint(n), -9))
	}
	return lines
}

var (
	sparkUnicode = []rune(" ▁▂▃▄▅▆▇█")
	sparkASCII   = []rune(" .:-=+*%#")
)

// spark draws values in the room, the newest at the right, as high as the
// greatest of them.
func (s *screen) spark(vals []float64, room int) string {
	ramp := sparkASCII
	if s.unicode {
		ramp = sparkUnicode
	}
	top := 0.0
	for _, v := range vals {
		top = max(top, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", max(0, room-len(vals))))
	for _, v := range vals[max(0, len(vals)-room):] {
		i := 0
		if v > 0 && top > 0 {
			i = min(1+int(v/top*float64(len(ramp)-2)+0.5), len(ramp)-1)
		}
		b.WriteRune(ramp[i])
	}
	return b.String()
}

// amount writes a number in at most 7 columns, with decimal prefixes.
func amount(v float64) string {
	for _, p := range []struct {
		unit string
		size float64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if v >= 10*p.size {
			return fmt.Sprintf("%.0f%s", v/p.size, p.unit)
		}
		if v >= p.size {
			return fmt.Sprintf("%.1f%s", v/p.size, p.unit)
		}
	}
	return fmt.Sprintf("%.0f", v)
}

// micros writes microseconds in the unit that suits.
func micros(v float64) string {
	switch {
	case v >= 10e6:
		return fmt.Sprintf("%.0f s", v/1e6)
	case v >= 1e6:
		return fmt.Sprintf("%.1f s", v/1e6)
	case v >= 10e3:
		return fmt.Sprintf("%.0f ms", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.1f ms", v/1e3)
	}
	return fmt.Sprintf("%.0f us", v)
}
