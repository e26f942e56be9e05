package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/internal/report"
)

// reportFlags choose reports and where they come from.
type reportFlags struct {
	dir          string
	since, until string
	last         int
}

func (f *reportFlags) add(c *cli, cmd *cobra.Command) {
	c.socketFlag(cmd)
	cmd.Flags().StringVar(&f.dir, "dir", "", "read this directory of reports instead of asking the daemon")
	cmd.Flags().StringVar(&f.since, "since", "", "from this time on: 2026-01-31T12:00:00Z, or how long ago, such as 2h")
	cmd.Flags().StringVar(&f.until, "until", "", "before this time, in the same form")
	cmd.Flags().IntVar(&f.last, "last", 0, "only the newest so many")
}

func (f *reportFlags) filter(now time.Time) (report.Filter, error) {
	out := report.Filter{Last: f.last}
	if f.last < 0 {
		return out, usageError(errors.New("--last must not be negative"))
	}
	for _, t := range []struct {
		name, text string
		to         *time.Time
	}{{"since", f.since, &out.Since}, {"until", f.until, &out.Until}} {
		if t.text == "" {
			continue
		}
		if ago, err := time.ParseDuration(t.text); err == nil && ago >= 0 {
			*t.to = now.Add(-ago)
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return out, usageError(fmt.Errorf("--%s %q is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 2h", t.name, t.text))
		}
		*t.to = at
	}
	return out, nil
}

// read calls fn with the chosen reports of the pair that args name, or the only one.
func (f *reportFlags) read(ctx context.Context, c *cli, args []string, filter report.Filter, fn func(*report.Report) error) error {
	if f.dir != "" {
		if len(args) > 0 {
			return usageError(errors.New("--dir names the reports already; leave the pair out"))
		}
		st, err := os.Stat(f.dir)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("%s is no directory", f.dir)
		}
		if err != nil {
			return fmt.Errorf("read reports: %w", err)
		}
		skipped, err := report.Read(f.dir, filter, fn)
		if skipped > 0 {
			fmt.Fprintf(c.err, "colod: %d reports of another version are left out\n", skipped)
		}
		return err
	}
	name, err := c.onePair(ctx, args)
	if err != nil {
		return err
	}
	return reached(c.client().Reports(ctx, name, filter, fn))
}

func (f *reportFlags) all(ctx context.Context, c *cli, args []string) ([]*report.Report, report.Filter, error) {
	filter, err := f.filter(time.Now())
	if err != nil {
		return nil, filter, err
	}
	var all []*report.Report
	err = f.read(ctx, c, args, filter, func(r *report.Report) error {
		all = append(all, r)
		return nil
	})
	return all, filter, err
}

func (c *cli) reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show why the two copies of a guest diverged, and what it cost",
		Long: `Report shows the divergences of a pair: where the two copies of the guest said different
bytes, why, which checkpoint that caused and what it cost. Reports are kept on the node that
speaks, in state_dir/reports, within the bounds of the key reports of the configuration.`,
		Example: `  colod report list --last 20
  colod report show 17
  colod report summary --since 24h
  colod report suggest
  colod report export --format html -o divergences.html`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.reportList(), c.reportShow(), c.reportExport(), c.reportSummary(), c.reportSuggest(), c.reportStats())
	return cmd
}

func (c *cli) reportList() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   "list [PAIR]",
		Short: "List divergences, one a line",
		Example: `  colod report list guest1 --last 20
  colod report list --since 2h --json`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, _, err := f.all(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			if c.json {
				return c.jsonLines(all)
			}
			return report.WriteList(c.out, all)
		},
	}
	f.add(c, cmd)
	return cmd
}

// jsonLines writes one report a line.
func (c *cli) jsonLines(all []*report.Report) error {
	enc := json.NewEncoder(c.out)
	for _, r := range all {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) reportShow() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:     "show NUMBER [PAIR]",
		Short:   "Show one divergence in full, with both sides' bytes",
		Example: `  colod report show 17`,
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || n == 0 {
				return usageError(fmt.Errorf("%q is not the number of a report; colod report list shows them", args[0]))
			}
			var found *report.Report
			err = f.read(cmd.Context(), c, args[1:], report.Filter{Number: n}, func(r *report.Report) error {
				found = r
				return nil
			})
			switch {
			case err != nil:
				return err
			case found == nil:
				return fmt.Errorf("there is no report %d; it may have been removed because of reports.max_size or max_age", n)
			case c.json:
				c.printJSON(found)
				return nil
			}
			return report.WriteText(c.out, found)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().StringVar(&f.dir, "dir", "", "read this directory of reports instead of asking the daemon")
	return cmd
}

