package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"

	"colod/coordinator"
	"colod/internal/termsafe"
)

// terminal reports whether the output goes to a person's terminal.
func (c *cli) terminal() bool {
	f, ok := c.out.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// printStatus writes the status as a table for people, and what the table has
// no room for below it.
func printStatus(w io.Writer, st *coordinator.NodeStatus) {
	fmt.Fprintf(w, "node %s, colod %s, up %s\n\n", termsafe.Line(st.Node), termsafe.Line(st.Version), age(st.Since))
	if len(st.Pairs) == 0 {
		fmt.Fprintln(w, "no pairs")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PAIR\tSTATE\tROLE\tSPEAKER\tPEER\tGEN\tCHECKPOINTS\tSTOP p50/p99\tSINCE")
	for _, p := range st.Pairs {
		stop := "-"
		if q := p.Checkpoints.PauseMS; q.P99 > 0 {
			stop = fmt.Sprintf("%s/%s ms", figure(q.P50), figure(q.P99))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", termsafe.Line(p.Pair), termsafe.Line(p.State), termsafe.Line(p.Role),
			orNone(termsafe.Line(p.Speaker)), peerWord(p.Peer), p.Generation, p.Checkpoints.Count, stop, age(p.Since))
	}
	tw.Flush()
	for _, p := range st.Pairs {
		fmt.Fprintf(w, "\n%s: %s\n", termsafe.Line(p.Pair), termsafe.Line(p.Reason))
		if p.Released.Frames > 0 {
			fmt.Fprintf(w, "  released: %s in %d frames (%d agreed, %d covered, %d alone), delay p50 %s us, p99 %s us\n", size(p.Released.Bytes),
				p.Released.Frames, p.Released.Agreed, p.Released.Covered, p.Released.Alone, figure(p.HoldUS.P50), figure(p.HoldUS.P99))
		}
		if len(p.Checkpoints.Reasons) > 0 {
			fmt.Fprintf(w, "  checkpoints: %s\n", counts(p.Checkpoints.Reasons))
		}
		if p.Divergences.Count > 0 {
			fmt.Fprintf(w, "  divergences: %s\n", counts(p.Divergences.ByReason))
		}
		if d := p.Divergences.Last; d != nil {
			at := ""
			if d.Exact {
				at = fmt.Sprintf(" at byte %d", d.Position)
			}
			fmt.Fprintf(w, "  last divergence: %s, %s%s\n", termsafe.Line(d.Reason), termsafe.Line(d.Flow), at)
		}
	}
	printSupervision(w, st.Supervision)
}

// peerWord is the other node and whether it answers; loud if it does not.
func peerWord(p coordinator.Peer) string {
	switch {
	case p.Node == "":
		return "none"
	case p.Up:
		return termsafe.Line(p.Node) + " up"
	}
	return termsafe.Line(p.Node) + " DOWN"
}

// age is the time since t, as short as makes sense; "-" if t is not known.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := max(time.Since(t), 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// figure writes a number with as many digits as mean something.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func counts(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], termsafe.Line(k)))
	}
	return strings.Join(parts, ", ")
}

func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
