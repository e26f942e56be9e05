package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
)

func (c *cli) statusCommand() *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status [PAIR]",
		Short: "Show where this node's pairs stand, and why",
		Example: `  colod status
  colod status guest1 --json
  colod status --watch`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return c.watchStatus(cmd.Context(), args, every)
			}
			st, err := c.fetchStatus(cmd.Context(), args)
			if err != nil {
				return err
			}
			return c.showStatus(st)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two looks with --watch")
	return cmd
}

func (c *cli) fetchStatus(ctx context.Context, args []string) (*coordinator.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := c.client().Status(ctx)
	if err != nil {
		return nil, reached(err)
	}
	if len(args) == 1 {
		st.Pairs = slices.DeleteFunc(st.Pairs, func(p coordinator.PairStatus) bool { return p.Pair != args[0] })
		if len(st.Pairs) == 0 {
			return nil, fmt.Errorf("node %s has no pair %q", st.Node, args[0])
		}
	}
	return st, nil
}

func (c *cli) showStatus(st *coordinator.NodeStatus) error {
	if c.json {
		c.printJSON(st)
		return nil
	}
	printStatus(c.out, st)
	return nil
}

// watchStatus repeats the status; with JSON one object a line.
func (c *cli) watchStatus(ctx context.Context, args []string, every time.Duration) error {
	if every < 10*time.Millisecond {
		return usageError(errors.New("--interval must be at least 10ms"))
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		st, err := c.fetchStatus(ctx, args)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: that is how it ends
		case err != nil:
			return err
		case c.json:
			if err := json.NewEncoder(c.out).Encode(st); err != nil {
				return err
			}
		default:
			fmt.Fprint(c.out, "\x1b[H\x1b[2J")
			printStatus(c.out, st)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func printStatus(w io.Writer, st *coordinator.NodeStatus) {
	fmt.Fprintf(w, "node %s, colod %s, up %s\n\n", st.Node, st.Version, time.Since(st.Since).Round(time.Second))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PAIR\tSTATE\tROLE\tSPEAKER\tGEN\tPEER\tCHECKPOINTS\tPAUSE p50/p99\tRELEASED\tSINCE")
	for _, p := range st.Pairs {
		up := p.Peer.Node + " up"
		if !p.Peer.Up {
			up = p.Peer.Node + " DOWN"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%.1f/%.1f ms\t%s\t%s\n", p.Pair, p.State, p.Role, orNone(p.Speaker), p.Generation, up,
			p.Checkpoints.Count, p.Checkpoints.PauseMS.P50, p.Checkpoints.PauseMS.P99, size(p.Released.Bytes), time.Since(p.Since).Round(time.Second))
	}
	tw.Flush()
	for _, p := range st.Pairs {
		fmt.Fprintf(w, "\n%s: %s\n", p.Pair, p.Reason)
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
			fmt.Fprintf(w, "  last divergence: %s, %s%s\n", d.Reason, d.Flow, at)
		}
	}
}

func counts(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
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

func (c *cli) eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "Show changes of state as they happen",
		Example: `  colod events --json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			err := c.client().Events(ctx, func(e coordinator.Event) error {
				if c.json {
					return json.NewEncoder(c.out).Encode(e)
				}
				_, err := fmt.Fprintf(c.out, "%s  %s  %s -> %s (%s, generation %d): %s\n", e.Time.Format("15:04:05.000"), e.Pair, e.From, e.State, e.Role, e.Generation, e.Reason)
				return err
			})
			if ctx.Err() != nil {
				return nil // interrupted: that is how it ends
			}
			return reached(err)
		},
	}
	c.socketFlag(cmd)
	return cmd
}