func (c *cli) reportExport() *cobra.Command {
	var f reportFlags
	var format, path string
	cmd := &cobra.Command{
		Use:   "export [PAIR]",
		Short: "Write divergences to a file: text, json, html or pcapng",
		Long: `Export writes divergences in one of four formats:

  text    each in full
  json    one object a line, by docs/report-schema.json
  html    one page that needs nothing else and opens offline
  pcapng  a capture of two interfaces, primary and secondary, with comments, for Wireshark`,
		Example: `  colod report export --format html -o divergences.html
  colod report export --format pcapng -o divergences.pcapng --since 1h`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write := map[string]func(io.Writer, []*report.Report, report.Filter) error{"text": exportText, "json": exportJSON, "html": exportHTML,
				"pcapng": func(w io.Writer, all []*report.Report, _ report.Filter) error { return report.WritePcapng(w, all) }}[format]
			if write == nil {
				return usageError(fmt.Errorf("--format %q is not known; use text, json, html or pcapng", format))
			}
			all, filter, err := f.all(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			if path == "" || path == "-" {
				return write(c.out, all, filter)
			}
			out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return fmt.Errorf("export reports: %w", err)
			}
			if err := errors.Join(write(out, all, filter), out.Close()); err != nil {
				return fmt.Errorf("export reports: %w", err)
			}
			if c.json {
				c.printJSON(map[string]any{"file": path, "format": format, "reports": len(all)})
				return nil
			}
			_, err = fmt.Fprintf(c.out, "%d divergences written to %s\n", len(all), path)
			return err
		},
	}
	f.add(c, cmd)
	cmd.Flags().StringVar(&format, "format", "text", "text, json, html or pcapng")
	cmd.Flags().StringVarP(&path, "output", "o", "", "file to write, readable by its owner only; without it standard output")
	return cmd
}

func exportText(w io.Writer, all []*report.Report, _ report.Filter) error {
	for i, r := range all {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := report.WriteText(w, r); err != nil {
			return err
		}
	}
	return nil
}

func exportJSON(w io.Writer, all []*report.Report, _ report.Filter) error {
	enc := json.NewEncoder(w)
	for _, r := range all {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func exportHTML(w io.Writer, all []*report.Report, f report.Filter) error {
	return report.WriteHTML(w, all, report.Summarize(all, f.Since, f.Until))
}

func (c *cli) reportSummary() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:     "summary [PAIR]",
		Short:   "Say which causes cost how much in an hour",
		Example: `  colod report summary --since 24h`,
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, filter, err := f.all(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			s := report.Summarize(all, filter.Since, filter.Until)
			if c.json {
				c.printJSON(s)
				return nil
			}
			return report.WriteSummary(c.out, s)
		},
	}
	f.add(c, cmd)
	return cmd
}

func (c *cli) reportSuggest() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   "suggest [PAIR]",
		Short: "Propose tolerances, with what each would have saved",
		Long: `Suggest reads the divergences and prints tolerances for the configuration, with what each would
have saved and what it risks. A tolerance hides a difference from colod, not from the guest: what
the two copies think differently stays different until the next checkpoint.`,
		Example: `  colod report suggest --since 24h`,
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, _, err := f.all(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			s := report.Suggest(all)
			if c.json {
				c.printJSON(map[string]any{"version": report.Version, "suggestions": s})
				return nil
			}
			return report.WriteSuggestions(c.out, s)
		},
	}
	f.add(c, cmd)
	return cmd
}

func (c *cli) reportStats() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stats [PAIR]",
		Short:   "Count reports written and left out, and uses of tolerances",
		Example: `  colod report stats guest1 --json`,
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := c.onePair(cmd.Context(), args)
			if err != nil {
				return err
			}
			st, err := c.client().ReportStats(cmd.Context(), name)
			if err != nil {
				return reached(err)
			}
			if c.json {
				c.printJSON(st)
				return nil
			}
			return printReportStats(c.out, st)
		},
	}
	c.socketFlag(cmd)
	return cmd
}

func printReportStats(w io.Writer, st *coordinator.ReportStats) error {
	r := &st.Reports
	fmt.Fprintf(w, "divergences %d, reports %d, on disk %s\n", r.Found, r.Written, size(r.Bytes))
	if len(r.LeftOut) > 0 {
		fmt.Fprintf(w, "without a report: %s\n", counts(r.LeftOut))
	}
	if len(r.ByCause) > 0 {
		fmt.Fprintf(w, "causes: %s\n", counts(r.ByCause))
	}
	if r.Full {
		fmt.Fprintln(w, "the last report could not be written: is the disk full?")
	}
	for _, t := range st.Tolerances {
		doubt := ""
		if t.Followed > 0 {
			doubt = fmt.Sprintf("; %d divergences followed in the same connections: it may hide too much", t.Followed)
		}
		fmt.Fprintf(w, "tolerance %s: %d uses, %d bytes%s\n", t.Name, t.Uses, t.Bytes, doubt)
	}
	return nil
}
