package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"colod/compare"
	"colod/coordinator/config"
	"colod/internal/record"
	"colod/internal/report"
)

func (c *cli) replayCommand() *cobra.Command {
	var tolerances string
	var list bool
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Run a recording through the comparison again",
		Long: `Replay gives a recording to the comparison again, as fast as it goes. Without options each answer is
compared with the recorded one; exit code 1 says that one was another.

With --tolerances it uses the rules of that file (a YAML file with the key tolerances, as in the
configuration) instead of those that were in force, and shows what they would have changed.`,
		Example: `  colod replay guest1.rec
  colod replay guest1.rec --tolerances try.yaml --list`,
		Args: rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			var opt record.Options
			if tolerances != "" {
				data, err := os.ReadFile(tolerances)
				if err != nil {
					return usageError(fmt.Errorf("read tolerances: %w", err))
				}
				if opt.Tolerances, err = config.ParseTolerances(tolerances, data); err != nil {
					return err
				}
				opt.Other = true
			}
			var found []*report.Report
			if list {
				opt.Diverged = func(at time.Time, d *compare.Divergence) {
					if d.Final {
						found = append(found, report.Of(d, at))
					}
				}
			}
			in, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			defer in.Close()
			res, err := record.Replay(in, opt)
			if err != nil {
				return fmt.Errorf("replay %s: %w", args[0], err)
			}
			for i, r := range found {
				r.Number, r.Node, r.Pair = uint64(i+1), res.Header.Node, res.Header.Pair
			}
			return c.showReplay(res, opt, found)
		},
	}
	cmd.Flags().StringVar(&tolerances, "tolerances", "", "file of tolerances to try instead of the recorded ones")
	cmd.Flags().BoolVar(&list, "list", false, "list the divergences of the replay")
	return cmd
}

func (c *cli) showReplay(res *record.Result, opt record.Options, found []*report.Report) error {
	if c.json {
		out := map[string]any{
			"pair": res.Header.Pair, "node": res.Header.Node, "started": res.Header.Started, "whole": res.Whole, "events": res.Events,
			"length_ms": res.Length.Milliseconds(), "took_ms": res.Took.Milliseconds(), "recorded": res.Recorded, "replayed": res.Replayed,
		}
		if !opt.Other {
			out["same"], out["first_difference"] = res.Same, res.First
		}
		if found != nil {
			out["divergences"] = found
		}
		c.printJSON(out)
	} else {
		fmt.Fprintf(c.out, "pair %s on node %s at %s: %s in %d events, replayed in %s, %.0f times as fast\n", report.Clean(res.Header.Pair, 64),
			report.Clean(res.Header.Node, 64), res.Header.Started.Format(time.RFC3339), res.Length.Round(time.Millisecond), res.Events,
			res.Took.Round(time.Millisecond), res.Length.Seconds()/max(res.Took.Seconds(), 1e-6))
		if !res.Whole {
			fmt.Fprintln(c.out, "the recording ended early; what is there was replayed")
		}
		row := func(name string, r *record.Run) {
			fmt.Fprintf(c.out, "%s %d frames released, %d divergences in %d epochs (%s), %d differences tolerated\n", name, r.Releases, r.Divergences,
				r.Needed, counts(r.ByReason), r.Tolerated)
		}
		row("recorded:", &res.Recorded)
		row("replayed:", &res.Replayed)
		for i, t := range opt.Tolerances {
			if i < len(res.Replayed.Rules) {
				u := res.Replayed.Rules[i]
				fmt.Fprintf(c.out, "tolerance %s: %d uses, %d bytes, followed by %d divergences\n", t.Name, u.Uses, u.Bytes, u.Followed)
			} else {
				fmt.Fprintf(c.out, "tolerance %s: not used\n", t.Name)
			}
		}
		if res.Unanswered > 0 {
			fmt.Fprintf(c.out, "%d questions for the secondary's bytes have no answer in the recording: those differences stay divergences\n", res.Unanswered)
		}
		if len(found) > 0 {
			fmt.Fprintln(c.out)
			if err := report.WriteList(c.out, found); err != nil {
				return err
			}
		}
	}
	if opt.Other || res.Same {
		if !c.json && !opt.Other {
			fmt.Fprintln(c.out, "every answer is the recorded one")
		}
		return nil
	}
	if !c.json {
		fmt.Fprintf(c.err, "colod: the answers differ: %s\n", res.First)
	}
	return &silentError{exitFailed}
}
